/**
 * Decides which queue should move to which reactor. A reactor that has been full for some seconds gives a queue to one
 * with room. Not a queue that makes up most of its reactor's load: its reactor would be idle and the other one full. A
 * queue that has moved rests. So nothing moves back and forth, and each move makes the loads more equal. Pure: it reads no
 * clock; a look is once a second.
 */

import { STAT } from "./stats.ts";

/** A reactor is full if it is busy for this share of the time, in so many looks in a row. */
const FULL = 0.85;
const FULL_LOOKS = 3;
/** One that is busy for no more has room. */
const ROOMY = 0.6;
/** How much less the new reactor must then be busy than the old one was. */
const MARGIN = 0.15;
/** The largest part of its reactor's load that a queue may be, and the least that is worth a pause. */
const MOST_PART = 0.55;
const LEAST_PART = 0.001;
/** Looks after a move in which nothing moves, because they see the reactors as they were. */
const LOOKS_AFTER_MOVE = 2;
/** Looks for which a queue rests that has moved, or could not. */
const REST_LOOKS = 30;

/** What requests cost the reactor, beside one request of one sector: see {@linkcode workOf}. */
const WORK_OF_SECTOR = 0.025;
const WORK_OF_PASS = 0.2;

/** A queue at one look. */
export interface QueueLoad {
  readonly id: number;
  /** What it did since the last look, by {@linkcode workOf}. */
  readonly work: number;
  /** That reactor can serve it. */
  readonly canMoveTo: (lane: number) => boolean;
}

/** A reactor at one look. */
export interface ReactorView {
  readonly lane: number;
  /** From 0 to 1: the share of the time since the last look in which it was busy. Absent: not known. */
  readonly load?: number | undefined;
  /** Empty unless it {@linkcode isFull}. */
  readonly queues: readonly QueueLoad[];
}

/** A queue and the reactor that should serve it. */
export interface Move {
  readonly id: number;
  readonly to: number;
}

/** Whether a reactor of that load may have to give a queue: the queues of others need not be looked at. */
export function isFull(load: number | undefined): boolean {
  return load !== undefined && load >= FULL;
}

/** What a queue has cost its reactor so far, from its counters: only good to compare queues with. */
export function workOf(stats: Float64Array): number {
  const { reads, writes, barriers, flushes, discards, unsupported, errors, sectorsRead, sectorsWritten, passes } = STAT;
  const requests = stats[reads]! + stats[writes]! + stats[barriers]! + stats[flushes]! + stats[discards]! +
    stats[unsupported]! + stats[errors]!;
  const sectors = stats[sectorsRead]! + stats[sectorsWritten]!;
  return requests + WORK_OF_SECTOR * sectors + WORK_OF_PASS * stats[passes]!;
}

/** The history of one process's reactors. */
export class Placement {
  #looks = 0;
  /** Looks in a row that found the reactor full. */
  readonly #full = new Map<number, number>();
  /** The look from which on a queue may move again. */
  readonly #rests = new Map<number, number>();
  #calmUntil = 0;

  /** One look. Returns at most one move; whether it succeeds makes no difference here. */
  look(reactors: readonly ReactorView[]): Move | undefined {
    this.#looks++;
    this.#forget(reactors);
    for (const { lane, load } of reactors) this.#full.set(lane, isFull(load) ? (this.#full.get(lane) ?? 0) + 1 : 0);
    if (this.#looks < this.#calmUntil) return undefined;
    const full = reactors.filter(({ lane }) => this.#full.get(lane)! >= FULL_LOOKS);
    const roomy = reactors.filter(({ load }) => load !== undefined && load <= ROOMY).sort(byLoad);
    for (const from of full.sort(byLoad).reverse()) {
      for (const to of roomy) {
        const id = this.#choose(from, to);
        if (id === undefined) continue;
        this.#calmUntil = this.#looks + LOOKS_AFTER_MOVE;
        this.#rests.set(id, this.#looks + REST_LOOKS);
        return { id, to: to.lane };
      }
    }
    return undefined;
  }

  /** The queue whose move makes the two most equal. */
  #choose({ load = 0, queues }: ReactorView, to: ReactorView): number | undefined {
    const roomLoad = to.load ?? 0;
    const total = queues.reduce((sum, { work }) => sum + work, 0);
    let best: number | undefined;
    let least = Infinity;
    for (const { id, work, canMoveTo } of queues) {
      const part = total === 0 ? 0 : work / total;
      if (part > MOST_PART || part < LEAST_PART || (this.#rests.get(id) ?? 0) > this.#looks) continue;
      const share = load * part;
      if (roomLoad + share > load - MARGIN || !canMoveTo(to.lane)) continue;
      const busier = Math.max(load - share, roomLoad + share);
      if (busier >= least) continue;
      least = busier;
      best = id;
    }
    return best;
  }

  /** What is gone. */
  #forget(reactors: readonly ReactorView[]): void {
    const lanes = new Set(reactors.map(({ lane }) => lane));
    for (const lane of this.#full.keys()) if (!lanes.has(lane)) this.#full.delete(lane);
    for (const [id, until] of this.#rests) if (until <= this.#looks) this.#rests.delete(id);
  }
}

function byLoad(one: ReactorView, other: ReactorView): number {
  return (one.load ?? 0) - (other.load ?? 0);
}
