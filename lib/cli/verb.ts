/**
 * What a verb is: its name, operands, options and work, and what it is given to work with.
 */

import type { NativePlatform } from "../host_platform.ts";
import type { LogLevel } from "../log.ts";
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
}

/** The real hypervisor, which the composition root brings in. */
export interface Host {
  /** Its parts open their libraries when they are first asked for. */
  openNativePlatform(): Promise<NativePlatform>;
}

/** What a verb is given beside its arguments. */
export interface Context {
  readonly output: Output;
  readonly signals: DrainSignals;
  readonly host: Host;
  readonly logLevel: LogLevel;
  /** All verbs there are, loaded. */
  readonly loadVerbs: () => Promise<readonly VerbFace[]>;
  /** Progress is not to be shown. */
  readonly quiet: boolean;
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
  /** The least Deno permissions that it runs with. */
  readonly permissions: string;
  readonly examples: readonly string[];
  /** Does the work and returns the exit status. Rejects with XenblkError for what a person should read. */
  run(context: Context, options: OptionValues<T>, operands: Readonly<Record<string, string>>): Promise<number>;
}

/** Declares a verb, so that its options' types reach {@linkcode Verb.run}. */
export function defineVerb<const T extends OptionTable>(verb: Verb<T>): Verb<T> {
  return verb;
}

/** A verb without its work: for help, completion and parsing. */
export type VerbFace = Omit<Verb, "run">;
