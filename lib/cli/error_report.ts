/**
 * Shows why a command failed and chooses its exit status. An expected failure is one line with its remedy; any other
 * exception is reported as a defect. For programs the line is a JSON object.
 */

import { isAbort } from "../abort.ts";
import { type ErrorKind, errorText, XenblkError } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { explainStoreError } from "../xenstore.ts";
import type { Output } from "./output.ts";
import { readableLine } from "./readable.ts";

/** How an error is shown. */
export interface ErrorForm {
  /** A defect is shown with its stack. */
  readonly verbose: boolean;
  /** The line is an {@linkcode ErrorObject} in JSON. */
  readonly json: boolean;
}

/** What programs get: the last line of stderr. */
interface ErrorObject {
  readonly error: {
    /** `defect`: an error that the program does not expect. */
    readonly kind: ErrorKind | "defect";
    readonly exitStatus: number;
    readonly message: string;
    readonly remedy?: string;
  };
}

const DEFECT_STATUS = 1;
const DEFECT_REMEDY = "please report it with the output of -v";

/** Shows the error and returns the exit status. */
export function reportError(error: unknown, output: Output, { verbose, json }: ErrorForm): number {
  const expected = expectedFailure(error);
  const status = expected?.exitStatus ?? DEFECT_STATUS;
  if (expected === undefined && verbose) showStack(error, output);
  if (json) output.raw(`${JSON.stringify(errorObject(error, expected))}\n`);
  else if (expected !== undefined) output.message(`xenblk: ${printable(readableLine(expected.line))}`, "error");
  else output.message(`xenblk: ${printable(errorText(error))}; this is a defect; ${DEFECT_REMEDY}`, "error");
  return status;
}

function errorObject(error: unknown, expected: XenblkError | undefined): ErrorObject {
  if (expected === undefined) {
    const message = errorText(error);
    return { error: { kind: "defect", exitStatus: DEFECT_STATUS, message, remedy: DEFECT_REMEDY } };
  }
  const { kind, exitStatus, remedy } = expected;
  return {
    error: { kind, exitStatus, message: readableLine(expected.message), ...(remedy === undefined ? {} : { remedy }) },
  };
}

/** The failure with its exit status, unless the error is a defect. */
function expectedFailure(error: unknown): XenblkError | undefined {
  if (error instanceof XenblkError) return error;
  if (error instanceof XenstoreError) return explainStoreError(error);
  if (isAbort(error)) return new XenblkError(`Cannot continue: ${errorText(error)}`);
  if (error instanceof Deno.errors.NotCapable) {
    return new XenblkError(`Cannot continue: Deno was started without a permission: ${error.message}`);
  }
  if (error instanceof SuppressedError) {
    const [first, second] = [expectedFailure(error.suppressed), expectedFailure(error.error)];
    return first && second && new XenblkError(errorText(error), { kind: first.kind });
  }
  return undefined;
}

function showStack(error: unknown, output: Output): void {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 5; cause = cause.cause, depth++) {
    output.message(cause.stack ?? String(cause), "error");
  }
}
