/**
 * What one rule of the disk contract has: a fresh disk, the thread that it is used in, and channels to it, opened as a
 * reactor opens them.
 */

import type { Platform } from "../hypervisor.ts";
import { createMachine } from "../sim/machine.ts";
import { openSimulatedPlatform } from "../sim/platform.ts";
import { type ChannelPlace, DiskModules } from "../storage/channel.ts";
import type { Disk, DiskAttachment, DiskProperties } from "../storage/disk.ts";
import { SECTOR_BYTES } from "../units.ts";
import { ChannelDriver, type ChannelDriverOptions } from "./channel_driver.ts";

/** A disk under the contract, and what its channels need. The suite disposes the disk, and then this. */
export interface ContractStage extends Partial<AsyncDisposable> {
  /** Holds zeroes; of the size that the contract names. */
  readonly disk: Disk;
  /** The hypervisor on which channels are opened. Absent: a simulated one, which has no descriptors to watch. */
  readonly platform?: Platform;
  /** The thread that opens channels, as reactor 0, if it must be this one. Absent: one is made on `platform`. */
  readonly place?: ChannelPlace;
  /**
   * Takes the disk's power away and returns it, while no channel is open: what was not flushed may be lost, whole or in
   * part. What it returns is awaited. See the trait `cutsPower`.
   */
  cutPower?(): unknown;
}

/** Opens drivers of channels to one disk. */
export class StageRig implements AsyncDisposable {
  readonly disk: Disk;
  readonly place: ChannelPlace;
  readonly #stage: ContractStage;
  readonly #modules: DiskModules;
  readonly #owned: DisposableStack;

  constructor(stage: ContractStage) {
    using undo = new DisposableStack();
    this.#stage = stage;
    this.disk = stage.disk;
    this.place = stage.place ?? placeOn(stage.platform ?? simulated(), undo);
    this.#modules = new DiskModules(this.place);
    this.#owned = undo.move();
  }

  get properties(): DiskProperties {
    return this.disk.properties;
  }

  /** The smallest unit of I/O, in bytes. */
  get unitBytes(): number {
    return this.properties.logicalSectorBytes;
  }

  get sizeBytes(): number {
    return this.properties.sectors * SECTOR_BYTES;
  }

  /** See {@linkcode ContractStage.cutPower}. */
  get canCutPower(): boolean {
    return this.#stage.cutPower !== undefined;
  }

  /** See {@linkcode ContractStage.cutPower}. */
  async cutPower(): Promise<void> {
    await this.#stage.cutPower!();
  }

  /** Opens a channel by an attachment that went through a message, as all do. */
  async driver(options: Partial<ChannelDriverOptions> = {}): Promise<ChannelDriver> {
    const attachment: DiskAttachment = structuredClone(await this.disk.attachment(0));
    await this.#modules.load(attachment);
    const { platform, parker } = this.place;
    const open: ChannelDriverOptions["open"] = (named, how) => this.#modules.openChannel(named, how);
    const openMemory = (named: DiskAttachment): ReturnType<DiskModules["openMemory"]> =>
      this.#modules.openMemory(named);
    return new ChannelDriver(attachment, { platform, parker, open, openMemory, ...options });
  }

  /** Whether the disk can have so many channels at a time. */
  takes(channels: number): boolean {
    return channels <= (this.properties.mostChannels ?? Infinity);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    using _owned = this.#owned;
    await this.disk[Symbol.asyncDispose]();
    await this.#stage[Symbol.asyncDispose]?.();
  }
}

/** Bytes of the simulated machine's memory: buffers for a few channels. */
const MACHINE_BYTES = 64 << 20;

function simulated(): Platform {
  return openSimulatedPlatform(createMachine({ memoryBytes: MACHINE_BYTES, domains: 2 }), 0);
}

function placeOn(platform: Platform, owned: DisposableStack): ChannelPlace {
  const token = owned.use(platform.createWakeToken());
  const parker = owned.use(platform.openParker(token, { withIo: true }));
  return { platform, parker, token };
}
