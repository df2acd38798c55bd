/**
 * Where the journals of rings are kept on a real machine. Nothing is opened here.
 */

/** Where journals are kept, unless {@linkcode JOURNAL_DIRECTORY_VARIABLE} names another directory. */
export const JOURNAL_DIRECTORY = "/run/xenblk";

/** The environment variable that names another directory. */
export const JOURNAL_DIRECTORY_VARIABLE = "XENBLK_JOURNAL_DIR";

/** The directory that an environment names; `variable` reads one of its variables. */
export function journalDirectory(variable: (name: string) => string | undefined): string {
  return variable(JOURNAL_DIRECTORY_VARIABLE) ?? JOURNAL_DIRECTORY;
}
