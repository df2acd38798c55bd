/**
 * What this process holds for one device: the open image, the rings that the data plane serves, and the counters,
 * which outlive both. Opening is all or nothing, and giving back goes from the rings to the image. It must not know
 * xenstore, nor decide when anything is opened.
 */

import { nonceText } from "../nonce.ts";
import { isAbort, unlessAborted } from "../abort.ts";
import { ABIS, ringSlots } from "../blkif/abi.ts";
import { createStats, type QueueStats, readStats } from "../dataplane/stats.ts";
import type { DataPlane, GrantMode, QueueHandle } from "../dataplane/types.ts";
import { XenblkError } from "../errors.ts";
import type { DomId, JournalStore } from "../hypervisor.ts";
import type { Clock } from "../clock.ts";
import type { Disk, DiskRequest } from "../storage/disk.ts";
import { type ImageLocks, lockImage } from "../storage/image/lock.ts";
import { parseImage } from "../storage/image/spec.ts";
import type { NodeValue } from "../xenbus/features.ts";
import type { FrontendParameters } from "../xenbus/negotiate.ts";
import type { DeviceDescription } from "./device_nodes.ts";
import { DeviceLatch } from "./device_latch.ts";
import { type ConnectionIdentity, DeviceJournals, keptNames, NONCE_NODE } from "./journals.ts";
import type { DeviceSettings } from "./settings.ts";

/** What the resources of a device are made from. */
export interface ResourceServices {
  /** Serves the rings. */
  readonly dataPlane: DataPlane;
  /** Opens an image, or rejects with the reason. */
  readonly openDisk: (request: DiskRequest) => Promise<Disk>;
  /** Keep others from an image while a guest uses it; absent: nobody is kept from anything. */
  readonly imageLocks?: ImageLocks;
  /** Bounds the wait for an image's lock. */
  readonly clock: Clock;
  /** Where the device's lock and latch are kept, and the journals of its rings. */
  readonly journals: JournalStore;
  /** Rings keep what they have taken. False: a crash loses it. */
  readonly keepJournals: boolean;
  /** How images are opened and rings are served. */
  readonly settings: DeviceSettings;
}

/** How the rings of a connection are served, as far as it is not the same for all connections. */
export interface RingOptions {
  /** The mode that both sides agreed to. */
  readonly grants: GrantMode;
  /** The device itself may read and write the guest's pages. */
  readonly directIoSafe: boolean;
  /** Tells this connection from those before it. */
  readonly connection: ConnectionIdentity;
  /** Discards are carried out. */
  readonly discard: boolean;
  /** Most segments of an indirect request; 0: none are carried out. */
  readonly maxIndirectSegments: number;
}

/** The open image and what it was opened for. */
interface OpenImage {
  readonly disk: Disk;
  readonly key: string;
  readonly shared: boolean;
}

/** Image, rings and counters of one device. Its calls must not overlap. */
export class DeviceResources {
  readonly #services: ResourceServices;
  readonly #label: string;
  readonly #guest: DomId;
  readonly #stopped: (reason: string) => void;
  readonly #signal: AbortSignal;
  readonly #stats: SharedArrayBuffer[] = [];
  readonly #journals: DeviceJournals;
  readonly #latch: DeviceLatch;
  #image: OpenImage | undefined;
  /** Held as long as there are rings: a guest that migrates opens its image at both ends, and uses it at one. */
  #lock: Disposable | undefined;
  #rings: readonly QueueHandle[] | undefined;

  /**
   * `stopped` hears of it when the data plane had to stop a ring that is still held. With the signal whatever is only
   * waited for while opening is given up, and rejects with the signal's reason.
   */
  constructor(
    services: ResourceServices,
    label: string,
    guest: DomId,
    stopped: (reason: string) => void,
    signal: AbortSignal,
  ) {
    this.#signal = signal;
    this.#services = services;
    this.#label = label;
    this.#guest = guest;
    this.#stopped = stopped;
    this.#journals = new DeviceJournals(services.journals, label, services.keepJournals);
    this.#latch = new DeviceLatch(services.journals, keptNames(label).latch);
  }

  /** The open image, or undefined. */
  get disk(): Disk | undefined {
    return this.#image?.disk;
  }

  /** The rings are held. */
  get connected(): boolean {
    return this.#rings !== undefined;
  }

  /** Counters of each ring the device ever had. */
  readStats(): QueueStats[] {
    return this.#stats.map(readStats);
  }

  /** A flush failed, under whichever process: writes are refused until the operator attaches the disk anew. */
  get latched(): boolean {
    return this.#latch.tripped;
  }

  /**
   * To be called before rings are opened, with what the node of the attachment's nonce says. Returns what it must say
   * before that, if it does not. Throws if no latch can be had.
   */
  openLatch(node: string | undefined): string | undefined {
    return this.#latch.open(node);
  }

  /** The attachment is over, and whatever was lost of it with it. */
  forgetLatch(): void {
    this.#latch.forget();
  }

  /** Makes the device this process's own. False: another process serves it. Throws if it cannot be found out. */
  own(): boolean {
    return this.#journals.own();
  }

  /** The opposite of {@linkcode own}, once everything is given back. */
  disown(): void {
    this.#latch[Symbol.dispose]();
    this.#journals.disown();
  }

  /** The image that the description asks for; another one that is open is closed first. Rejects with the reason. */
  async openImage(description: DeviceDescription): Promise<Disk> {
    const { settings, openDisk } = this.#services;
    const readOnly = description.readOnly || settings.readOnly;
    const { shared, directIoSafe } = description;
    const key = JSON.stringify([description.params, readOnly, shared, directIoSafe]);
    if (this.#image?.key === key) return this.#image.disk;
    await this.release();
    const { format, target } = parseImage(description.params);
    const { engine, cache } = settings;
    const request = { format, target, readOnly, engine, directIoSafe };
    const opening = openDisk(cache === undefined ? request : { ...request, cache });
    try {
      const disk = await unlessAborted(opening, this.#signal);
      this.#image = { disk, key, shared };
      return disk;
    } catch (error) {
      // One that is opened after all is nobody's; one that is not rejected with this very error, or is of no interest.
      if (isAbort(error)) opening.then((disk) => disk[Symbol.asyncDispose](), () => {});
      throw error;
    }
  }

  /**
   * Opens all rings that the frontend asks for, on the open image and with the open latch. Rejects with the reason, and
   * then holds none.
   */
  async openRings(disk: Disk, frontend: FrontendParameters, options: RingOptions): Promise<void> {
    const { dataPlane, settings } = this.#services;
    await this.closeRings();
    await this.#lockImage(disk);
    const { connection, ...rest } = options;
    const slots = frontend.queues.map(({ ringRefs }) => ringSlots(ABIS[frontend.abi], ringRefs.length));
    const journals = this.#journals.open(slots, connection);
    const results = await Promise.allSettled(frontend.queues.map((queue, number) =>
      dataPlane.openQueue({
        label: `${this.#label} queue ${number}`,
        guest: this.#guest,
        ringRefs: queue.ringRefs,
        eventChannel: queue.eventChannel,
        abi: frontend.abi,
        disk,
        ...rest,
        ...(journals === undefined ? {} : { journal: journals[number]! }),
        ...(settings.maxPersistentGrants === undefined ? {} : { maxPersistentGrants: settings.maxPersistentGrants }),
        ...(settings.maxRequests === undefined ? {} : { maxRequests: settings.maxRequests }),
        stats: this.#stats[number] ??= createStats(),
        latch: this.#latch.address,
      }, this.#signal)
    ));
    const rings = results.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
    this.#rings = rings;
    const failure = results.find((result) => result.status === "rejected");
    if (failure === undefined) return this.#listen(rings);
    await this.closeRings();
    throw failure.reason;
  }

  /**
   * Looks at the image's size again; rings take requests up to its new end then. Rejects with {@linkcode XenblkError} if
   * no image is open, or it cannot change or became smaller. Sizes are in 512-byte sectors.
   */
  async grow(): Promise<{ readonly before: number; readonly now: number }> {
    const disk = this.#image?.disk;
    if (disk?.grow === undefined) {
      throw new XenblkError(`Cannot resize ${disk?.description ?? this.#label}: only files and block devices change`);
    }
    const before = disk.properties.sectors;
    disk.grow();
    const { sectors: now } = disk.properties;
    if (now !== before) await Promise.all((this.#rings ?? []).map((ring) => ring.grow(now)));
    return { before, now };
  }

  /** The nodes by which the next process knows the connection again; none where no journals are kept. */
  identityNodes({ nonce }: ConnectionIdentity): NodeValue[] {
    return this.#services.keepJournals ? [[NONCE_NODE, nonceText(nonce)]] : [];
  }

  /** Finishes what is in flight and gives the rings back. */
  async closeRings(): Promise<void> {
    const rings = this.#rings ?? [];
    this.#rings = undefined;
    const results = await Promise.allSettled(rings.map((ring) => ring.close()));
    this.#journals.unmap();
    this.#lock?.[Symbol.dispose]();
    this.#lock = undefined;
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  /** Gives everything back, and forgets what the connection's rings had taken: its frontend is done with it. */
  async end(): Promise<void> {
    await this.release();
    this.#journals.forget();
  }

  /** Gives everything back. */
  async release(): Promise<void> {
    try {
      await this.closeRings();
    } finally {
      const image = this.#image;
      this.#image = undefined;
      await image?.disk[Symbol.asyncDispose]();
    }
  }

  /** Before anything is read or written, and before what a killed process left is carried out. */
  async #lockImage({ image, properties }: Disk): Promise<void> {
    const { imageLocks, clock } = this.#services;
    if (imageLocks === undefined || image === undefined) return;
    const use = { writes: !properties.readOnly, shared: this.#image?.shared ?? false, by: this.#label };
    this.#lock = await lockImage(imageLocks, image, use, clock, this.#signal);
  }

  #listen(rings: readonly QueueHandle[]): void {
    for (const ring of rings) {
      ring.stopped.then((reason) => {
        if (this.#rings === rings) this.#stopped(reason);
      });
    }
  }
}
