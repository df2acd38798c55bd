/**
 * An executor that some I/O Workers get late: in all but the first one this module loads only once a file is gone, which
 * the module's own URL names.
 */

/// <reference lib="deno.worker" />

import type { Executor, ExecutorDescriptor } from "../../mod.ts";

const pause = new Int32Array(new SharedArrayBuffer(4));

/** Names the executor. */
export interface HeldDescriptor extends ExecutorDescriptor {
  /** Words: how many executors are open, then how many jobs each I/O Worker carried out. */
  readonly counters: SharedArrayBuffer;
}

/** Names an executor for which all I/O Workers but the first wait as long as the file exists. */
export function heldWhile(path: string, counters: SharedArrayBuffer): HeldDescriptor {
  return { module: `${import.meta.url}?${encodeURIComponent(path)}`, counters };
}

const hold = decodeURIComponent(new URL(import.meta.url).search.slice(1));
while (hold !== "" && self.name !== "io-0" && await exists(hold)) {
  await new Promise((resolve) => setTimeout(resolve, 2));
}

/** See ExecutorModule. Its jobs take long enough for the other I/O Workers to be woken. */
export function openExecutor({ counters }: HeldDescriptor): Executor {
  const words = new Int32Array(counters);
  Atomics.add(words, 0, 1);
  return {
    execute: () => {
      Atomics.add(words, 1 + Number(self.name.slice("io-".length)), 1);
      Atomics.wait(pause, 0, 0, 1);
      return 0;
    },
    [Symbol.dispose]: () => void Atomics.sub(words, 0, 1),
  };
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}
