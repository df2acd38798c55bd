/**
 * Shows why a command failed and chooses its exit status. An expected failure is one line with its remedy; any other
 * exception is reported as a defect.
 */

import { isAbort } from "../abort.ts";
import { errorText, XenblkError } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { explainStoreError } from "../xenstore.ts";
import type { Output } from "./output.ts";

/** Shows the error and returns the exit status. Only a defect is shown with its stack, if `verbose`. */
export function reportError(error: unknown, output: Output, verbose: boolean): number {
  const expected = expectedFailure(error);
  if (expected !== undefined) {
    output.message(`xenblk: ${printable(expected.line)}`);
    return expected.exitStatus;
  }
  output.message(`xenblk: ${printable(errorText(error))}; this is a defect; please report it with the output of -v`);
  if (verbose) showStack(error, output);
  return 1;
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
    output.message(cause.stack ?? String(cause));
  }
}
