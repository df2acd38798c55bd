/**
 * Text as one word of a shell's command line, so that a command in a message can be copied whatever a file's name is.
 */

/** The text, quoted where a POSIX shell would not take it as it is. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
