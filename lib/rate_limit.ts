/**
 * A bound on how many log lines a guest can cause: so many a minute, then one line that says how many were kept back.
 * All devices of a guest share one allowance. It must not know what the lines say.
 */

import type { DomId } from "./hypervisor.ts";
import type { Logger } from "./log.ts";

/** Lines a guest may cause per minute where nothing else is said. */
const DEFAULT_LINES_PER_MINUTE = 30;

const MINUTE_MS = 60_000;

interface Allowance {
  windowStartMs: number;
  used: number;
  suppressed: number;
  /** The guest has no device now; the allowance goes when its minute is over. */
  forgotten: boolean;
}

/** Counts the lines of each guest and lets through what it may cause. */
export class LogLimiter {
  readonly #logger: Logger;
  readonly #now: () => number;
  readonly #linesPerMinute: number;
  readonly #allowances = new Map<DomId, Allowance>();
  /** Debug lines have an allowance of their own, so that unread ones use up nothing. */
  readonly #debugAllowances = new Map<DomId, Allowance>();

  /** `now` yields milliseconds of a monotonic clock. */
  constructor(logger: Logger, now: () => number, linesPerMinute = DEFAULT_LINES_PER_MINUTE) {
    this.#logger = logger;
    this.#now = now;
    this.#linesPerMinute = linesPerMinute;
  }

  /** A logger for lines that this guest causes. */
  forGuest(guest: DomId): Logger {
    const limited = (log: (line: string) => void, allowances = this.#allowances) => (line: string): void => {
      if (this.#admit(guest, allowances)) log(line);
    };
    return {
      debug: limited((line) => this.#logger.debug(line), this.#debugAllowances),
      info: limited((line) => this.#logger.info(line)),
      warning: limited((line) => this.#logger.warning(line)),
      error: limited((line) => this.#logger.error(line)),
    };
  }

  /**
   * The guest has no device any more: says what was kept back, once a minute. Its allowance lasts until its minute is
   * over, or else a guest that comes and goes would get a new one each time.
   */
  forget(guest: DomId): void {
    const now = this.#now();
    const allowance = this.#allowances.get(guest);
    if (allowance !== undefined && !allowance.forgotten) this.#report(guest, allowance);
    for (const allowances of [this.#allowances, this.#debugAllowances]) {
      const one = allowances.get(guest);
      if (one !== undefined) one.forgotten = true;
      for (const [other, { forgotten, windowStartMs }] of allowances) {
        if (forgotten && now - windowStartMs >= MINUTE_MS) allowances.delete(other);
      }
    }
  }

  #admit(guest: DomId, allowances: Map<DomId, Allowance>): boolean {
    const now = this.#now();
    let allowance = allowances.get(guest);
    if (allowance === undefined) {
      allowance = { windowStartMs: now, used: 0, suppressed: 0, forgotten: false };
      allowances.set(guest, allowance);
    } else if (now - allowance.windowStartMs >= MINUTE_MS) {
      this.#report(guest, allowance);
      allowance.windowStartMs = now;
      allowance.used = 0;
      allowance.forgotten = false;
    }
    if (allowance.used < this.#linesPerMinute) {
      allowance.used++;
      return true;
    }
    allowance.suppressed++;
    return false;
  }

  #report(guest: DomId, allowance: Allowance): void {
    if (allowance.suppressed === 0) return;
    this.#logger.warning(`domain ${guest}: suppressed ${allowance.suppressed} log lines`);
    allowance.suppressed = 0;
  }
}
