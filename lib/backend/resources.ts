/**
 * What this process holds for one device: its lock, the open image, the rings that the data plane serves, and what
 * outlives them: counters, journals and the latch. Closing goes from the rings to the image.
 */

import { isAbort, unlessAborted } from "../abort.ts";
import { ABIS, ringSlots } from "../blkif/abi.ts";
import type { Clock } from "../clock.ts";
import { createStats, type QueueStats, readStats } from "../dataplane/stats.ts";
import type { DataPlane, GrantMode, JournalSpec, QueueHandle } from "../dataplane/types.ts";
import { XenblkError } from "../errors.ts";
import type { DomId, JournalStore } from "../hypervisor.ts";
import type { Disk, DiskRequest } from "../storage/disk.ts";
import { type ImageLocks, lockImage } from "../storage/image/lock.ts";
import { parseImage } from "../storage/image/spec.ts";
import type { FrontendParameters } from "../xenbus/negotiate.ts";
import type { Ring } from "../xenbus/transitions.ts";
import { DeviceLatch } from "./device_latch.ts";
import { DeviceLock } from "./device_lock.ts";
import type { DeviceDescription } from "./device_nodes.ts";
import { type ConnectionIdentity, DeviceJournals, keptNames } from "./journals.ts";
import type { DeviceSettings } from "./settings.ts";

/** What the resources of a device are made from. */
export interface ResourceServices {
  /** Serves the rings. */
  readonly dataPlane: DataPlane;
  /** Opens an image, or rejects with the reason. */
  readonly openDisk: (request: DiskRequest) => Promise<Disk>;
  /** Locks images while a guest uses them; absent: images are not locked. */
  readonly imageLocks?: ImageLocks;
  /** Bounds the wait for an image's lock. */
  readonly clock: Clock;
  /** Where the device's lock and latch are kept, and the journals of its rings. */
  readonly journals: JournalStore;
  /** Rings have journals. False: a crash loses the requests in flight. */
  readonly keepJournals: boolean;
  /** How images are opened and rings are served. */
  readonly settings: DeviceSettings;
}

/** What was negotiated for a connection. */
export interface Connection {
  /** What the frontend asked for. */
  readonly frontend: FrontendParameters;
  /** The mode that both sides agreed to. */
  readonly grants: GrantMode;
  /** Why that is not the mode of the settings. */
  readonly grantsReason: string | undefined;
  /** The device itself may read and write the guest's pages. */
  readonly directIoSafe: boolean;
  /** Tells this connection from earlier ones. */
  readonly identity: ConnectionIdentity;
  /** Discards are carried out. */
  readonly discard: boolean;
  /** Most segments of an indirect request; 0: indirect requests are refused. */
  readonly maxIndirectSegments: number;
}

/** An image that is open, and what the toolstack says of it. */
export interface OpenImage {
  readonly disk: Disk;
  readonly description: DeviceDescription;
}

/** Lock, image, rings and counters of one device. Its calls must not overlap. */
export class DeviceResources {
  /** Makes the device this process's own. */
  readonly lock: DeviceLock;
  /** Outlives the process; open once rings are. */
  readonly latch: DeviceLatch;
  /** Of the rings. */
  readonly journals: DeviceJournals;
  readonly #services: ResourceServices;
  readonly #label: string;
  readonly #guest: DomId;
  readonly #ringStopped: () => void;
  readonly #signal: AbortSignal;
  readonly #stats: SharedArrayBuffer[] = [];
  #image: OpenImage & { readonly key: string } | undefined;
  /** Held as long as there are rings: a guest that migrates opens its image at both ends, and uses it at one. */
  #imageLock: AsyncDisposable | undefined;
  #rings: readonly QueueHandle[] = [];
  #ring: Ring = "none";
  #connection: Connection | undefined;
  #stopReason: string | undefined;

  /**
   * `ringStopped` is called when the data plane had to stop a ring that is still open. The signal ends all waiting while
   * something is opened, which then rejects with the signal's reason.
   */
  constructor(services: ResourceServices, label: string, guest: DomId, ringStopped: () => void, signal: AbortSignal) {
    this.#services = services;
    this.#label = label;
    this.#guest = guest;
    this.#ringStopped = ringStopped;
    this.#signal = signal;
    const { journals, keepJournals } = services;
    this.lock = new DeviceLock(journals, keptNames(label).lock);
    this.latch = new DeviceLatch(journals, keptNames(label).latch);
    this.journals = new DeviceJournals(journals, label, keepJournals);
  }

  /** The open image, if there is one. */
  get image(): OpenImage | undefined {
    return this.#image;
  }

  /** Where the rings stand. */
  get ring(): Ring {
    return this.#ring;
  }

  /** What was negotiated for the open rings. */
  get connection(): Connection | undefined {
    return this.#connection;
  }

  /** Rings are open. */
  get connected(): boolean {
    return this.#connection !== undefined;
  }

  /** Why the data plane stopped a ring. */
  get stopReason(): string | undefined {
    return this.#stopReason;
  }

  /** Counters of each ring that the device ever had. */
  readStats(): QueueStats[] {
    return this.#stats.map(readStats);
  }

  /** Opens the image that the description names, and closes another one first. Rejects with the reason. */
  async openImage(description: DeviceDescription): Promise<OpenImage> {
    const { settings, openDisk } = this.#services;
    const readOnly = description.readOnly || settings.readOnly;
    const { shared, directIoSafe } = description;
    const key = JSON.stringify([description.params, readOnly, shared, directIoSafe]);
    if (this.#image?.key === key) {
      this.#image = { ...this.#image, description };
      return this.#image;
    }
    await this.release();
    const { format, target } = parseImage(description.params);
    const { engine, cache } = settings;
    const request = { format, target, readOnly, shared, engine, directIoSafe };
    const opening = openDisk(cache === undefined ? request : { ...request, cache });
    try {
      const disk = await unlessAborted(opening, this.#signal);
      this.#image = { disk, description, key };
      return this.#image;
    } catch (error) {
      // After an abort the image may still be opened; then it must be closed here.
      if (isAbort(error)) opening.then((disk) => disk[Symbol.asyncDispose](), () => {});
      throw error;
    }
  }

  /** Locks the open image: before anything is read or written, and before a killed process's requests are replayed. */
  async lockImage(): Promise<void> {
    const { imageLocks, clock } = this.#services;
    const { disk, description: { shared } } = this.#image!;
    if (imageLocks === undefined || disk.image === undefined) return;
    const use = { writes: !disk.properties.readOnly, shared, by: this.#label };
    this.#imageLock = await lockImage(imageLocks, disk.image, use, clock, this.#signal);
  }

  /** Opens all rings of the connection, `untold` so far. Rejects with the reason, and then holds none. */
  async openRings(disk: Disk, connection: Connection, journals: JournalSpec[] | undefined): Promise<void> {
    const { dataPlane, settings: { maxPersistentGrants, maxRequests } } = this.#services;
    const { frontend: { abi, queues }, grants, directIoSafe, discard, maxIndirectSegments } = connection;
    const results = await Promise.allSettled(queues.map(({ ringRefs, eventChannel }, number) =>
      dataPlane.openQueue({
        label: `${this.#label} queue ${number}`,
        guest: this.#guest,
        ringRefs,
        eventChannel,
        abi,
        disk,
        grants,
        directIoSafe,
        discard,
        maxIndirectSegments,
        ...(journals && { journal: journals[number]! }),
        ...(maxPersistentGrants !== undefined && { maxPersistentGrants }),
        ...(maxRequests !== undefined && { maxRequests }),
        stats: this.#stats[number] ??= createStats(),
        latch: this.latch.address,
      }, this.#signal)
    ));
    const rings = results.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
    this.#rings = rings;
    this.#connection = connection;
    this.#ring = "untold";
    const failure = results.find((result) => result.status === "rejected");
    if (failure === undefined) return this.#listen(rings);
    await this.closeRings();
    throw failure.reason;
  }

  /** The frontend was told of the rings. */
  ringTold(): void {
    if (this.#ring === "untold") this.#ring = "served";
  }

  /**
   * Looks at the image's size again and lets the rings take requests up to the new end. Returns both sizes in 512-byte
   * sectors. Rejects with {@linkcode XenblkError} if no image is open, or it cannot change or became smaller.
   */
  async grow(): Promise<{ readonly before: number; readonly now: number }> {
    const disk = this.#image?.disk;
    if (disk?.grow === undefined) {
      throw new XenblkError(`Cannot resize ${disk?.description ?? this.#label}: only files and block devices change`);
    }
    const before = disk.properties.sectors;
    await disk.grow();
    const { sectors: now } = disk.properties;
    if (now !== before) await Promise.all(this.#rings.map((ring) => ring.grow(now)));
    return { before, now };
  }

  /** Finishes what is in flight and closes the rings, then unlocks the image. `then` says where the rings stand. */
  async closeRings(then: "none" | "stopped" | "broken" = "none"): Promise<void> {
    const rings = this.#rings;
    this.#rings = [];
    this.#connection = undefined;
    this.#ring = then;
    if (then !== "stopped") this.#stopReason = undefined;
    const results = await Promise.allSettled(rings.map((ring) => ring.close()));
    this.journals.unmap();
    const lock = this.#imageLock;
    this.#imageLock = undefined;
    await lock?.[Symbol.asyncDispose]();
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  /** Closes rings and image, and removes the journals: the frontend has closed the connection. */
  async end(): Promise<void> {
    await this.release();
    this.journals.forget();
  }

  /** Closes rings and image. */
  async release(): Promise<void> {
    try {
      await this.closeRings();
    } finally {
      const image = this.#image;
      this.#image = undefined;
      await image?.disk[Symbol.asyncDispose]();
    }
  }

  /**
   * Lets another process serve the device, once everything else is released; `forgetLatch` if it is removed. Throws what
   * removing the latch throws, the lock released nevertheless.
   */
  disown(forgetLatch: boolean): void {
    try {
      if (forgetLatch && this.lock.owner === "us") this.latch.forget();
    } finally {
      this.latch[Symbol.dispose]();
      this.lock[Symbol.dispose]();
    }
  }

  #listen(rings: readonly QueueHandle[]): void {
    for (const ring of rings) {
      ring.stopped.then((reason) => {
        if (this.#rings !== rings || this.#ring === "stopped") return;
        this.#ring = "stopped";
        this.#stopReason = reason;
        this.#ringStopped();
      });
    }
  }
}

/** How many slots each ring of the connection has. */
export function slotsOf({ abi, queues }: FrontendParameters): number[] {
  return queues.map(({ ringRefs }) => ringSlots(ABIS[abi], ringRefs.length));
}
