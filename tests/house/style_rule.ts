/**
 * The style that every source file keeps, as judgements over its text and facts: an opening charter, sizes that fit a
 * screen, no `any`, and nothing of the machine it was written on. Pure: it reads no file.
 */

import type { SourceFacts } from "./source.ts";

/** Most lines of a source file. */
export const MOST_FILE_LINES = 500;
/** Most lines of a function. */
export const MOST_FUNCTION_LINES = 60;

/** Each breach of the style in a TypeScript file, as a line for a person. */
export function styleFaults(path: string, text: string, facts: SourceFacts): string[] {
  const faults: string[] = [];
  const lineCount = text.split("\n").length - 1;
  if (!hasCharter(text)) faults.push(`${path}: does not open with a comment that says what it is for`);
  if (lineCount > MOST_FILE_LINES) faults.push(`${path}: ${lineCount} lines, at most ${MOST_FILE_LINES}`);
  for (const { name, line, lineCount } of facts.functions) {
    if (lineCount > MOST_FUNCTION_LINES) faults.push(`${path}:${line}: ${name} has ${lineCount} lines`);
  }
  const lines = text.split("\n");
  for (const line of facts.anyLines) {
    const before = lines[line - 2] ?? "";
    if (!before.includes("deno-lint-ignore no-explicit-any --")) faults.push(`${path}:${line}: uses the type any`);
  }
  return faults;
}

/** A comment before any code, of at least two lines; a shebang and lint directives may come before it. */
function hasCharter(text: string): boolean {
  const body = text.replace(/^#!.*\n/, "").replace(/^(\/\/ deno-lint-ignore-file.*\n|\/\/\/ <.*\n)*/, "").trimStart();
  if (/^\/\*\*?[^*]/.test(body)) return body.slice(0, body.indexOf("*/")).split("\n").length >= 3;
  return /^\/\/[^\n]*\n\/\//.test(body);
}

/**
 * Traces of a particular machine: absolute paths of a home or working directory, and hosts of package registries.
 * Built from parts, so that this file does not match itself.
 */
const MACHINE: readonly RegExp[] = [
  new RegExp("(?<![\\w.~-])/" + "(?:work|root|home)/[a-z.]"),
  new RegExp("registry" + "\\.[a-z]+"),
  new RegExp("(?:arti" + "factory|verd" + "accio|nex" + "us)\\b", "i"),
];

/** Lines of any text file that name this machine or a package registry. */
export function machineFaults(path: string, text: string): string[] {
  return text.split("\n").flatMap((line, index) =>
    MACHINE.some((pattern) => pattern.test(line)) ? [`${path}:${index + 1}: names a machine's path or host`] : []
  );
}
