/**
 * Shows why a command failed and decides its exit status: an expected failure is one line with its remedy, an unexpected
 * one is reported as a defect.
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
    output.message(`xenblk: Cannot go on: Deno was started without a permission: ${printable(error.message)}`);
    return 1;
  }
  output.message(`xenblk: ${printable(errorText(error))}; this is a defect, please report it with what -v shows`);
  if (verbose) showStack(error, output);
  return 1;
}

function showStack(error: unknown, output: Output): void {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 5; cause = cause.cause, depth++) {
    output.message(cause.stack ?? String(cause));
  }
}
