/**
 * Text for man pages: the few macros of man(7) that the pages use, and the escapes that make any text stand for itself.
 * Both groff and mandoc read the result.
 */

/** Most characters of a line of running text, before escapes. */
const LINE = 72;

/** The text as roff prints it: no character of it is taken for an escape, a macro or a typographic sign. */
export function escape(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll("'", "\\(aq").replaceAll("`", "\\(ga")
    .replaceAll("^", "\\(ha").replaceAll("~", "\\(ti").replaceAll(/^\./gm, "\\&.");
}

/** A word in bold, or in italics, within a line. */
export function bold(text: string): string {
  return `\\fB${escape(text)}\\fR`;
}

/** A word that stands for a value. */
export function italic(text: string): string {
  return `\\fI${escape(text)}\\fR`;
}

/** `.TH` with its fields: the page's name in capitals, section, date (YYYY-MM-DD), program and manual. */
export function title(name: string, section: number, date: string, source: string): string {
  return `.TH ${quoted(name.toUpperCase())} ${section} "${date}" ${quoted(source)} "xenblk"`;
}

/** A section with its heading and what it holds; nothing if it holds nothing. */
export function section(heading: string, lines: readonly string[]): string[] {
  const body = lines[0] === ".PP" ? lines.slice(1) : lines;
  return body.length === 0 ? [] : [`.SH ${quoted(heading)}`, ...body];
}

/** A paragraph with a hanging tag. `tag` is roff already, `text` is plain. */
export function tagged(tag: string, text: string): string[] {
  return [".TP", tag, ...sentences(text)];
}

/** Lines to be printed as they are. */
export function verbatim(lines: readonly string[]): string[] {
  return [".PP", ".nf", ".RS 4", ...lines.map((line) => escape(line)), ".RE", ".fi"];
}

/** Plain text. Each sentence begins a line, so that roff spaces sentences well. */
export function sentences(text: string): string[] {
  return text.split(/(?<=[.:;?!])\s+(?=[A-Z"])/).flatMap(broken).map(escape);
}

/** Breaks a text at spaces; roff joins the lines again. */
function broken(text: string): string[] {
  const lines = [""];
  for (const word of text.trim().split(/\s+/)) {
    const line = lines.at(-1)!;
    if (line === "") lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length > LINE) lines.push(word);
    else lines[lines.length - 1] = `${line} ${word}`;
  }
  return lines;
}

/** An argument of a macro. */
function quoted(text: string): string {
  return `"${escape(text).replaceAll('"', "\\(dq")}"`;
}
