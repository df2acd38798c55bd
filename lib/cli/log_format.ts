/**
 * How lines of the log look: plain on a terminal; with the time in a file; and for systemd's journal, which has the time
 * itself, with a level that it understands (sd-daemon(3)).
 */

import { usageError } from "./args.ts";
import type { LogLevel } from "../log.ts";
import type { NamedDisk } from "./readable.ts";
import type { Environment } from "../systemd/environment.ts";

/** `time` is plain with the time in front; `json` has an object in each line. */
const LOG_FORMATS = ["plain", "time", "journal", "json"] as const;

/** One of them. */
export type LogFormat = (typeof LOG_FORMATS)[number];

/** The variable that chooses one; `auto`, or nothing, leaves the choice to us. */
const VARIABLE = "XENBLK_LOG_FORMAT";

const OWN_STDERR = "/proc/self/fd/2";

/** The priorities of syslog(3). */
export const PRIORITY: Readonly<Record<LogLevel, number>> = { debug: 7, info: 6, warning: 4, error: 3 };

/** What decides the format. */
export interface LogPlace {
  readonly environment: Environment;
  /** stderr is a terminal. */
  readonly onTerminal: boolean;
  /** The command runs until it is ended: its lines come at times that matter. */
  readonly keepsRunning: boolean;
}

/** The format for a place. Throws XenblkError (usage) if the environment names one that does not exist. */
export function logFormatFor({ environment, onTerminal, keepsRunning }: LogPlace): LogFormat {
  const named = environment(VARIABLE) ?? "auto";
  const format = LOG_FORMATS.find((each) => each === named);
  if (format !== undefined) return format;
  if (named !== "auto" && named !== "") {
    throw usageError(undefined, `Cannot use ${VARIABLE}=${named}: it is one of auto, ${LOG_FORMATS.join(", ")}`);
  }
  if (isJournal(environment)) return "journal";
  return onTerminal || !keepsRunning ? "plain" : "time";
}

/** stderr goes to systemd's journal. */
export function isJournal(environment: Environment): boolean {
  const stream = environment("JOURNAL_STREAM");
  return stream !== undefined && stream === stderrIdentity();
}

/**
 * stderr as JOURNAL_STREAM names the journal's stream. Undefined if it is closed, or Deno may not look at it. `node:fs`
 * could look at the descriptor itself, but loading it takes a third of the time in which the command starts.
 */
function stderrIdentity(): string | undefined {
  if (Deno.permissions.querySync({ name: "read", path: OWN_STDERR }).state !== "granted") return undefined;
  try {
    const { dev, ino } = Deno.statSync(OWN_STDERR);
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

/** One line of the log, without a line end. `disk`: what it is about, for a form with fields. */
export function logLine(format: LogFormat, level: LogLevel, text: string, time: Date, disk?: NamedDisk): string {
  const named = level === "info" ? text : `${level}: ${text}`;
  switch (format) {
    case "plain":
      return `xenblk: ${named}`;
    case "time":
      return `${time.toISOString()} xenblk: ${named}`;
    case "journal":
      return `<${PRIORITY[level]}>${text}`;
    case "json":
      return JSON.stringify({ time: time.toISOString(), level, message: text, ...disk });
  }
}

/** A message of the command itself, as it is written elsewhere, for the journal. */
export function journalMessage(message: string, level: LogLevel): string {
  return message.split("\n").map((line) => `<${PRIORITY[level]}>${line.replace(/^xenblk: /, "")}`).join("\n");
}
