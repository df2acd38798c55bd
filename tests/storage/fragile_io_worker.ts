/**
 * The entry of an I/O Worker that cannot start as long as the file exists that the module's own URL names.
 */

/// <reference lib="deno.worker" />

import { runIoWorker } from "../../lib/storage/pool/loop.ts";

const hold = decodeURIComponent(new URL(import.meta.url).search.slice(1));
try {
  Deno.statSync(hold);
} catch {
  void runIoWorker(self);
}
if (self.onmessage === null) throw new Error("Too many open files (os error 24)");
