/**
 * Another thread that completes a disk's I/O: it waits until it is asked and the reactor sleeps, and then makes a
 * descriptor readable.
 */

/// <reference lib="deno.worker" />

import { raiseEventfd } from "../../ffi/linux/eventfd.ts";
import { PARKED } from "../../lib/park_word.ts";

/** Its orders. */
export interface RaisingOrders {
  /** The descriptor that it raises. */
  readonly fd: number;
  /** A word that counts what it is asked for. */
  readonly asked: SharedArrayBuffer;
  /** The word of the reactor's wake token. */
  readonly sleeper: SharedArrayBuffer;
}

self.onmessage = ({ data }: MessageEvent<RaisingOrders>): void => {
  const asked = new Int32Array(data.asked);
  const sleeper = new Int32Array(data.sleeper);
  for (let done = 0;; done++) {
    Atomics.wait(asked, 0, done);
    while (Atomics.load(sleeper, 0) !== PARKED);
    raiseEventfd(data.fd);
  }
};

self.postMessage("ready");
