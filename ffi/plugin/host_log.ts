/**
 * The log of a plugin: lines on its standard error, each with its level in front. output.ts reads them, and makes what is
 * in them harmless.
 */

import type { Logger } from "../../lib/log.ts";
import { LEVEL_MARK } from "./layout.ts";

const encoder = new TextEncoder();

function write(letter: string, line: string): void {
  const bytes = encoder.encode(`${LEVEL_MARK}${letter}${line.replaceAll("\n", " | ")}\n`);
  for (let done = 0; done < bytes.length;) done += Deno.stderr.writeSync(bytes.subarray(done));
}

/** Writes to standard error. */
export const hostLog: Logger = {
  debug: (line) => write("d", line),
  info: (line) => write("i", line),
  warning: (line) => write("w", line),
  error: (line) => write("e", line),
};
