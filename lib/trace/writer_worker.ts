/**
 * The entry of the Worker that writes a trace. Its file calls may block; nothing else waits for them.
 */

/// <reference lib="deno.worker" />

import { errorText, XenblkError } from "../errors.ts";
import { TraceFile } from "./file.ts";
import type { TraceReply, WriteTrace } from "./messages.ts";
import { TraceConsumer } from "./rings.ts";

/** How long records are gathered before they are written. A part of the shared memory lasts for longer. */
const GATHER_MS = 10;

self.onmessage = ({ data }: MessageEvent<WriteTrace>): void => {
  const consumer = new TraceConsumer(data.memory);
  try {
    using file = TraceFile.open(data.path, data.session, data.limitBytes);
    reply({ type: "open" });
    write(file, consumer, data.path);
    reply({ type: "closed" });
  } catch (error) {
    const remedy = error instanceof XenblkError ? error.remedy : undefined;
    reply({ type: "failed", message: error instanceof XenblkError ? error.message : errorText(error), remedy });
  }
};

/** Writes until it is to end, or a write fails: the disk goes on without its trace. */
function write(file: TraceFile, consumer: TraceConsumer, path: string): void {
  let reportedFull = false;
  try {
    file.begin();
    while (true) {
      const isLast = consumer.isStopping;
      const count = consumer.drain((records) => file.append(records));
      file.lose(consumer.takeLost());
      file.flush();
      if (file.isFull && !reportedFull) {
        reportedFull = true;
        warn(`trace ${path} has reached its limit: further requests are counted, not recorded`);
      }
      if (isLast) return;
      if (count === 0) consumer.sleep();
      else consumer.gather(GATHER_MS);
    }
  } catch (error) {
    consumer.fail();
    warn(`${errorText(error)}; the disk goes on, and nothing more is recorded`);
  }
}

function warn(message: string): void {
  reply({ type: "warning", message });
}

function reply(message: TraceReply): void {
  self.postMessage(message);
}
