/**
 * The entry of an I/O Worker, and a composition root: brings the I/O loop together with the platform it is told to
 * open, which is loaded only then.
 */

/// <reference lib="deno.worker" />

import { runIoWorker } from "./loop.ts";

// Not awaited: a Worker gets no messages before its module is evaluated.
void runIoWorker(self, {
  openPlatform: async (descriptor) => (await import("../../../platform.ts")).openPlatform(descriptor),
  openCover: async (descriptor) => (await import("../../../platform.ts")).openCover(descriptor),
});
