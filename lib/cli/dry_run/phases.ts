/**
 * Runs the phases of a dry run on all guests at once. It shows the progress, ends a phase early on a signal, and fails
 * if the backend stops answering.
 */

import { XenblkError } from "../../errors.ts";
import type { LoadOutcome } from "../../guest/load_types.ts";
import type { DryRunGuest, LoadResult } from "./guest.ts";
import { phaseOf, type PhaseResult } from "./report.ts";
import { type Progress, timeLeft } from "../progress.ts";

const TICK_MS = 100;
/** A load has stalled if nothing is answered for this long. */
const STALL_MS = 60_000;

/** When a phase ends: what is reached first. */
export interface PhaseEnd {
  /** Of all guests. */
  readonly requests?: number | undefined;
  readonly seconds?: number | undefined;
}

/** Runs phases one after the other. */
export class PhaseRunner {
  readonly #guests: readonly DryRunGuest[];
  readonly #progress: Progress;
  readonly #outcomes: LoadOutcome[] = [];

  /** When `signal` aborts, the loads stop once their requests in flight are answered. */
  constructor(guests: readonly DryRunGuest[], progress: Progress, signal: AbortSignal) {
    this.#guests = guests;
    this.#progress = progress;
    const stop = (): void => guests.forEach((guest) => guest.stop());
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  }

  /** The outcomes of all loads so far. */
  get outcomes(): readonly LoadOutcome[] {
    return this.#outcomes;
  }

  /** Runs the phase's work on all guests at once. */
  async run(
    name: string,
    end: PhaseEnd,
    work: (guest: DryRunGuest) => Promise<LoadResult[]>,
  ): Promise<PhaseResult> {
    const beganMs = performance.now();
    const stalled = Promise.withResolvers<never>();
    const watch = new Watch(this.#guests, name, end, beganMs);
    const timer = setInterval(() => {
      this.#progress.update(watch.look(performance.now()));
      if (watch.quietMs > STALL_MS) stalled.reject(this.#stall(name));
    }, TICK_MS);
    try {
      const all = Promise.all(this.#guests.map(work));
      const loads = (await Promise.race([all, stalled.promise])).flat();
      this.#outcomes.push(...loads.map(({ outcome }) => outcome));
      return phaseOf(name, loads, performance.now() - beganMs);
    } finally {
      clearInterval(timer);
    }
  }

  #stall(name: string): XenblkError {
    for (const guest of this.#guests) guest.kill();
    return new XenblkError(`Cannot finish the phase ${name}: no request was answered for ${STALL_MS / 1000} s`);
  }
}

/** Reads the loads' counters and describes the progress. */
class Watch {
  readonly #guests: readonly DryRunGuest[];
  readonly #name: string;
  readonly #end: PhaseEnd;
  readonly #beganMs: number;
  #requests = -1;
  #changedMs: number;
  /** Milliseconds since a request was last answered. */
  quietMs = 0;

  constructor(guests: readonly DryRunGuest[], name: string, end: PhaseEnd, nowMs: number) {
    this.#guests = guests;
    this.#name = name;
    this.#end = end;
    this.#beganMs = this.#changedMs = nowMs;
  }

  look(nowMs: number): string {
    const counters = this.#guests.map((guest) => guest.run?.progress.read());
    const sum = (name: "requests" | "bytes" | "verifiedSectors"): number =>
      counters.reduce((total, one) => total + (one?.[name] ?? 0), 0);
    const requests = sum("requests");
    if (requests !== this.#requests) this.#changedMs = nowMs;
    this.#requests = requests;
    this.quietMs = nowMs - this.#changedMs;
    const seconds = (nowMs - this.#beganMs) / 1000;
    const mbPerSecond = sum("bytes") / seconds / 1e6;
    const { requests: all = Infinity, seconds: limit = Infinity } = this.#end;
    const share = Math.min(1, Math.max(requests / all, seconds / limit));
    const left = timeLeft(share, nowMs - this.#beganMs);
    return `${this.#name}: ${Math.floor(100 * share)}%${left}, ${requests} requests, ${mbPerSecond.toFixed(0)} MB/s, ` +
      `${sum("verifiedSectors")} sectors verified, ${seconds.toFixed(1)} s`;
  }
}
