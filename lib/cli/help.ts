/**
 * The text of `--help`, generated from the verbs' tables of operands and options.
 */

import { COMMON_OPTIONS, optionNames } from "./args.ts";
import { ANY_TEXT, type Option, type OptionTable } from "./options.ts";
import { wrap, wrapAlternatives, wrapCommand, wrapUsage } from "./text.ts";
import type { VerbFace } from "./verb.ts";

/** Most characters of a line; fewer if the terminal has fewer, down to {@linkcode NARROWEST}. */
const WIDEST = 80;
const NARROWEST = 40;
/** Most characters of the first of two columns. */
const FIRST = 24;
/** On a narrower terminal the second column would have too little room: it goes below the first one. */
const TWO_COLUMNS = 60;
/** The indent of a text below its name. */
const BELOW = 6;

/** A verb as the overview shows it. */
export interface VerbSummary {
  readonly name: string;
  readonly summary: string;
}

/** `xenblk --help`, for a terminal of so many columns. */
export function overview(verbs: readonly VerbSummary[], terminalColumns = Infinity): string {
  const width = widthFor(terminalColumns);
  const lines = [
    ...wrap("xenblk serves disk images to Xen guests through the blkif ring protocol.", 0, width),
    "",
    ...wrapUsage("Usage: xenblk VERB [OPTIONS] [OPERANDS]", 0, width),
    "",
    "Verbs:",
    ...columns(verbs.map(({ name, summary }) => [name, summary]), width),
    "",
    "Options:",
    ...optionLines({ help: COMMON_OPTIONS.help, version: COMMON_OPTIONS.version }, width),
    "",
    ...wrap("xenblk VERB --help describes a verb and its options.", 0, width),
    ...wrap(
      "Exit status: 0 done, 1 failed, 2 usage, 3 no such domain or device, 4 timed out waiting for the guest, " +
        "5 hypervisor missing or not permitted, 6 image corrupt, 7 image with leaks (both: image check).",
      0,
      width,
    ),
  ];
  return lines.join("\n") + "\n";
}

/** `xenblk VERB --help`, for a terminal of so many columns. */
export function verbHelp(verb: VerbFace, terminalColumns = Infinity): string {
  const width = widthFor(terminalColumns);
  const lines = [...wrapUsage(`Usage: ${usageLine(verb)}`, 0, width), "", ...wrap(`${verb.summary}.`, 0, width)];
  if (verb.description !== undefined) lines.push("", ...wrap(verb.description, 0, width));
  if (verb.operands.length > 0) {
    lines.push("", "Operands:", ...columns(verb.operands.map(({ name, help }) => [name, help]), width));
  }
  if (Object.keys(verb.options).length > 0) lines.push("", "Options:", ...optionLines(verb.options, width));
  lines.push("", "Common options:", ...optionLines(COMMON_OPTIONS, width));
  if (verb.examples.length > 0) {
    lines.push("", "Examples:", ...verb.examples.flatMap((example) => wrapCommand(example, 2, width)));
  }
  lines.push("", "Deno permissions:", ...wrap(verb.permissions, 2, width));
  return lines.join("\n") + "\n";
}

/** `xenblk attach [OPTIONS] DOMAIN IMAGE [VDEV]`. */
function usageLine(verb: VerbFace): string {
  const operands = verb.operands.map(({ name, required }) => required ? name : `[${name}]`);
  return ["xenblk", verb.name, "[OPTIONS]", ...operands].join(" ");
}

function widthFor(terminalColumns: number): number {
  return Math.max(NARROWEST, Math.min(WIDEST, terminalColumns));
}

function optionLines(table: OptionTable, width: number): string[] {
  return columns(
    Object.entries(table).map(([name, option]) => [optionColumn(name, option), optionText(option)]),
    width,
  );
}

function optionColumn(name: string, option: Option): string {
  const names = optionNames(option, name);
  const aligned = names.length === 1 ? `    ${names[0]}` : names.join(", ");
  return option.kind === "flag" ? aligned : `${aligned}=${option.placeholder}`;
}

function optionText(option: Option): string {
  if (option.kind === "flag") return option.help;
  const says = option.choices === undefined && !option.isPath && option.allowed !== ANY_TEXT;
  const range = says ? `: ${option.allowed}` : "";
  const fallback = option.fallbackText === undefined ? "" : ` (default: ${option.fallbackText})`;
  return option.help + range + fallback;
}

/** Two columns. If a text is too wide for the first column, or the terminal too narrow, the second one is below it. */
function columns(entries: readonly (readonly [string, string])[], width: number): string[] {
  const first = Math.min(FIRST, Math.max(...entries.map(([name]) => name.length)));
  const isNarrow = width < TWO_COLUMNS;
  return entries.flatMap(([name, text]) => {
    const [head = "", ...tail] = wrap(text, isNarrow ? BELOW : first + 4, width);
    return isNarrow || name.length > first
      ? [...wrapAlternatives(isNarrow ? name.trimStart() : name, 2, width), head, ...tail]
      : [`  ${name.padEnd(first + 2)}${head.trimStart()}`, ...tail];
  });
}
