/**
 * `xenblk log-level [LEVEL]`: shows how much the serving processes log, or changes it while they serve.
 */

import { ControlClient } from "../control/client.ts";
import { hostControlDirectory, servingProcesses } from "../control/serving.ts";
import { XenblkError } from "../errors.ts";
import { LOG_LEVELS, type LogLevel } from "../log.ts";
import { usageError } from "./args.ts";
import { flag, integer, optional } from "./options.ts";
import { Silent } from "./silent.ts";
import { renderTable } from "./table.ts";
import { defineVerb } from "./verb.ts";

/** Largest process number of Linux (PID_MAX_LIMIT in linux/threads.h). */
const MOST_PID = 2 ** 22;

/** The verb. */
export const logLevel = defineVerb({
  name: "log-level",
  summary: "Show or change how much serving processes log",
  description:
    "Asks each process that serves disks, or one, by its control socket. A new level lasts until the process " +
    "ends. Without LEVEL it shows the present ones.",
  operands: [{ name: "LEVEL", help: LOG_LEVELS.join(", "), required: false, check: parseLevel }],
  options: {
    "pid": optional(integer("Only this process", 1, MOST_PID, "PID"), "all"),
    "json": flag("Print JSON", "J"),
  },
  permissions: "--allow-env --allow-read --allow-write --allow-net, read and write limited to /run/xenblk.",
  examples: ["xenblk log-level", "xenblk log-level debug --pid 812"],
  async run({ output, inform }, options, operands): Promise<number> {
    const level = operands["level"] === undefined ? {} : { level: parseLevel(operands["level"]) };
    const silent = new Silent();
    const isMeant = (pid: number): boolean => (options.pid ?? pid) === pid;
    const all = await servingProcesses(hostControlDirectory(), (pid) => isMeant(pid) && silent.note(pid));
    const processes = all.filter(({ hello }) => isMeant(hello.pid));
    if (processes.length === 0) {
      throw silent.isEmpty ? nobody(options.pid) : silent.error("Cannot ask what serves disks");
    }
    if (!silent.isEmpty) inform(silent.line);
    const rows = [];
    for (const { path, hello } of processes) {
      using client = await ControlClient.connect(path);
      if (client === undefined) continue; // it has ended meanwhile
      rows.push({ pid: hello.pid, verb: hello.verb, kind: hello.kind, ...await client.call("logLevel", level) });
    }
    if (options.json) output.json(rows);
    else {
      const columns = [{ heading: "PID", align: "right" }, { heading: "VERB" }, { heading: "KIND" }, {
        heading: "LEVEL",
      }] as const;
      output.data(renderTable(columns, rows.map((row) => [String(row.pid), row.verb, row.kind, row.level]), true));
    }
    return 0;
  },
});

function parseLevel(text: string): LogLevel {
  const level = LOG_LEVELS.find((each) => each === text);
  if (level !== undefined) return level;
  throw usageError("log-level", `Cannot use ${JSON.stringify(text)} as LEVEL: it is one of ${LOG_LEVELS.join(", ")}`);
}

function nobody(pid: number | undefined): XenblkError {
  const who = pid === undefined ? "no process" : `no process ${pid}`;
  return new XenblkError(`Cannot find what serves disks: ${who} answers on a control socket`, {
    kind: "not-found",
    remedy: "start `xenblk serve`, or run this as its user",
  });
}
