/**
 * The events of this process as lines of JSON, for `serve --json`: the same as clients of the control socket get. A
 * reader that stops reading costs the rest of the lines, and never a disk.
 */

import type { Service } from "../service.ts";
import { changes, DeviceEvents } from "./events.ts";
import { type ByteTarget, LineWriter } from "./lines.ts";
import type { ControlEvent } from "./protocol.ts";
import { endsWithin } from "../within.ts";

/** Lines that wait for their reader. */
const MOST_QUEUED_BYTES = 4 * 1024 * 1024;
/** How long the last line may take. */
const LAST_WORDS_MS = 1_000;

/** Writes a line for each device that is there, and for each event from now on. Disposing the result ends that. */
export function writeEvents({ devices }: Pick<Service, "devices">, target: ByteTarget): AsyncDisposable {
  const writer = new LineWriter(target, MOST_QUEUED_BYTES);
  const events = new DeviceEvents(devices);
  const now = (): string => new Date().toISOString();
  const write = (event: ControlEvent): void => {
    if (writer.add(JSON.stringify(event))) return;
    events[Symbol.dispose]();
    writer.end(JSON.stringify({ event: "end", time: now(), reason: "nobody reads the lines" } satisfies ControlEvent));
  };
  for (const report of devices.reports()) changes(undefined, report).forEach(write);
  events.follow(write);
  return {
    async [Symbol.asyncDispose](): Promise<void> {
      events[Symbol.dispose]();
      writer.add(JSON.stringify({ event: "end", time: now(), reason: "the process ends" } satisfies ControlEvent));
      await endsWithin(writer.drained, LAST_WORDS_MS);
      writer.end();
    },
  };
}
