/**
 * Breaks texts into lines that fit a terminal: paragraphs at spaces, and command lines as a shell reads them. Used by help
 * and tables.
 */

/**
 * Breaks a text at spaces into lines of at most `width` characters, each after `indent` spaces. A word that is longer than
 * a line is not broken, because it may be a path that a reader copies.
 */
export function wrap(text: string, indent: number, width: number): string[] {
  return fill(text.split(/\s+/), " ", width - indent).map((line) => " ".repeat(indent) + line);
}

/** The same for a command line that a reader may paste into a shell: all lines but the last end with a backslash. */
export function wrapCommand(command: string, indent: number, width: number): string[] {
  if (indent + command.length <= width) return [" ".repeat(indent) + command];
  // A space in quotes is part of a word.
  const words = command.match(/(?:'[^']*'|"[^"]*"|\$\([^)]*\)|[^\s'"])+/g) ?? [];
  const ending = " \\";
  const lines = fill(words, " ", width - indent - ending.length, HANGING);
  return lines.map((line, index) => " ".repeat(indent) + line + (index < lines.length - 1 ? ending : ""));
}

/** Breaks a line of usage at spaces; the rest is indented further. */
export function wrapUsage(usage: string, indent: number, width: number): string[] {
  return fill(usage.split(" "), " ", width - indent, HANGING).map((line) => " ".repeat(indent) + line);
}

/** Breaks the alternatives of an option's value, `--engine=auto|uring|file`, after a bar. */
export function wrapAlternatives(text: string, indent: number, width: number): string[] {
  if (indent + text.length <= width) return [" ".repeat(indent) + text];
  const parts = text.split(/(?<=\|)/);
  return fill(parts, "", width - indent, HANGING).map((line) => " ".repeat(indent) + line);
}

/** How much further a continuation of a command is indented. */
const HANGING = 4;

/** Puts as many words on each line as fit into `room` characters. */
function fill(words: readonly string[], between: string, room: number, hanging = 0): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of words) {
    const longer = line.trim() === "" ? line + word : line + between + word;
    if (line.trim() !== "" && longer.length > room) {
      lines.push(line);
      line = " ".repeat(hanging) + word;
    } else line = longer;
  }
  return [...lines, line];
}
