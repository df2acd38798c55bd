/**
 * Where storage daemons have their run directories.
 */

/** The folder of all daemons, below the directory of journals. */
export function daemonsDirectory(journals: string): string {
  return `${journals}/daemons`;
}
