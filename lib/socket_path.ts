/**
 * Whether the path of a Unix socket below the run directory is short enough for the kernel.
 */

import { XenblkError } from "./errors.ts";

/** Longest path of a Unix socket, in bytes: sun_path of unix(7) is 108 with its final NUL. */
const LONGEST_SOCKET_PATH = 107;

/** The path itself. Throws {@linkcode XenblkError} if it is too long for a socket. */
export function socketPathBelow(path: string): string {
  const bytes = new TextEncoder().encode(path).length;
  if (bytes <= LONGEST_SOCKET_PATH) return path;
  throw new XenblkError(
    `Cannot use ${path} as a socket: it has ${bytes} bytes, and the kernel takes ${LONGEST_SOCKET_PATH}`,
    { remedy: "name a directory with a shorter path with XENBLK_JOURNAL_DIR" },
  );
}
