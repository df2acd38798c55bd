/**
 * A reactor's Worker that dies when a queue is moved to it: before it has begun to open the ring, or after, as the last
 * word of the queue's label says.
 */

/// <reference lib="deno.worker" />

import { OPEN_BEGUN, type ReactorCommand } from "../../lib/dataplane/messages.ts";

let prepared = false;

self.addEventListener("message", (event: MessageEvent<ReactorCommand>) => {
  const { data } = event;
  if (data.type === "prepare") prepared = true;
  if (data.type !== "open" || !prepared) return;
  event.stopImmediatePropagation();
  if (data.request.label.endsWith("begun")) Atomics.store(new Int32Array(data.begun), 0, OPEN_BEGUN);
  throw new Error("a defect");
});

await import("../../lib/dataplane/reactor_worker.ts");
