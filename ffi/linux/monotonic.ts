/**
 * The kernel's monotonic clock. All threads of a process read the same one, other than performance.now(), which begins
 * with its thread; and reading it takes a third of the time.
 */

import { lazily } from "./library.ts";
import { libc } from "./libc.ts";

const CLOCK_MONOTONIC = 1;
/** A struct timespec of a 64-bit Linux, as words: seconds, which stay below 2^31, and nanoseconds. */
const SECONDS_WORD = 0;
const NANOSECONDS_WORD = 2;

const timespec = lazily(() => {
  const words = new Int32Array(4);
  return { words, address: Deno.UnsafePointer.of(words), read: libc().clock_gettime };
});

/** Stores the milliseconds since some moment, with fractions. A number that is returned may have to be allocated. */
export function readMonotonicMs(into: Float64Array, index: number): void {
  const { words, address, read } = timespec();
  read(CLOCK_MONOTONIC, address);
  into[index] = words[SECONDS_WORD]! * 1e3 + words[NANOSECONDS_WORD]! / 1e6;
}
