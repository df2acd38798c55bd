/**
 * A progress line on a terminal, rewritten in place: how far some work is, or how long a wait has lasted. If stderr is not
 * a terminal, nothing is shown.
 */

import type { Output } from "./output.ts";

/** Least time between two updates. */
const REDRAW_MS = 100;
/** Before that an estimate of the time left says little. */
const ESTIMATE_MS = 2_000;
/** Between two lines of a wait, which is shown only if it lasts longer than one. */
const WAIT_TICK_MS = 1_000;

/** A progress line; disposing erases it. */
export class Progress implements Disposable {
  readonly #output: Output;
  readonly #shown: boolean;
  readonly #now: () => number;
  #drawnAt = -Infinity;

  /** `quiet` keeps it off even on a terminal; `now` yields milliseconds. */
  constructor(output: Output, quiet: boolean, now: () => number = () => performance.now()) {
    this.#output = output;
    this.#shown = !quiet && output.messagesOnTerminal;
    this.#now = now;
  }

  /** Shows the line, unless one was shown less than 100 ms ago. */
  update(line: string): void {
    if (!this.#shown || this.#now() - this.#drawnAt < REDRAW_MS) return;
    this.#drawnAt = this.#now();
    this.#output.showProgress(line);
  }

  /** Erases the line, so that something else can be written. */
  [Symbol.dispose](): void {
    this.#output.endProgress();
  }
}

/** Work without a measure of how far it is. */
export interface Wait {
  readonly output: Output;
  /** Keep it off even on a terminal: with `-q` or `--json`. */
  readonly quiet: boolean;
  /** As `waiting for the guest to close xvdb`. */
  readonly what: string;
  /** Absent: as long as it takes. */
  readonly timeoutMs?: number;
  /** Between two lines. Absent: a second. */
  readonly tickMs?: number;
}

/** Shows how long the work has lasted: `waiting for the guest to close xvdb: 12 s of 60 s`. Settles as the work does. */
export async function showWait<T>({ output, quiet, what, timeoutMs, tickMs }: Wait, work: Promise<T>): Promise<T> {
  using progress = new Progress(output, quiet);
  const beganMs = performance.now();
  const timer = setInterval(() => {
    const seconds = Math.floor((performance.now() - beganMs) / 1000);
    const limit = timeoutMs === undefined ? "" : ` of ${Math.round(timeoutMs / 1000)} s`;
    progress.update(`${what}: ${seconds} s${limit}`);
  }, tickMs ?? WAIT_TICK_MS);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}

/** `, 14 s left`, for work of which `share` (0 to 1) was done in `elapsedMs`; empty while that says little. */
export function timeLeft(share: number, elapsedMs: number): string {
  if (elapsedMs < ESTIMATE_MS || !(share > 0)) return "";
  return `, ${durationText(elapsedMs * (1 - Math.min(1, share)) / share / 1000)} left`;
}

/** A duration for people, in the largest unit that has two digits: `14 s`, `95 min`, `30 h`. */
function durationText(seconds: number): string {
  if (seconds < 100) return `${Math.ceil(seconds)} s`;
  return seconds < 6000 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`;
}
