/**
 * Log lines: the small interface that every room logs through, and its implementation over LogTape. One line is one
 * record: what a guest wrote into xenstore can forge neither a second line nor a terminal sequence.
 */

// In full, and here alone: a program outside the checkout imports this file without our import map.
import { configure, getLogger, type LogRecord, resetSync } from "npm:@logtape/logtape@2.4.2";

/** How much is logged; each level includes those after it. */
export type LogLevel = "debug" | "info" | "warning" | "error";

/** The levels in that order. */
export const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warning", "error"];

/** Takes log lines. A line is plain text without a final period; `label: what happened` where a device is meant. */
export interface Logger {
  /** Details that only help to find a fault. */
  debug(line: string): void;
  /** News for an operator: a disk was connected, closed. */
  info(line: string): void;
  /** A fault that was handled. */
  warning(line: string): void;
  /** A fault that the operator has to fix. */
  error(line: string): void;
}

/** Drops all lines. */
export const SILENT: Logger = { debug: () => {}, info: () => {}, warning: () => {}, error: () => {} };

/** Longest line that is logged, in characters; the rest is cut off. */
const MAX_LINE_CHARACTERS = 1000;

/**
 * The text as one printable line: control characters, and those that turn the direction of what follows, become `\xNN`;
 * an overlong text is cut with an ellipsis.
 */
export function printable(text: string): string {
  const cut = text.length > MAX_LINE_CHARACTERS ? `${text.slice(0, MAX_LINE_CHARACTERS)}…` : text;
  // deno-lint-ignore no-control-regex -- control characters are what must not get through
  return cut.replace(/[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
}

/** Escapes braces: LogTape reads `{name}` in a message as a placeholder. */
function literal(line: string): string {
  return printable(line).replaceAll("{", "{{").replaceAll("}", "}}");
}

/** A logger over LogTape's category `xenblk.<room>`. Silent until LogTape is configured. */
export function createLogger(room: string): Logger {
  const logger = getLogger(["xenblk", room]);
  return {
    debug: (line) => logger.debug(literal(line)),
    info: (line) => logger.info(literal(line)),
    warning: (line) => logger.warn(literal(line)),
    error: (line) => logger.error(literal(line)),
  };
}

/** A logger that puts `label: ` before each line. */
export function labelled(logger: Logger, label: string): Logger {
  return {
    debug: (line) => logger.debug(`${label}: ${line}`),
    info: (line) => logger.info(`${label}: ${line}`),
    warning: (line) => logger.warning(`${label}: ${line}`),
    error: (line) => logger.error(`${label}: ${line}`),
  };
}

/** The running log. Disposing it ends all logging. */
export interface Logging extends Disposable {
  /** Lines of this level and above are written. It can be changed at any time. */
  level: LogLevel;
  /** Calls `take` with each line whatever its level, until the result is disposed. */
  follow(take: (level: LogLevel, line: string) => void): Disposable;
}

/** The level of a record: LogTape has two more. */
function levelOf({ level }: LogRecord): LogLevel {
  return level === "trace" ? "debug" : level === "fatal" ? "error" : level;
}

/**
 * Sends all lines of `level` and above to `write`, each as `level: line` (an info line bare), without a line end; and
 * both parts by themselves. Called once by the command; a later call replaces the earlier one.
 */
export async function startLogging(
  level: LogLevel,
  write: (line: string, level: LogLevel, text: string) => void,
): Promise<Logging> {
  const followers = new Set<(level: LogLevel, line: string) => void>();
  const logging: Logging = {
    level,
    follow(take): Disposable {
      const own: typeof take = (level, line) => take(level, line);
      followers.add(own);
      return { [Symbol.dispose]: (): void => void followers.delete(own) };
    },
    [Symbol.dispose]: resetSync,
  };
  const sink = (record: LogRecord): void => {
    const text = record.message.join("");
    const level = levelOf(record);
    for (const take of followers) take(level, text);
    if (LOG_LEVELS.indexOf(level) < LOG_LEVELS.indexOf(logging.level)) return;
    write(level === "info" ? text : `${level}: ${text}`, level, text);
  };
  await configure({
    reset: true,
    sinks: { lines: sink },
    loggers: [
      { category: "xenblk", sinks: ["lines"], lowestLevel: "debug" },
      // LogTape's own diagnostics; this leaves out its hint that the category is not configured.
      { category: ["logtape", "meta"], sinks: ["lines"], lowestLevel: "warning" },
    ],
  });
  return logging;
}
