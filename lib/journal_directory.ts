/**
 * The directory in which a real machine keeps the journals of rings, the latches and the devices' locks:
 * its name only.
 */

/** The directory, unless {@linkcode JOURNAL_DIRECTORY_VARIABLE} names another one. */
export const JOURNAL_DIRECTORY = "/run/xenblk";

/** The environment variable that names another directory. */
export const JOURNAL_DIRECTORY_VARIABLE = "XENBLK_JOURNAL_DIR";

/** The directory that an environment names; `variable` reads one of its variables. An empty one counts as unset. */
export function journalDirectory(variable: (name: string) => string | undefined): string {
  return variable(JOURNAL_DIRECTORY_VARIABLE) || JOURNAL_DIRECTORY;
}
