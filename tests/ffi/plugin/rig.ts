/**
 * A disk in TypeScript with its process, and this thread as a reactor that opens channels to it. No test is in here.
 */

import "../libraries.ts";
import { openChannel } from "../../../ffi/plugin/channel.ts";
import { NativePluginClient } from "../../../ffi/plugin/client.ts";
import type { PluginAttachment } from "../../../ffi/plugin/attachment.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";
import type { Parker, Platform, WakeToken } from "../../../lib/hypervisor.ts";
import type { Logger } from "../../../lib/log.ts";
import { SYSTEM_CLOCK } from "../../../lib/clock.ts";
import type { ChannelPlace } from "../../../lib/storage/channel.ts";
import type { ChannelOpener, Disk } from "../../../lib/storage/disk.ts";
import { DEFAULT_PLUGIN_SETTINGS, type PluginSettings } from "../../../lib/storage/plugin/settings.ts";
import type { PluginProcess } from "../../../lib/storage/plugin/types.ts";
import { openPluginDisk } from "../../../lib/storage/plugin_disk.ts";
import { ChannelRig } from "../../storage/rig.ts";

function modulePath(disk: string): string {
  return disk.startsWith("/") ? disk : new URL(`./disks/${disk}`, import.meta.url).pathname;
}

/** Collects lines. */
export class Lines implements Logger {
  readonly all: string[] = [];
  readonly debug = (line: string): void => void this.all.push(line);
  readonly info = this.debug;
  readonly warning = this.debug;
  readonly error = this.debug;
}

/** How a rig's disk is run. */
export interface RigOptions {
  /** A file of the folder disks, or an absolute path. */
  readonly disk: string;
  readonly target?: string;
  readonly readOnly?: boolean;
  readonly settings?: Partial<PluginSettings>;
  readonly platform?: Platform;
  /** How long the process may take to open its disk. */
  readonly startMs?: number;
}

/** A disk, and a reactor. */
export class PluginRig<D extends PluginProcess | Disk> implements AsyncDisposable {
  readonly disk: D;
  readonly lines: Lines;
  readonly platform: Platform;
  readonly parker: Parker;
  readonly #token: WakeToken & Disposable;

  /** A bare process. */
  static async start(options: RigOptions): Promise<PluginRig<PluginProcess>> {
    const { disk, target = "", readOnly = false, platform = openNativePlatform() } = options;
    const log = new Lines();
    const settings = { ...DEFAULT_PLUGIN_SETTINGS, ...options.settings };
    const base = { name: "image plugin:test", module: modulePath(disk), target, readOnly, settings, log };
    const client = new NativePluginClient(options.startMs === undefined ? {} : { startMs: options.startMs });
    return new PluginRig(await client.start(base), log, platform);
  }

  /** A disk that starts another process when one has ended. */
  static async open(options: RigOptions): Promise<PluginRig<Disk>> {
    const { disk, target = "", readOnly = false, platform = openNativePlatform() } = options;
    const log = new Lines();
    const settings = { ...DEFAULT_PLUGIN_SETTINGS, ...options.settings };
    const request = { format: "plugin", target: `${modulePath(disk)}?${target}`, readOnly, engine: "auto" } as const;
    const services = { plugins: new NativePluginClient(), settings, clock: SYSTEM_CLOCK, log };
    return new PluginRig(await openPluginDisk(request, services), log, platform);
  }

  private constructor(disk: D, lines: Lines, platform: Platform) {
    this.disk = disk;
    this.lines = lines;
    this.platform = platform;
    this.#token = platform.createWakeToken();
    this.parker = platform.openParker(this.#token);
  }

  /** Opens channels in this thread. */
  readonly channels: ChannelOpener = (attachment, options) =>
    openChannel(attachment as PluginAttachment, options, {
      parker: this.parker,
      platform: this.platform,
      token: this.#token,
    });

  /** This thread, as a reactor. */
  get place(): ChannelPlace {
    return { platform: this.platform, parker: this.parker, token: this.#token };
  }

  /** A channel with a buffer for each tag. */
  async channel(): Promise<ChannelRig> {
    const { platform, channels } = this;
    // Without a parker: what the control plane does in this thread's event loop must go on.
    return new ChannelRig(await this.disk.attachment(0), { platform, open: channels });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    using _token = this.#token;
    using _parker = this.parker;
    await this.disk[Symbol.asyncDispose]();
  }
}
