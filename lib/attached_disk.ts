/**
 * A disk that this process gave to a guest and serves: what a program does with it until it is detached. It is made by
 * attaching (attach.ts).
 */

import type { DeviceClaim } from "./backend/claim.ts";
import type { CloseOptions } from "./backend/close_options.ts";
import type { DeviceStatus } from "./backend/status.ts";
import type { Clock } from "./clock.ts";
import { type DiskStats, diskStats } from "./disk_stats.ts";
import { errorText, XenblkError } from "./errors.ts";
import type { HostPlatform } from "./host_platform.ts";
import type { Service } from "./service.ts";
import type { LiveFilter } from "./storage/filter/stack.ts";
import type { FilterName, FilterOptions, ThrottleOptions } from "./storage/filter/table.ts";
import { removeDevice } from "./toolstack/attach.ts";
import { detachDevice, type DetachOptions } from "./toolstack/detach.ts";
import type { DomainInfo } from "./toolstack/domains.ts";
import { type Resized, resizeDevice, type ResizeOptions } from "./toolstack/resize.ts";
import type { DeviceAddress } from "./xenbus/paths.ts";
import { formatVdev } from "./xenbus/vdev.ts";
import { retryConflicts } from "./xenstore.ts";

/** Why an attached disk is no longer served, or no longer used. */
export type DiskEnd =
  | {
    /**
     * `closed`: this process detached, closed or disposed it. `removed`: a toolstack removed it. `guest-gone`: the guest
     * has ended.
     */
    readonly reason: "closed" | "removed" | "guest-gone";
  }
  | {
    /** A thread of this process died. */
    readonly reason: "failed";
    /** Which one, and of what. */
    readonly error: XenblkError;
  };

/**
 * A disk that a guest has and this process serves. Disposing it detaches it, even if the guest still uses it when the
 * time is up; afterwards nothing of it keeps the process alive.
 */
export interface AttachedDisk extends AsyncDisposable {
  /** Backend domain, kind, guest and virtual device number. */
  readonly address: DeviceAddress;
  /** The guest. */
  readonly guest: DomainInfo;
  /** Name of the virtual device, such as `xvdb`. */
  readonly vdev: string;
  /** The image as the backend's node `params` names it: `raw:/images/a.img`. */
  readonly params: string;
  /**
   * Resolves when the disk is not served any more, or its guest has ended. The disk has to be disposed nevertheless.
   * After `failed` the process should end soon: the disk stays Connected, and `xenblk serve` goes on with it once this
   * process has ended; disposing then only ends the threads. Never rejects.
   */
  readonly ended: Promise<DiskEnd>;
  /** The device as this process sees it now; once it is removed, as it was when this was called last. */
  status(): DeviceStatus;
  /** What the disk did since it was attached. */
  stats(): Promise<DiskStats>;
  /**
   * The filter of that name in front of the disk, to see and to change its options; of several the one nearest to the
   * guest. Throws {@linkcode XenblkError} (`usage`) if there is none, or the disk is not served any more.
   */
  filter<N extends FilterName>(name: N): LiveFilter<FilterOptions[N]>;
  /** The same for a filter from outside: its path or URL, as it was named. */
  filter(name: string): LiveFilter;
  /**
   * Changes the limits of the disk; those that are not named stay. They are in front of all filters; if a filter
   * `throttle` is among these, it gets them. Throws {@linkcode XenblkError} (`usage`) for a value that is not allowed, and
   * if the disk is not served any more.
   */
  setLimits(limits: ThrottleOptions): void;
  /**
   * Tells the guest that the image has grown; `sizeBytes` makes it that large before. Rejects with {@linkcode
   * XenblkError}: `failed` with the reason, `timeout`, or `not-found` if the disk was removed. Default time limit: that
   * of the attach.
   */
  resize(options?: Partial<ResizeOptions>): Promise<Resized>;
  /**
   * Asks the guest to close the disk, then removes it and ends its threads. Rejects with {@linkcode XenblkError}
   * (`timeout`) if the guest does not close it in time and `force` is not given: the disk is then still served, and the
   * request stands. Default time limit: that of the attach.
   */
  detach(options?: Partial<DetachOptions>): Promise<void>;
  /**
   * Ends serving. `detached` does what disposing does; `connected` leaves the nodes as they are, for a `xenblk serve` to
   * go on with. Of several calls the first counts. Rejects with {@linkcode XenblkError} if the disk has not ended when
   * the time is up (its storage does not answer), or if the nodes cannot be removed.
   */
  close(options: CloseOptions): Promise<void>;
}

/** What an attached disk is made of. */
export interface ServedDiskParts {
  readonly platform: HostPlatform;
  readonly service: Service;
  /** Kept until the device is closed. */
  readonly claim: DeviceClaim;
  readonly address: DeviceAddress;
  readonly guest: DomainInfo;
  readonly params: string;
  /** How long the guest may take for one step. */
  readonly timeoutMs: number;
  /** Measures that. */
  readonly clock: Clock;
}

const OPEN = new Set<AttachedDisk>();

/** The disks that were attached and not closed or disposed since. */
export function openDisks(): ReadonlySet<AttachedDisk> {
  return OPEN;
}

/** The one implementation of {@linkcode AttachedDisk}. */
export class ServedDisk implements AttachedDisk {
  readonly address: DeviceAddress;
  readonly guest: DomainInfo;
  readonly vdev: string;
  readonly params: string;
  readonly ended: Promise<DiskEnd>;
  readonly #parts: ServedDiskParts;
  readonly #attachedMs: number;
  readonly #closed = Promise.withResolvers<void>();
  #status: DeviceStatus;
  /** This process has begun to detach or close the disk. */
  #ending = false;
  #failed = false;
  #closing: Promise<void> | undefined;

  constructor(parts: ServedDiskParts) {
    this.#parts = parts;
    this.#attachedMs = parts.clock.now();
    this.address = parts.address;
    this.guest = parts.guest;
    this.params = parts.params;
    this.vdev = formatVdev(parts.address.vdev);
    this.#status = parts.service.devices.status()[0]!;
    this.ended = this.#watch();
    OPEN.add(this);
  }

  /** What serves the disk, for what runs beside it. */
  get service(): Service {
    return this.#parts.service;
  }

  status(): DeviceStatus {
    return this.#status = this.#parts.service.devices.status()[0] ?? this.#status;
  }

  stats(): Promise<DiskStats> {
    return Promise.resolve(diskStats(this.status(), this.#parts.clock.now() - this.#attachedMs));
  }

  filter<N extends FilterName>(name: N): LiveFilter<FilterOptions[N]>;
  filter(name: string): LiveFilter;
  filter(name: string): LiveFilter {
    const filters = this.#parts.service.devices.filtersOf(this.address);
    const filter = filters.find((each) => each.name === name);
    if (filter !== undefined) return filter;
    throw new XenblkError(`Cannot use filter ${name} of ${this.vdev}: there is none in front of it`, {
      kind: "usage",
      remedy: "name it when the disk is attached",
    });
  }

  setLimits(limits: ThrottleOptions): void {
    const { devices } = this.#parts.service;
    if (devices.heldBy(this.address) === undefined) {
      throw new XenblkError(`Cannot limit ${this.vdev}: it is not served any more`, { kind: "usage" });
    }
    devices.change(this.address, { limits });
  }

  async resize(options: Partial<ResizeOptions> = {}): Promise<Resized> {
    const { platform, timeoutMs, clock } = this.#parts;
    using store = platform.openXenstore();
    return await resizeDevice(store, this.address, { timeoutMs, clock, ...options });
  }

  async detach(options: Partial<DetachOptions> = {}): Promise<void> {
    const { platform, timeoutMs, clock } = this.#parts;
    this.#ending = true;
    if (this.#closing === undefined && !this.#failed) {
      this.status();
      using store = platform.openXenstore();
      await detachDevice(store, this.address, { timeoutMs, clock, ...options });
    }
    await this.close({ leave: "connected", timeoutMs: 0 });
  }

  close(options: CloseOptions): Promise<void> {
    return this.#closing ??= this.#close(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ leave: "detached", timeoutMs: this.#parts.timeoutMs });
  }

  async #watch(): Promise<DiskEnd> {
    const { devices, failed } = this.#parts.service;
    const ended = (reason: "removed" | "guest-gone"): DiskEnd => ({ reason: this.#ending ? "closed" : reason });
    try {
      return await Promise.race([
        devices.retired.then(() => ended("removed")),
        devices.guestGone.then(() => ended("guest-gone")),
        this.#closed.promise.then(() => ({ reason: "closed" } as const)),
        failed,
      ]);
    } catch (error) {
      this.#failed = true;
      return { reason: "failed", error: error as XenblkError };
    }
  }

  async #close({ leave, timeoutMs }: CloseOptions): Promise<void> {
    const { service, claim } = this.#parts;
    this.#ending = true;
    const keep = leave === "connected" || this.#failed;
    const { finished, stuck } = await service.close({ leave: keep ? "connected" : "detached", timeoutMs });
    this.status();
    OPEN.delete(this);
    this.#closed.resolve();
    const faults = this.#failed ? [] : stuck.map(({ label, reason }) => `Cannot release ${label}: cannot ${reason}`);
    if (!keep) faults.push(...await this.#removeNodes());
    // With I/O in flight no other process may have the device: the end of this one releases it.
    if (finished && !this.#failed) claim[Symbol.dispose]();
    if (faults.length > 0) throw new XenblkError(faults.join("; "));
  }

  /** Over a connection of its own: the one that wrote the nodes may be lost. Returns what went wrong. */
  async #removeNodes(): Promise<string[]> {
    try {
      using store = this.#parts.platform.openXenstore();
      await retryConflicts(() => removeDevice(store, this.address));
      return [];
    } catch (error) {
      return [`Cannot remove the disk's nodes: ${errorText(error)}`];
    }
  }
}
