/**
 * The text of `--help`, generated from the verbs' tables of operands and options.
 */

import { COMMON_OPTIONS, optionNames } from "./args.ts";
import type { Option, OptionTable } from "./options.ts";
import type { VerbFace } from "./verb.ts";

/** Width of a line in characters. */
const WIDTH = 100;

/** A verb as the overview shows it. */
export interface VerbSummary {
  readonly name: string;
  readonly summary: string;
}

/** `xenblk --help`. */
export function overview(verbs: readonly VerbSummary[]): string {
  const lines = [
    "xenblk serves disk images to Xen guests through the blkif ring protocol.",
    "",
    "Usage: xenblk VERB [OPTIONS] [OPERANDS]",
    "",
    "Verbs:",
    ...columns(verbs.map(({ name, summary }) => [name, summary])),
    "",
    "Options:",
    ...optionLines({ help: COMMON_OPTIONS.help, version: COMMON_OPTIONS.version }),
    "",
    "xenblk VERB --help describes a verb and its options.",
    "Exit status: 0 done, 1 failed, 2 usage, 3 no such domain or device, 4 timed out waiting for the guest,",
    "5 hypervisor missing or not permitted, 6 image corrupt, 7 image with leaks (both: image check).",
  ];
  return lines.join("\n") + "\n";
}

/** `xenblk VERB --help`. */
export function verbHelp(verb: VerbFace): string {
  const lines = [`Usage: ${usageLine(verb)}`, "", ...wrap(`${verb.summary}.`, 0)];
  if (verb.description !== undefined) lines.push("", ...wrap(verb.description, 0));
  if (verb.operands.length > 0) {
    lines.push("", "Operands:", ...columns(verb.operands.map(({ name, help }) => [name, help])));
  }
  if (Object.keys(verb.options).length > 0) lines.push("", "Options:", ...optionLines(verb.options));
  lines.push("", "Common options:", ...optionLines(COMMON_OPTIONS));
  if (verb.examples.length > 0) lines.push("", "Examples:", ...verb.examples.map((example) => `  ${example}`));
  lines.push("", "Deno permissions:", ...wrap(verb.permissions, 2));
  return lines.join("\n") + "\n";
}

/** `xenblk attach [OPTIONS] DOMAIN IMAGE [VDEV]`. */
function usageLine(verb: VerbFace): string {
  const operands = verb.operands.map(({ name, required }) => required ? name : `[${name}]`);
  return ["xenblk", verb.name, "[OPTIONS]", ...operands].join(" ");
}

function optionLines(table: OptionTable): string[] {
  return columns(Object.entries(table).map(([name, option]) => [optionColumn(name, option), optionText(option)]));
}

function optionColumn(name: string, option: Option): string {
  const names = optionNames(option, name);
  const aligned = names.length === 1 ? `    ${names[0]}` : names.join(", ");
  return option.kind === "flag" ? aligned : `${aligned}=${option.placeholder}`;
}

function optionText(option: Option): string {
  if (option.kind === "flag") return option.help;
  const range = option.choices !== undefined || option.isPath ? "" : `: ${option.allowed}`;
  const fallback = option.fallbackText === undefined ? "" : ` (default: ${option.fallbackText})`;
  return option.help + range + fallback;
}

/** Two columns. If a text is too wide for the first column, the second one starts on the next line. */
function columns(entries: readonly (readonly [string, string])[]): string[] {
  const first = Math.min(30, Math.max(...entries.map(([name]) => name.length)));
  return entries.flatMap(([name, text]) => {
    const [head = "", ...tail] = wrap(text, first + 4);
    return name.length > first
      ? [`  ${name}`, head, ...tail]
      : [`  ${name.padEnd(first + 2)}${head.trimStart()}`, ...tail];
  });
}

/** Breaks a text at spaces into indented lines of at most {@linkcode WIDTH} characters. */
function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    if (line !== "" && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(" ".repeat(indent) + line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, " ".repeat(indent) + line];
}
