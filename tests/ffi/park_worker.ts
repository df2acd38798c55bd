/**
 * One of two Workers that throw a ball back and forth: parks until the other's turn count moved, moves its own, wakes
 * the other. Every park has a timeout far beyond any delay, so that a lost wake shows as one.
 */

import { NativeParker, NativeWaker } from "../../ffi/linux/park.ts";
import type { WakeToken } from "../../lib/hypervisor.ts";

/** The orders of a player. */
export interface PlayerOrders {
  readonly own: WakeToken;
  readonly other: WakeToken;
  /** Two counters: of this player at `index`, of the other at `1 - index`. */
  readonly counters: SharedArrayBuffer;
  readonly index: number;
  readonly rounds: number;
}

const LOST_WAKE_MS = 30_000;

self.addEventListener("message", (event) => {
  const orders = (event as MessageEvent<PlayerOrders>).data;
  self.postMessage(play(orders));
  self.close();
}, { once: true });

declare const self: Pick<Worker, "postMessage" | "addEventListener"> & { close(): void };

/** The number of parks that only their timeout ended. */
function play({ own, other, counters, index, rounds }: PlayerOrders): number {
  using parker = new NativeParker(own);
  const waker = new NativeWaker(other);
  const turns = new Int32Array(counters);
  let lostWakes = 0;
  for (let round = 1; round <= rounds; round++) {
    // Player 0 serves; player 1 answers the same round.
    while (Atomics.load(turns, 1 - index) < round - (1 - index)) {
      const start = performance.now();
      parker.park(LOST_WAKE_MS);
      if (performance.now() - start >= LOST_WAKE_MS) lostWakes++;
    }
    Atomics.store(turns, index, round);
    waker.wake();
  }
  return lostWakes;
}
