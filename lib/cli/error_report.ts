/**
 * Shows why a command failed and chooses its exit status. An expected failure is one line with its remedy; any other
 * exception is reported as a defect.
 */

import { errorText, XenblkError } from "../errors.ts";
import { printable } from "../log.ts";
import type { Output } from "./output.ts";

/** Shows the error and returns the exit status. */
export function reportError(error: unknown, output: Output, verbose: boolean): number {
  if (error instanceof XenblkError) {
    output.message(`xenblk: ${printable(error.line)}`);
    if (verbose) showStack(error, output);
    return error.exitStatus;
  }
  if (error instanceof Deno.errors.NotCapable) {
    output.message(`xenblk: Cannot continue: Deno was started without a permission: ${printable(error.message)}`);
    return 1;
  }
  output.message(`xenblk: ${printable(errorText(error))}; this is a defect; please report it with the output of -v`);
  if (verbose) showStack(error, output);
  return 1;
}

function showStack(error: unknown, output: Output): void {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 5; cause = cause.cause, depth++) {
    output.message(cause.stack ?? String(cause));
  }
}
