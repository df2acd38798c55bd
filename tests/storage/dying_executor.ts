/**
 * An executor whose I/O Worker ends with a defect soon after it was opened.
 */

import type { Executor } from "../../mod.ts";

/** See ExecutorModule. */
export function openExecutor(): Executor {
  queueMicrotask(() => {
    throw new Error("a defect");
  });
  return { execute: () => 0, [Symbol.dispose]: () => {} };
}
