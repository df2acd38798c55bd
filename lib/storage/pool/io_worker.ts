/**
 * The entry of an I/O Worker. The platform, and each disk's executor, come from the modules that its messages name.
 */

/// <reference lib="deno.worker" />

import { runIoWorker } from "./loop.ts";

// Not awaited: a Worker gets no messages before its module is evaluated.
void runIoWorker(self);
