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
import type { ChannelPlace } from "../../../lib/storage/channel.ts";
import type { ChannelOpener } from "../../../lib/storage/disk.ts";
import { DEFAULT_PLUGIN_SETTINGS, type PluginSettings } from "../../../lib/storage/plugin/settings.ts";
import type { PluginProcess } from "../../../lib/storage/plugin/types.ts";
import { ChannelRig } from "../../storage/rig.ts";

/** The path of a module for tests. */
export function testDisk(name: string): string {
  return new URL(`./disks/${name}`, import.meta.url).pathname;
}

/** Collects lines. */
export class Lines implements Logger {
  readonly all: string[] = [];
  readonly debug = (line: string): void => void this.all.push(line);
  readonly info = this.debug;
  readonly warning = this.debug;
  readonly error = this.debug;
}

/** A process, and a reactor. */
export class PluginRig implements AsyncDisposable {
  readonly disk: PluginProcess;
  readonly lines: Lines;
  readonly platform: Platform;
  readonly parker: Parker;
  readonly #token: WakeToken & Disposable;

  /** `disk` is a file of the folder disks, or an absolute path. */
  static async start(
    options: {
      readonly disk: string;
      readonly target?: string;
      readonly readOnly?: boolean;
      readonly settings?: Partial<PluginSettings>;
      readonly platform?: Platform;
    },
  ): Promise<PluginRig> {
    const { disk, target = "", readOnly = false, settings, platform = openNativePlatform() } = options;
    const log = new Lines();
    const process = await new NativePluginClient().start({
      name: "image plugin:test",
      module: disk.startsWith("/") ? disk : testDisk(disk),
      target,
      readOnly,
      settings: { ...DEFAULT_PLUGIN_SETTINGS, ...settings },
      log,
    });
    return new PluginRig(process, log, platform);
  }

  private constructor(disk: PluginProcess, lines: Lines, platform: Platform) {
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
    const { platform, parker, channels } = this;
    // A short sleep: what the control plane does in this thread's event loop goes on in between.
    return new ChannelRig(await this.disk.attachment(0), { platform, parker, open: channels });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disk[Symbol.asyncDispose]();
    this.parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
  }
}
