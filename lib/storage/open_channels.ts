/**
 * The number of channels that threads have open to one disk, in memory that they share, so that closing the disk can
 * wait for the last one.
 */

import { XenblkError } from "../errors.ts";

const OPEN = 0;
const CLOSED = 1;
const BYTES = 2 * Int32Array.BYTES_PER_ELEMENT;

/** Milliseconds between the first two looks at the number, and at most: a channel may stay open for ever. */
const POLL_MS = 2;
const LONGEST_POLL_MS = 250;

/** The count of a new disk. */
export function countChannels(): SharedArrayBuffer {
  return new SharedArrayBuffer(BYTES);
}

/** Counts a channel until the result is disposed. Throws {@linkcode XenblkError}, naming the disk, if it is closed. */
export function joinChannels(channels: SharedArrayBuffer, disk: string): Disposable {
  const words = new Int32Array(channels);
  Atomics.add(words, OPEN, 1);
  const leave = (): void => void Atomics.sub(words, OPEN, 1);
  if (Atomics.load(words, CLOSED) === 0) return { [Symbol.dispose]: leave };
  leave();
  throw new XenblkError(`Cannot open an I/O channel to ${disk}: the disk is closed`);
}

/** Lets no channel join any more; resolves when no thread has one. */
export async function channelsClosed(channels: SharedArrayBuffer): Promise<void> {
  const words = new Int32Array(channels);
  Atomics.store(words, CLOSED, 1);
  for (let pollMs = POLL_MS; Atomics.load(words, OPEN) > 0; pollMs = Math.min(2 * pollMs, LONGEST_POLL_MS)) {
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}
