/**
 * Measures what code allocates. Over a long run the collector hides it, so the heap is read before and after short ones.
 */

import { assertLess } from "@std/assert";

/** Bytes of a heap number, the smallest object. */
const LEAST_BYTES = 12;

/** Asserts that `run(operations)` allocates less than one smallest object for each operation. */
export function assertNoAllocation(operations: number, run: (operations: number) => void): void {
  for (let time = 0; time < 4; time++) run(operations); // until V8 has compiled it
  let least = Infinity;
  for (let time = 0; time < 12; time++) {
    const before = Deno.memoryUsage().heapUsed;
    run(operations);
    const grown = Deno.memoryUsage().heapUsed - before;
    // A collection makes it less; compiling and others' work make it more.
    if (grown >= 0) least = Math.min(least, grown);
  }
  assertLess(least, LEAST_BYTES * operations);
}
