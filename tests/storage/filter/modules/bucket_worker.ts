/**
 * A thread that reserves tokens of a shared bucket as fast as it can, one at a time, all at the same moment of its clock.
 */

import { Bucket, BUCKET_BUSY } from "../bucket.ts";

interface Order {
  readonly bucket: SharedArrayBuffer;
  /** Counts the threads that are ready. */
  readonly start: SharedArrayBuffer;
  readonly threads: number;
  readonly each: number;
}

const NOW_MS = 5000;
const thread = self as unknown as { onmessage: (event: MessageEvent<Order>) => void; postMessage(ms: number): void };

thread.onmessage = ({ data: { bucket, start, threads, each } }): void => {
  const tokens = new Bucket(bucket);
  const ready = new Int32Array(start);
  Atomics.add(ready, 0, 1);
  while (Atomics.load(ready, 0) < threads);
  let last = 0;
  for (let done = 0; done < each;) {
    const atMs = tokens.reserve(NOW_MS, 1, 1000, 10);
    if (atMs === BUCKET_BUSY) continue;
    last = atMs;
    done++;
  }
  thread.postMessage(last);
};
