/**
 * What a reactor knows of each queue that it serves, and when one has to be visited.
 */

import type { Platform } from "../hypervisor.ts";
import type { Connection } from "./connection.ts";
import type { QueueShare } from "./fairness.ts";
import type { Guest, GuestTable } from "./guest.ts";

/** How much later a queue is due if its channel, once visited, still names a time that has passed. */
const OVERDUE_MS = 1;

/** A queue that is served here, and whether it has to be visited. */
export interface Served {
  readonly id: number;
  readonly connection: Connection;
  readonly guest: Guest<Served>;
  readonly table: GuestTable;
  hasWork: boolean;
  closing: boolean;
  /** It leaves this reactor once nothing is in flight. */
  leaving: boolean;
  reportedBroken: boolean;
  reportedLatched: boolean;
  /** Bad requests and failures so far. */
  readonly faults: { count: number };
  /** Its place among the others. */
  readonly share: QueueShare;
  /** What its last visit cost. */
  cost: number;
  /** Its last visit cost much, or it has many requests in flight and on the ring. */
  isHeavy: boolean;
  /** Turns for which its ring is still looked at without an event. */
  looks: number;
  /** The round in which it was last visited before the heavy queues. */
  round: number;
  /** The due time for which the queue was last visited, and the time of that visit. */
  visitedDueMs: number;
  visitedMs: number;
}

/** It has work, or I/O in flight, which may be over. */
export function isReady({ hasWork, connection }: Served): boolean {
  return hasWork || connection.queue.inFlight > 0;
}

/** Nothing is left to do for it here. */
export function isOver({ closing, leaving, connection: { queue } }: Served): boolean {
  return closing ? queue.state === "drained" : leaving && queue.isQuiet;
}

/** The same of one with much to do. */
export function isHeavyAndReady(served: Served): boolean {
  return served.isHeavy && isReady(served);
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
    served.hasWork = true;
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
