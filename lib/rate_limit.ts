/**
 * Limits how many log lines of each level a guest can cause per minute, so that news never hides an error; one more line
 * then says how many were suppressed. All devices of a guest share its allowance.
 */

import type { DomId } from "./hypervisor.ts";
import type { Logger, LogLevel } from "./log.ts";

/** Default number of lines of each level that a guest may cause per minute. */
const DEFAULT_LINES_PER_MINUTE = 30;

const MINUTE_MS = 60_000;

/** What a guest may still cause in the minute that began with its first line. */
interface Allowance {
  windowStartMs: number;
  /** Lines of each level so far. */
  used: Record<LogLevel, number>;
  suppressed: number;
  /** The guest has no device now: the allowance is dropped once its minute is over. */
  forgotten: boolean;
}

/** Counts the lines of each guest and passes on those within its allowance. */
export class LogLimiter {
  readonly #logger: Logger;
  readonly #now: () => number;
  readonly #linesPerMinute: number;
  readonly #allowances = new Map<DomId, Allowance>();

  /** `now` yields milliseconds of a monotonic clock. */
  constructor(logger: Logger, now: () => number, linesPerMinute = DEFAULT_LINES_PER_MINUTE) {
    this.#logger = logger;
    this.#now = now;
    this.#linesPerMinute = linesPerMinute;
  }

  /** A logger for lines that this guest causes. */
  forGuest(guest: DomId): Logger {
    const limited = (level: LogLevel) => (line: string): void => {
      if (this.#admit(guest, level)) this.#logger[level](line);
    };
    return { debug: limited("debug"), info: limited("info"), warning: limited("warning"), error: limited("error") };
  }

  /**
   * The guest has no device any more: reports the suppressed lines, once a minute. Its allowance is kept until its
   * minute is over: a guest that comes and goes must not get a new one each time.
   */
  forget(guest: DomId): void {
    const now = this.#now();
    const allowance = this.#allowances.get(guest);
    if (allowance !== undefined && !allowance.forgotten) this.#report(guest, allowance);
    if (allowance !== undefined) allowance.forgotten = true;
    for (const [other, { forgotten, windowStartMs }] of this.#allowances) {
      if (forgotten && now - windowStartMs >= MINUTE_MS) this.#allowances.delete(other);
    }
  }

  #admit(guest: DomId, level: LogLevel): boolean {
    const now = this.#now();
    let allowance = this.#allowances.get(guest);
    if (allowance === undefined || now - allowance.windowStartMs >= MINUTE_MS) {
      if (allowance !== undefined) this.#report(guest, allowance);
      const used = { debug: 0, info: 0, warning: 0, error: 0 };
      allowance = { windowStartMs: now, used, suppressed: 0, forgotten: false };
      this.#allowances.set(guest, allowance);
    }
    if (allowance.used[level] < this.#linesPerMinute) {
      allowance.used[level]++;
      return true;
    }
    // Debug lines only help to find a fault: nobody misses them.
    if (level !== "debug") allowance.suppressed++;
    return false;
  }

  #report(guest: DomId, allowance: Allowance): void {
    if (allowance.suppressed === 0) return;
    this.#logger.warning(`domain ${guest}: suppressed ${allowance.suppressed} log lines`);
    allowance.suppressed = 0;
  }
}

/** A logger of warnings alone, written out here: the module of the log would load LogTape into every Worker. */
export function warningsTo(warning: Logger["warning"]): Logger {
  const drop = (): void => {};
  return { debug: drop, info: drop, warning, error: drop };
}
