/**
 * Bounds how often something may happen: a few times at once, then at a steady rate. It bounds the work that a guest
 * can cause by writing to its xenstore nodes.
 */

import type { Clock } from "../clock.ts";

/** A token bucket. One caller at a time. */
export class Pacer {
  readonly #clock: Clock;
  readonly #burst: number;
  readonly #intervalMs: number;
  #tokens: number;
  #filledAtMs: number;

  /** `burst` times at once, then once per `intervalMs`. */
  constructor(clock: Clock, burst: number, intervalMs: number) {
    this.#clock = clock;
    this.#burst = burst;
    this.#intervalMs = intervalMs;
    this.#tokens = burst;
    this.#filledAtMs = clock.now();
  }

  /** Resolves when it may happen once more, or early when the signal aborts; true if that took time. */
  async admit(signal: AbortSignal): Promise<boolean> {
    this.#refill();
    const waits = this.#tokens < 1;
    if (waits) {
      await this.#clock.sleep((1 - this.#tokens) * this.#intervalMs, signal);
      this.#refill();
    }
    this.#tokens = Math.max(0, this.#tokens - 1);
    return waits;
  }

  #refill(): void {
    const now = this.#clock.now();
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#filledAtMs) / this.#intervalMs);
    this.#filledAtMs = now;
  }
}
