/**
 * Runs one command: finds the verb, parses its arguments, runs it with output, signals and logging, and turns the
 * outcome into messages and an exit status.
 */

import { XenblkError } from "../errors.ts";
import { type LogLevel, startLogging } from "../log.ts";
import { ownEnvironment } from "../systemd/environment.ts";
import { isOneSlipAway, parseArguments, usageError } from "./args.ts";
import { CATALOG, type CatalogEntry, verbsOf } from "./catalog.ts";
import { COMPLETION_WORDS, completionWords } from "./completion_words.ts";
import { overview, verbHelp } from "./help.ts";
import { Output } from "./output.ts";
import { reportError } from "./error_report.ts";
import { LogWriter } from "./log_writer.ts";
import { DrainSignals } from "./signals.ts";
import type { Context, Host, VerbFace } from "./verb.ts";

/** The exit status if only the output failed. */
const OUTPUT_FAILED = 1;

/**
 * Runs a command line (without the program's name) and returns the exit status: 1 also if all went well but the output
 * could not be written. Never throws. `output`: in place of the streams of this process.
 */
export async function main(
  args: readonly string[],
  host: Host,
  version: string,
  output: Output = new Output(),
): Promise<number> {
  let status: number;
  try {
    status = await dispatch(args, host, version, output);
  } catch (error) {
    // The arguments may be what is wrong, so the parser cannot say what they ask for.
    status = reportError(error, output, { verbose: asksFor(args, "verbose", "v"), json: asksFor(args, "json", "J") });
  }
  return status === 0 && output.failed ? OUTPUT_FAILED : status;
}

/** Whether a flag is among the arguments, alone or with other letters. */
function asksFor(args: readonly string[], name: string, letter: string): boolean {
  const end = args.indexOf("--");
  return (end < 0 ? args : args.slice(0, end))
    .some((argument) => argument === `--${name}` || (/^-[a-zA-Z]+$/.test(argument) && argument.includes(letter)));
}

async function dispatch(args: readonly string[], host: Host, version: string, output: Output): Promise<number> {
  const [first, ...rest] = args;
  if (first === undefined) {
    output.raw(overview(CATALOG, output.messageColumns));
    return new XenblkError("", { kind: "usage" }).exitStatus;
  }
  if (first === "-V" || first === "--version") {
    output.data(`xenblk ${version}\n`);
    return 0;
  }
  if (first === "help") return await dispatch([...rest, "--help"], host, version, output);
  if (first === "-h" || first === "--help") {
    output.data(overview(CATALOG, output.columns));
    return 0;
  }
  if (first === COMPLETION_WORDS) {
    output.data(await completionWords(rest, await loadVerbs(), host));
    return 0;
  }
  const group = verbsOf(first).filter(({ name }) => name === `${first} ${rest[0]}` || !isVerb(first));
  if (group.length === 0) return await runVerb(findVerb(first, CATALOG), rest, host, version, output);
  const [second, ...others] = rest;
  if (second === "-h" || second === "--help") {
    output.data(overview(group, output.columns));
    return 0;
  }
  if (second !== undefined) return await runVerb(findVerb(`${first} ${second}`, group), others, host, version, output);
  output.raw(overview(group, output.messageColumns));
  return new XenblkError("", { kind: "usage" }).exitStatus;
}

async function runVerb(
  entry: CatalogEntry,
  args: readonly string[],
  host: Host,
  version: string,
  output: Output,
): Promise<number> {
  const verb = await entry.load();
  const { options, common, operands, given } = parseArguments(verb, args);
  if (common.help) {
    output.data(verbHelp(verb, output.columns));
    return 0;
  }
  if (common.version) {
    output.data(`xenblk ${version}\n`);
    return 0;
  }
  const logLevel: LogLevel = common.verbose ? "debug" : common.quiet ? "error" : "info";
  const guestNames = new Map<number, string>();
  const { keepsRunning = false } = verb;
  const log = new LogWriter({ output, environment: ownEnvironment, keepsRunning, guests: guestNames });
  using logging = await startLogging(logLevel, (_line, level, text) => log.write(level, text));
  using signals = new DrainSignals();
  const { quiet } = common;
  const inform = (line: string): void => quiet ? undefined : output.message(`xenblk: ${line}`);
  const own = { output, signals, host: log.through(host), version, logging, loadVerbs };
  const context: Context = { ...own, quiet, given, inform, guestNames };
  return await verb.run(context, options, operands);
}

function loadVerbs(): Promise<readonly VerbFace[]> {
  return Promise.all(CATALOG.map((entry) => entry.load()));
}

/** A verb of one word may begin those of a group, too: `backup DOMAIN ...`, `backup verify ...`. */
function isVerb(name: string): boolean {
  return CATALOG.some((entry) => entry.name === name);
}

function findVerb(name: string, among: readonly CatalogEntry[]): CatalogEntry {
  const entry = among.find((candidate) => candidate.name === name);
  if (entry !== undefined) return entry;
  if (name.startsWith("-")) throw usageError(undefined, `Cannot use ${name} before a verb`);
  const near = among.find((candidate) => isOneSlipAway(candidate.name, name));
  const hint = near === undefined ? "" : `, did you mean ${near.name}`;
  throw usageError(undefined, `Cannot run ${JSON.stringify(name)}: there is no such verb${hint}`);
}
