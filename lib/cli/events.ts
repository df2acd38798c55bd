/**
 * `xenblk events`: follows what happens to the disks of all serving processes, by their control sockets, until INT or
 * TERM.
 */

import { ControlClient } from "../control/client.ts";
import { changes } from "../control/events.ts";
import type { ControlEvent } from "../control/protocol.ts";
import { servingProcesses } from "../control/serving.ts";
import { SYSTEM_CLOCK } from "../clock.ts";
import { LOG_LEVELS, type LogLevel, printable } from "../log.ts";
import { jobText } from "./job/text.ts";
import { choice, flag, optional } from "./options.ts";
import { readableLine } from "./readable.ts";
import { defineVerb } from "./verb.ts";

/** How often processes that have started meanwhile are looked for. */
const LOOK_MS = 1_000;

/** The verb. */
export const events = defineVerb({
  name: "events",
  summary: "Follow what happens to the disks of all serving processes",
  description:
    "Prints a line for each disk that appears, connects, has an error, or goes, whichever process of xenblk " +
    "serves it; also for processes that start later. docs/control.md describes the JSON.",
  operands: [],
  options: {
    "log": optional(choice("Also the lines of the processes' logs, from this level on", LOG_LEVELS), "no lines"),
    "json": flag("Print each event as a line of JSON", "J"),
  },
  permissions: "--allow-env --allow-read --allow-write --allow-net, read and write limited to /run/xenblk.",
  examples: ["xenblk events", "xenblk events --json --log warning"],
  async run({ output, signals, inform }, { log, json }): Promise<number> {
    const names = new Map<number, string>();
    const print = (pid: number, event: ControlEvent): void => {
      if (event.event === "added" && event.report.guest !== undefined) {
        names.set(event.report.domain, event.report.guest);
      }
      if (json) output.data(`${JSON.stringify({ pid, ...event })}\n`);
      else output.data(`${event.time} ${pid} ${printable(readableLine(eventText(event), names))}\n`);
    };
    using clients = new DisposableStack();
    const followed = new Map<string, number>();
    if ((await servingProcesses()).length === 0) inform("no process serves disks yet; waiting for one");
    while (!signals.signal.aborted && !output.failed) {
      for (const { path, hello: { pid } } of await servingProcesses()) {
        if (followed.get(path) === pid) continue;
        const client = await follow(path, log, (event) => print(pid, event));
        if (client === undefined) continue;
        clients.use(client);
        followed.set(path, pid);
        void client.closed.then(() => followed.delete(path));
      }
      await SYSTEM_CLOCK.sleep(LOOK_MS, signals.signal);
    }
    return 0;
  },
});

/** Prints the devices that are there, then events. Undefined if the process has ended meanwhile. */
async function follow(
  path: string,
  log: LogLevel | undefined,
  print: (event: ControlEvent) => void,
): Promise<ControlClient | undefined> {
  using undo = new DisposableStack();
  try {
    const client = await ControlClient.connect(path);
    if (client === undefined) return undefined;
    undo.use(client);
    const { devices } = await client.subscribe(log === undefined ? {} : { log }, print);
    for (const report of devices) changes(undefined, report).forEach(print);
    undo.move();
    return client;
  } catch {
    return undefined; // it is looked for again
  }
}

/** An event as a person reads it. */
function eventText(event: ControlEvent): string {
  switch (event.event) {
    case "log":
      return `${event.level}: ${event.line}`;
    case "end":
      return `end: ${event.reason}`;
    case "added":
      return `${event.device} added: ${event.report.image ?? "no image open"}`;
    case "state":
      return `${event.device} backend ${event.backendState}, frontend ${event.frontendState}`;
    case "moved":
      return `${event.device} queue ${event.queue} moved from reactor ${event.from} to ${event.to}`;
    case "job":
      return `${event.device} ${jobText(event.job)}`;
    case "error":
      return `${event.device} error: ${event.error}`;
    default:
      return `${event.device} ${event.event}`;
  }
}
