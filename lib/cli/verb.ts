/**
 * The parts of a verb (name, operands, options, work), and the context that it runs with.
 */

import type { NativePlatform } from "../host_platform.ts";
import type { Logging } from "../log.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import type { Output } from "./output.ts";
import type { DrainSignals } from "./signals.ts";

/** A positional argument. */
export interface Operand {
  /** As in help: `DOMAIN`. */
  readonly name: string;
  readonly help: string;
  readonly required: boolean;
  /** For completion: the operand is a file name. */
  readonly isPath?: boolean;
  /** Throws XenblkError (usage) for a text that cannot be such an operand, before the verb runs. */
  readonly check?: (text: string) => unknown;
}

/** Access to the real hypervisor; cli.ts provides it. */
export interface Host {
  /** Each part of the platform opens its library on first use. */
  openNativePlatform(): Promise<NativePlatform>;
}

/** What a verb gets in addition to its arguments. */
export interface Context {
  readonly output: Output;
  readonly signals: DrainSignals;
  readonly host: Host;
  /** Of xenblk. */
  readonly version: string;
  /** What the command logs; its level can be changed. */
  readonly logging: Logging;
  /** Loads all verbs. */
  readonly loadVerbs: () => Promise<readonly VerbFace[]>;
  /** Show no progress, and nothing else but data and errors. */
  readonly quiet: boolean;
  /** The names of the options that were given: a configuration file does not change these. */
  readonly given: ReadonlySet<string>;
  /** Shows a line about what was done on stderr, unless {@linkcode Context.quiet}. */
  readonly inform: (line: string) => void;
  /** Lines of the log name these guests. */
  readonly guestNames: Map<number, string>;
}

/** One command of the command line. */
export interface Verb<T extends OptionTable = OptionTable> {
  readonly name: string;
  /** One line, without a final period. */
  readonly summary: string;
  /** More for `--help`: whole sentences. */
  readonly description?: string;
  readonly operands: readonly Operand[];
  readonly options: T;
  /** The narrowest set of Deno permissions that it runs with. */
  readonly permissions: string;
  readonly examples: readonly string[];
  /** It serves until it is ended, so its lines come at times that matter. Absent: it does not. */
  readonly keepsRunning?: boolean;
  /** Does the work and returns the exit status. Rejects with XenblkError for an expected failure. */
  run(context: Context, options: OptionValues<T>, operands: Readonly<Record<string, string>>): Promise<number>;
}

/** Declares a verb, so that {@linkcode Verb.run} gets its options with their types. */
export function defineVerb<const T extends OptionTable>(verb: Verb<T>): Verb<T> {
  return verb;
}

/** A verb without its work: for help, completion and parsing. */
export type VerbFace = Omit<Verb, "run">;
