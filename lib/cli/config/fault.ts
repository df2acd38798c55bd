/**
 * What is wrong in a configuration file: a line, what cannot be used and why, and what to do.
 */

import { XenblkError } from "../../errors.ts";

/** One fault. */
export interface Fault {
  /** Counted from 1. */
  readonly line: number;
  /** What cannot be used, and why: `Cannot use "cahce" in [serve]: serve has no such option`. */
  readonly message: string;
  readonly remedy: string;
}

/** The fault as a line for a person: `FILE:LINE: Cannot ...; what to do`. */
export function faultText(path: string, { line, message, remedy }: Fault): string {
  return `${path}:${line}: ${message}; ${remedy}`;
}

/** The error of a verb that needs the file. It shows the first fault. */
export function faultError(path: string, faults: readonly [Fault, ...Fault[]]): XenblkError {
  const [{ line, message, remedy }, ...others] = faults;
  const more = others.length === 0 ? "" : `; \`xenblk config check ${path}\` shows ${others.length} more`;
  return new XenblkError(`${path}:${line}: ${message}`, { kind: "usage", remedy: remedy + more });
}
