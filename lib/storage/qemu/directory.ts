/**
 * Where storage daemons have their run directories, and the names of their locks.
 */

/** The folder of all daemons, below the directory of journals. */
export function daemonsDirectory(journals: string): string {
  return `${journals}/daemons`;
}

/** The lock of the daemon of a folder, in the store of journals. */
export function lockName(folder: string): string {
  return `daemon.${folder}.lock`;
}

/** The folder of a lock with that name; undefined if it is no daemon's. */
export function folderOfLock(name: string): string | undefined {
  return /^daemon\.([A-Za-z0-9_.-]+)\.lock$/.exec(name)?.[1];
}
