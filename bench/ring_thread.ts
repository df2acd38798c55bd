/**
 * A Worker with one of several rings of a device (ring_loop.ts). It runs the requests of each message, and answers.
 */

/// <reference lib="deno.worker" />

import { RingLoop } from "./ring_loop.ts";

/** What the Worker is to do. */
export interface ThreadOrder {
  readonly segments: number;
  readonly requests: number;
  /** Of the device; see busy_time.ts. */
  readonly busy: SharedArrayBuffer;
  /** Its rings. */
  readonly queues: number;
}

const loops = new Map<number, RingLoop>();

self.onmessage = ({ data: { segments, requests, busy, queues } }: MessageEvent<ThreadOrder>): void => {
  const loop = loops.get(segments) ?? new RingLoop(segments, { busy, busyQueues: queues });
  loops.set(segments, loop);
  loop.run(requests);
  self.postMessage("done");
};
