/**
 * What a reactor knows of each queue that it serves, and when one has to be visited.
 */

import type { Platform } from "../hypervisor.ts";
import type { Connection } from "./connection.ts";
import type { QueueShare } from "./fairness.ts";
import type { Guest, GuestTable } from "./guest.ts";
import type { IndexSet } from "./index_set.ts";

/** How much later a queue is due if its channel, once visited, still names a time that has passed. */
const OVERDUE_MS = 1;

/** What a queue is served with. */
export type ServedParts = Pick<Served, "id" | "connection" | "guest" | "table" | "faults" | "share">;

/** A queue that is served here, and whether it has to be visited. */
export class Served {
  readonly id: number;
  readonly connection: Connection;
  readonly guest: Guest<Served>;
  readonly table: GuestTable;
  /** Bad requests and failures so far. */
  readonly faults: { count: number };
  /** Its place among the others. */
  readonly share: QueueShare;
  /** Its number among the rings of the reactor. */
  index = 0;
  hasWork = true;
  closing = false;
  /** It leaves this reactor once nothing is in flight. */
  leaving = false;
  reportedBroken = false;
  reportedLatched = false;
  /** What its last visit cost. */
  cost = 0;
  /** Its last visit cost much, or it has many requests in flight and on the ring. */
  isHeavy = false;
  /** Turns for which its ring is still looked at without an event. */
  looks = 0;
  /** The round in which it was last visited before the heavy queues. */
  round = 0;
  /** The reactor's count of visits that cost something, when this queue last had one. */
  chargedAt = 0;
  /** The due time for which the queue was last visited, and the time of that visit. */
  visitedDueMs = -1;
  visitedMs = 0;
  readonly #active: IndexSet;

  /** `active`: the numbers of the reactor's rings that are looked at. */
  constructor({ id, connection, guest, table, faults, share }: ServedParts, active: IndexSet) {
    this.id = id;
    this.connection = connection;
    this.guest = guest;
    this.table = table;
    this.faults = faults;
    this.share = share;
    this.#active = active;
  }

  /** It has to be visited. */
  wake(): void {
    this.hasWork = true;
    this.#active.add(this.index);
  }
}

/** It has work, or I/O in flight, which may be over. */
export function isReady({ hasWork, connection }: Served): boolean {
  return hasWork || connection.queue.inFlight > 0;
}

/** Nothing is left to do for it here. */
export function isOver({ closing, leaving, connection: { queue } }: Served): boolean {
  return closing ? queue.state === "drained" : leaving && queue.isQuiet;
}

/** A visit, or an end, may become due without anything that wakes it. */
export function isActive(served: Served): boolean {
  return isReady(served) || served.closing || served.leaving;
}

/** Makes the queues that are due be visited. Milliseconds until the next one is; 0: one is now, -1: none will be. */
export function makeDueReady(timed: readonly Served[], platform: Pick<Platform, "now">): number {
  let dueMs = Infinity;
  for (let i = 0; i < timed.length; i++) {
    dueMs = Math.min(dueMs, timed[i]!.connection.limiter.channel.dueMs ?? Infinity);
  }
  if (dueMs === Infinity) return -1; // the clock need not be read
  const now = platform.now();
  return dueMs > now ? dueMs - now : makeReady(timed, now);
}

/** The same, if a channel's time has passed, or is not a number. */
function makeReady(timed: readonly Served[], now: number): number {
  let nextMs = -1;
  for (const served of timed) {
    const leftMs = dueTime(served) - now;
    if (leftMs > 0) {
      if (leftMs !== Infinity) nextMs = sooner(nextMs, leftMs);
      continue;
    }
    served.wake();
    served.visitedDueMs = served.connection.limiter.channel.dueMs!;
    served.visitedMs = now;
    nextMs = 0;
  }
  return nextMs;
}

/** When a queue is due; Infinity: never. A time that has passed, and for which it was visited, is put off. */
function dueTime({ connection, visitedDueMs, visitedMs }: Served): number {
  const { dueMs } = connection.limiter.channel;
  if (dueMs === undefined || Number.isNaN(dueMs)) return Infinity;
  return dueMs === visitedDueMs ? visitedMs + OVERDUE_MS : dueMs;
}

/** The shorter of two timeouts; -1 means no timeout. */
export function sooner(oneMs: number, otherMs: number): number {
  return oneMs < 0 || (otherMs >= 0 && otherMs < oneMs) ? otherMs : oneMs;
}
