/**
 * What this process holds for one device: its lock, the open image, the rings that the data plane serves, and what
 * outlives them: counters, journals and the latch. Closing goes from the rings to the image. Each wait for storage is
 * bounded (waits.ts): a call that rejects for that reason is made again, and continues the wait.
 */

import { isAbort } from "../abort.ts";
import type { JournalSpec, QueueHandle } from "../dataplane/types.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { DomId } from "../hypervisor.ts";
import { type Disk, type DiskRequest, type EngineName, writesImage } from "../storage/disk.ts";
import { checkNewSize } from "../storage/image/grow.ts";
import { lockImage } from "../storage/image/lock.ts";
import type { Ring } from "../xenbus/transitions.ts";
import { DeviceCounters } from "./device_counters.ts";
import { DeviceFilters } from "./device_filters.ts";
import { DeviceLatch } from "./device_latch.ts";
import { DeviceLock } from "./device_lock.ts";
import type { DeviceDescription } from "./description.ts";
import { openDescribed } from "./disk_request.ts";
import { emptyDrive } from "./empty_drive.ts";
import { DeviceJournals, keptNames } from "./journals.ts";
import { LiveSettings } from "./live_settings.ts";
import type { Connection, Growth, OpenImage, ResourceEvents, ResourceServices, RingPlace } from "./resource_types.ts";
import { nameOf, openedOf, type RingExtras, type RingsOpening, ringSpec } from "./ring_spec.ts";
import { Acquisition, type Operation, OverdueError, Waits } from "./waits.ts";

/** Lock, image, rings and counters of one device. Its calls must not overlap. */
export class DeviceResources {
  /** Makes the device this process's own. */
  readonly lock: DeviceLock;
  /** Outlives the process; open once rings are. */
  readonly latch: DeviceLatch;
  /** Of the rings. */
  readonly journals: DeviceJournals;
  /** All waits for storage. */
  readonly waits: Waits;
  /** In front of the image. */
  readonly filters: DeviceFilters;
  /** Weight and limits, which stay when the guest connects again. */
  readonly live: LiveSettings;
  /** Of all rings that the device ever had. */
  readonly counters: DeviceCounters;
  readonly #services: ResourceServices;
  readonly #label: string;
  readonly #guest: DomId;
  readonly #events: ResourceEvents;
  readonly #signal: AbortSignal;
  readonly #openingDisk: Acquisition<Disk>;
  readonly #locking: Acquisition<AsyncDisposable>;
  #image: OpenImage & { readonly key: string } | undefined;
  /** Held as long as there are rings: a guest that migrates opens its image at both ends, and uses it at one. */
  #imageLock: AsyncDisposable | undefined;
  #rings: readonly QueueHandle[] = [];
  #journalSpecs: readonly JournalSpec[] | undefined;
  #opening: RingsOpening | undefined;
  /** Until all rings are closed, `#rings`, `#ring` and the rest stay as they were. */
  #closing: Operation<void> | undefined;
  #growing:
    | { readonly disk: Disk; readonly sizeBytes: number | undefined; readonly operation: Operation<Growth> }
    | undefined;
  /** Images and locks that are being released without anybody waiting for it. */
  readonly #releasing = new Set<Promise<void>>();
  /** Something was not closed in order, perhaps after it was waited for: a disk may have lost answered writes. */
  #releaseFailed = false;
  #ring: Ring = "none";
  /** Where the rings stand once they are closed. */
  #ringAfter: "none" | "stopped" | "broken" = "none";
  #connection: Connection | undefined;
  #stopReason: string | undefined;
  #failure: string | undefined;

  /** The signal ends all waits that have begun; what is opened later then rejects with the signal's reason. */
  constructor(services: ResourceServices, label: string, guest: DomId, events: ResourceEvents, signal: AbortSignal) {
    this.#services = services;
    this.#label = label;
    this.#guest = guest;
    this.#events = events;
    this.#signal = signal;
    const { journals, keepJournals, clock, dataPlane } = services;
    this.counters = new DeviceCounters(() => dataPlane.now?.() ?? clock.now());
    this.waits = new Waits(clock, signal, events.answered);
    // Nobody has used what comes too late.
    const release = (text: string, late: AsyncDisposable): void => void this.#letGo(text, late).catch(() => {});
    this.#openingDisk = new Acquisition<Disk>(this.waits, release);
    this.#locking = new Acquisition<AsyncDisposable>(this.waits, release);
    this.lock = new DeviceLock(journals, keptNames(label).lock);
    this.latch = new DeviceLatch(journals, keptNames(label).latch);
    this.journals = new DeviceJournals(journals, label, keepJournals);
    this.filters = new DeviceFilters(services.settings, { device: label, warn: events.warn }, services.holds);
    this.live = new LiveSettings(services, this.filters);
  }

  /** Of the settings, whoever serves the image at present. */
  get engine(): EngineName {
    return this.#services.settings.engine;
  }

  /** The open image, if there is one. */
  get image(): OpenImage | undefined {
    return this.#image;
  }

  /** Where the rings stand. */
  get ring(): Ring {
    return this.#ring;
  }

  /** Neither are rings open, nor are any being opened or left to be closed. */
  get isUnused(): boolean {
    return this.#ring === "none" && this.#connection === undefined && this.#opening === undefined;
  }

  /** What was negotiated for the open rings. */
  get connection(): Connection | undefined {
    return this.#connection;
  }

  /** Rings are open. */
  get connected(): boolean {
    return this.#connection !== undefined;
  }

  /** The reactor of each ring; empty if there are none, or they cannot be told apart. */
  get reactors(): number[] {
    return this.#rings.flatMap(({ reactor }) => reactor ?? []);
  }

  /** Why the data plane stopped a ring. */
  get stopReason(): string | undefined {
    return this.#stopReason;
  }

  /** Opens the image that the description names, and closes another one first. Rejects with the reason. */
  async openImage(description: DeviceDescription): Promise<OpenImage> {
    const key = this.#keyOf(description);
    if (this.#image?.key === key) return this.#image = { ...this.#image, description };
    await this.release();
    const open = (): Promise<Disk> => this.#open(description, { sole: true });
    const disk = await this.#openingDisk.get(key, () => `open image ${description.params}`, open);
    return this.#hold({ disk, description, key });
  }

  /** Opens the disk that a description names, beside the image that is open; the caller's. Rejects with the reason. */
  openOther(description: DeviceDescription, signal: AbortSignal): Promise<Disk> {
    return this.#open(description, { signal });
  }

  async #open(description: DeviceDescription, how: Pick<DiskRequest, "sole" | "signal">): Promise<Disk> {
    const { settings, openDisk } = this.#services;
    const owner = { guest: this.#guest, device: this.#label };
    return await openDescribed(description, settings, owner, this.filters, (asked) => openDisk({ ...asked, ...how }));
  }

  #hold(image: OpenImage & { readonly key: string }): OpenImage {
    const { disk } = this.#image = image;
    disk.failed?.then((reason) => this.diskFailed(disk, reason));
    disk.watchTrouble?.(this.#events.ringStopped);
    return image;
  }

  /** The open image is what `params` says now. */
  imageRenamed(name: Pick<DeviceDescription, "params" | "inDaemon">): void {
    const description = { ...this.#image!.description, ...name };
    this.#image = { ...this.#image!, description, key: this.#keyOf(description) };
  }

  /** Answered writes of the disk may be lost: as after a failed flush, nothing is written any more. */
  diskFailed(disk: Disk, reason: string): void {
    if (this.#image?.disk !== disk) return;
    this.#failure = reason;
    this.latch.trip();
    this.#events.ringStopped();
  }

  /** Why answered writes of the open disk may be lost, apart from a failed flush. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** A drive without a disc stands in for the image that the description names, as if that were open. */
  openEmptyDrive(description: DeviceDescription): OpenImage {
    return this.#hold({ disk: emptyDrive(), description, key: this.#keyOf(description) });
  }

  /** Whether the image that the description names is open. */
  holds(description: DeviceDescription): boolean {
    return this.#image?.key === this.#keyOf(description);
  }

  /** Locks the open image, unless it is locked: before anything is read, written or replayed. */
  async lockImage(): Promise<void> {
    this.#imageLock ??= await this.#lock();
  }

  /** Rejects with {@linkcode ImageBusyError} if {@linkcode lockImage} would now. */
  async checkImage(): Promise<void> {
    const lock = await this.#lock();
    if (lock !== undefined) await this.#letGo("unlock its image", lock);
  }

  async #lock(): Promise<AsyncDisposable | undefined> {
    const opened = this.#image!;
    const { image } = opened.disk;
    if (this.#services.imageLocks === undefined || image === undefined) return undefined;
    const lock = (signal: AbortSignal): Promise<AsyncDisposable> =>
      this.lockOther(opened, AbortSignal.any([signal, this.#signal])).then((lock) => lock!);
    return await this.#locking.get(image.path, () => `lock image ${image.path}`, lock);
  }

  /**
   * Locks an image, also one beside that which is open; the caller's. Undefined: it has no lock of ours. Rejects as
   * {@linkcode lockImage}, or with the signal's reason.
   */
  async lockOther(
    { disk, description: { shared } }: OpenImage,
    signal: AbortSignal,
  ): Promise<AsyncDisposable | undefined> {
    const { imageLocks, clock } = this.#services;
    if (imageLocks === undefined || disk.image === undefined) return undefined;
    const use = { writes: writesImage(disk), shared, by: this.#label };
    return await lockImage(imageLocks, disk.image, use, clock, signal);
  }

  #keyOf({ params, readOnly, shared, directIoSafe, inDaemon }: DeviceDescription): string {
    return JSON.stringify([params, readOnly || this.#services.settings.readOnly, shared, directIoSafe, !inDaemon]);
  }

  /** What the rings are being opened for, if {@linkcode openRings} stopped waiting for them and nothing closed them. */
  get opening(): Connection | undefined {
    return this.#opening?.connection;
  }

  /**
   * Begins to open all rings of the connection; {@linkcode openRings} waits for them. Once it has stopped waiting, they
   * are opened nevertheless: it can be called again, and {@linkcode closeRings} closes them.
   */
  beginRings(disk: Disk, connection: Connection, journals: JournalSpec[] | undefined): void {
    const abandon = new AbortController();
    const signal = AbortSignal.any([this.#signal, abandon.signal]);
    this.#journalSpecs = journals;
    const opening = Promise.allSettled(
      connection.frontend.queues.map((_, queue) => {
        const journal = journals?.[queue];
        return this.#openRing({ queue, disk, connection }, signal, journal && { journal });
      }),
    );
    const operation = this.waits.begin(() => `open the rings on ${nameOf(disk)}`, opening);
    this.#opening = { connection, operation, abandon };
  }

  /** Waits until the rings are open, `untold` so far. Rejects with the reason if one is refused, and then holds none. */
  async openRings(): Promise<void> {
    const { connection, operation } = this.#opening!;
    const results = await this.waits.until(operation);
    this.#opening = undefined;
    this.#rings = openedOf(results);
    this.#connection = connection;
    this.#ring = "untold";
    const failed = results.findIndex((result) => result.status === "rejected");
    if (failed < 0) return this.#listen(this.#rings);
    await this.closeRings();
    const { reason } = results[failed] as PromiseRejectedResult;
    const { length } = connection.frontend.queues;
    throw length === 1 ? reason : new XenblkError(`Cannot serve queue ${failed}: ${errorText(reason)}`, {
      cause: reason,
      remedy: `if the guest's driver has fewer than ${length} queues, an earlier one left multi-queue-num-queues: ` +
        "remove that node and the directories queue-N",
    });
  }

  /** Rings are being opened or closed, or the image is being resized, perhaps by a call that has stopped waiting. */
  get changing(): boolean {
    return this.#opening !== undefined || this.#closing !== undefined || this.#growing !== undefined;
  }

  /** The open rings, in order. Who replaces them tells {@linkcode setRings}. */
  get rings(): readonly QueueHandle[] {
    return this.#rings;
  }

  /** Opens a ring again that was released: on the disk that it had, or `held` on another one. Its journal goes on. */
  async openRingAgain(place: RingPlace, signal: AbortSignal, held: boolean): Promise<QueueHandle> {
    const journal = this.#journalSpecs?.[place.queue];
    return await this.#openRing(place, signal, { ...(journal && { journal: { ...journal, resume: true } }), held });
  }

  /** These are the open rings of the connection from now on. */
  setRings(rings: readonly QueueHandle[], connection: Connection): void {
    this.#rings = rings;
    this.#connection = connection;
    this.#listen(rings);
  }

  /** All rings were released, and none is open: the frontend waits to be served again. */
  ringsLost(): void {
    this.#rings = [];
    this.#connection = undefined;
    this.#ring = "none";
    this.journals.unmap();
  }

  /** The image's lock is the caller's from now on, and the image, too, unless it is to stay. */
  take({ image }: { readonly image: boolean }): AsyncDisposable[] {
    const taken = [this.#imageLock, image ? this.#image?.disk : undefined].filter((each) => each !== undefined);
    this.#imageLock = undefined;
    if (image) this.#image = undefined;
    return taken;
  }

  /** Puts another open image, which is locked, in the place of this one; the old one is the caller's. */
  exchangeImage(image: OpenImage, lock: AsyncDisposable | undefined): AsyncDisposable[] {
    const old = this.take({ image: true });
    this.#imageLock = lock;
    this.#hold({ ...image, key: this.#keyOf(image.description) });
    return old;
  }

  /** The frontend was told of the rings. */
  ringTold(): void {
    if (this.#ring === "untold") this.#ring = "served";
  }

  /**
   * Looks at the image's size again, or makes the image so large, and lets the rings take requests up to the new end. Returns
   * both sizes in 512-byte sectors. Rejects with {@linkcode XenblkError} if it cannot change, or became smaller.
   */
  async grow(sizeBytes?: number): Promise<Growth> {
    const disk = this.#image?.disk;
    if (disk?.grow === undefined) {
      throw new XenblkError(`Cannot resize ${disk?.description ?? this.#label}: only files and block devices change`);
    }
    if (this.#growing?.disk !== disk) {
      if (sizeBytes !== undefined) checkNewSize(disk, sizeBytes);
      const what = `${sizeBytes === undefined ? "read" : "change"} the size of ${nameOf(disk)}`;
      this.#growing = { disk, sizeBytes, operation: this.waits.begin(() => what, this.#grow(disk, sizeBytes)) };
    } else if (this.#growing.sizeBytes !== sizeBytes) {
      throw new XenblkError(`Cannot resize ${nameOf(disk)}: an earlier resize has not ended`);
    }
    return await this.waits.until(this.#growing.operation);
  }

  /**
   * Finishes what is in flight and closes the rings, then unlocks the image. `then` says where the rings stand
   * afterwards. Until they are closed, everything stays as it was.
   */
  async closeRings(then: "none" | "stopped" | "broken" = "none"): Promise<void> {
    this.#ringAfter = then;
    await this.waits.until(this.#beginClosing());
  }

  /** Closes rings and image, and removes the journals: the frontend has closed the connection. */
  async end(): Promise<void> {
    this.#openingDisk.drop();
    await this.release();
    this.journals.forget();
  }

  /** Closes rings and image. */
  async release(): Promise<void> {
    try {
      await this.closeRings();
    } finally {
      if (this.#closing === undefined) await this.#closeImage();
    }
  }

  /**
   * Closes rings and image at the end of the process, however long that takes. An image that is being opened is waited
   * for, so that it is closed, too: for ten seconds at most, and if it is `urgent`, for one.
   */
  async finish(urgent: boolean): Promise<void> {
    this.#openingDisk.drop();
    this.#ringAfter = "none";
    try {
      await this.#beginClosing().outcome;
    } finally {
      await this.#closeImage();
      await this.#openingDisk.dropped(urgent);
      while (this.#releasing.size > 0) await Promise.all(this.#releasing);
    }
    if (!this.#releaseFailed) this.latch.letGo();
  }

  /**
   * Lets another process serve the device, once everything else is released; `forgetLatch` if it is removed. Throws what
   * removing the latch throws, the lock released nevertheless.
   */
  disown(forgetLatch: boolean): void {
    try {
      if (forgetLatch && this.lock.owner === "us") {
        this.latch.forget();
        this.#services.journals.remove(keptNames(this.#label).writes);
      }
    } finally {
      this.latch[Symbol.dispose]();
      this.lock[Symbol.dispose]();
    }
  }

  #openRing(place: RingPlace, signal: AbortSignal, more: RingExtras | undefined): Promise<QueueHandle> {
    const { dataPlane, settings } = this.#services;
    const of = { label: this.#label, guest: this.#guest, moved: this.#events.ringMoved };
    return dataPlane.openQueue({ ...ringSpec(place, settings, this, of), ...more }, signal);
  }

  #listen(rings: readonly QueueHandle[]): void {
    for (const ring of rings) {
      ring.latched?.then(this.#events.ringStopped);
      ring.stopped.then((reason) => {
        if (this.#rings !== rings || this.#closing !== undefined || this.#ring === "stopped") return;
        this.#ring = "stopped";
        this.#stopReason = reason;
        this.#events.ringStopped();
      });
    }
  }

  /** The rings take the new size even if nobody waits for it any more: the disk has it. */
  async #grow(disk: Disk, sizeBytes: number | undefined): Promise<Growth> {
    try {
      const before = disk.properties.sectors;
      await disk.grow!(sizeBytes);
      const { sectors: now } = disk.properties;
      const rings = this.#closing === undefined && this.#image?.disk === disk ? this.#rings : [];
      // Also if the size is known already: a disk that was lost while it grew has it from another daemon.
      await Promise.all(rings.map((ring) => ring.grow(now)));
      return { before, now };
    } finally {
      if (this.#growing?.disk === disk) this.#growing = undefined;
    }
  }

  /** A ring that is being mapped cannot be called back: those that are opened nevertheless are closed. */
  #beginClosing(): Operation<void> {
    if (this.#closing !== undefined) return this.#closing;
    const opening = this.#opening;
    this.#opening = undefined;
    if (opening === undefined) return this.#closing = this.waits.begin(() => this.#closingText(), this.#closeAll());
    const { abandon, operation: { text, outcome, sinceMs, overdue } } = opening;
    abandon.abort();
    this.#closing = this.waits.begin(text, this.#closeAll(outcome.then(openedOf)), sinceMs);
    this.#closing.overdue = overdue; // the same delay, reported once
    return this.#closing;
  }

  #closingText(): string {
    const { inFlight } = this.counters.totals;
    const image = this.#image === undefined ? "" : ` of ${nameOf(this.#image.disk)}`;
    if (inFlight === 0) return `flush and close the rings${image}`;
    return `complete ${inFlight} request${inFlight === 1 ? "" : "s"} in flight${image}`;
  }

  /** `late` are rings that nobody waits for any more. */
  async #closeAll(late?: Promise<readonly QueueHandle[]>): Promise<void> {
    try {
      const rings = late === undefined ? this.#rings : await late;
      const results = await Promise.allSettled(rings.map((ring) => ring.close()));
      this.journals.unmap();
      const lock = this.#imageLock;
      this.#imageLock = undefined;
      if (lock !== undefined) await this.#letGo("unlock its image", lock);
      for (const result of results) if (result.status === "rejected") throw result.reason;
    } finally {
      this.#rings = [];
      this.#connection = undefined;
      this.#ring = this.#ringAfter;
      if (this.#ring !== "stopped") this.#stopReason = undefined;
      this.#closing = undefined;
    }
  }

  async #closeImage(): Promise<void> {
    this.#locking.drop();
    const disk = this.#image?.disk;
    this.#image = undefined;
    this.#failure = undefined;
    if (disk !== undefined) await this.#letGo(`close ${nameOf(disk)}`, disk);
  }

  /** Disposes what came from {@linkcode exchangeImage}, or was opened and is not wanted. See `#letGo`. */
  async dispose(text: string, resources: readonly AsyncDisposable[]): Promise<void> {
    for (const resource of resources) await this.#letGo(text, resource);
  }

  /** Disposes it. What takes too long goes on in the background: nothing of the guest's depends on it. */
  async #letGo(text: string, resource: AsyncDisposable): Promise<void> {
    const operation = this.waits.begin(() => text, resource[Symbol.asyncDispose]());
    const { outcome } = operation;
    const released = outcome.catch(() => void (this.#releaseFailed = true)).then(() =>
      void this.#releasing.delete(released)
    );
    this.#releasing.add(released);
    try {
      await this.waits.until(operation);
    } catch (error) {
      if (!(error instanceof OverdueError) && !isAbort(error)) throw error;
    }
  }
}
