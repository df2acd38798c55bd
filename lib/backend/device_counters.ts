/**
 * The counters of a device: the memory in which its rings count and measure, and what that holds. It outlives the rings'
 * connections, so that counting continues after a reconnect.
 */

import { BusyTime, createBusyTime } from "../dataplane/busy_time.ts";
import { createStats, durationsIn, type QueueStats, readStats, STAT, sumStats } from "../dataplane/stats.ts";
import type { DiskFigures } from "../figures/figures.ts";
import { latencyOf } from "../figures/latency.ts";
import type { DeviceStatus } from "./status.ts";

/** How often a period that ends meanwhile makes the busy time be read again. */
const MOST_READINGS = 4;

/** The counters of requests that are taken or answered. */
const ANSWERED = [STAT.reads, STAT.writes, STAT.barriers, STAT.flushes, STAT.discards, STAT.errors];

/** The memory of all rings that one device has had since it was first seen. */
export class DeviceCounters {
  /** For the rings' {@linkcode QueueSpec.busy}. */
  readonly busy: SharedArrayBuffer = createBusyTime();
  readonly #busyTime = new BusyTime(this.busy, true);
  readonly #rings: SharedArrayBuffer[] = [];
  readonly #counters: Float64Array[] = [];
  readonly #now: () => number;

  /** `now` is the clock of the data plane, in milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** The memory of one ring. */
  of(queue: number): SharedArrayBuffer {
    const ring = this.#rings[queue] ??= createStats();
    this.#counters[queue] ??= new Float64Array(ring);
    return ring;
  }

  /** Requests that are taken and not answered. It allocates nothing: a thousand idle disks are asked every second. */
  get inFlight(): number {
    return this.#total(STAT.inFlight);
  }

  /** Changes whenever a request is answered; cheap, too. */
  get progress(): number {
    return ANSWERED.reduce((sum, counter) => sum + this.#total(counter), -this.inFlight);
  }

  /** The rings' counters, added up. */
  get totals(): QueueStats {
    return sumStats(this.#rings.map(readStats));
  }

  /** All that is counted and measured, for a status. */
  read(): Pick<DeviceStatus, "totals" | "queues" | "latency" | "busyNs" | "atMs"> {
    const { busyNs, atMs } = this.#readBusy();
    const queues = this.#rings.map(readStats);
    return { totals: sumStats(queues), queues, latency: this.#latency(), busyNs, atMs };
  }

  #total(counter: number): number {
    let sum = 0;
    for (const counters of this.#counters) sum += counters[counter]!;
    return sum;
  }

  /** Between the two reads of a reading no ring must have ended a period: it would be missing, or there twice. */
  #readBusy(): { readonly busyNs: number; readonly atMs: number } {
    for (let reading = 1;; reading++) {
      const endedNs = this.totals.busyNs;
      const atMs = this.#now();
      const busyNs = endedNs + this.#busyTime.soFar(atMs);
      if (reading === MOST_READINGS || this.totals.busyNs === endedNs) return { busyNs, atMs };
    }
  }

  #latency(): DiskFigures["latency"] {
    const rings = this.#rings.map(durationsIn);
    return {
      read: latencyOf(rings.map(({ read }) => read)),
      write: latencyOf(rings.map(({ write }) => write)),
      flush: latencyOf(rings.map(({ flush }) => flush)),
      discard: latencyOf(rings.map(({ discard }) => discard)),
    };
  }
}
