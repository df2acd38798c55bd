/**
 * Sockets of servers in a daemon's root. A server that is started again makes its socket anew, and the daemon's root has
 * the earlier one, where nobody listens any more.
 */

import { lookWithin } from "../../path_lookup.ts";
import { placeFiles, takeFiles } from "./confinement.ts";
import type { DaemonRecord, RecordedFile } from "./record.ts";

/** Whether the daemon has files in its root that may be sockets. */
export function hasServers(record: DaemonRecord): boolean {
  return serversOf(record).length > 0;
}

/**
 * Puts those sockets into a running daemon's root that are others there than on the host. Resolves with a line about each
 * for the log. Never rejects.
 */
export async function renewSockets(record: DaemonRecord, root: string): Promise<string[]> {
  const { process } = record;
  const lines: string[] = [];
  for (const file of serversOf(record)) {
    const { path } = file;
    if (!await isAnother(path, `/proc/${process.pid}/root${path}`)) continue;
    const reason = await takeFiles(process, root, [path]) ?? await placeFiles(process, root, [file]);
    lines.push(
      `${path} was made anew: ${reason === undefined ? "it has that one now" : `it does not get it: ${reason}`}`,
    );
  }
  return lines;
}

/** A record has no inode of a socket. */
function serversOf({ rooted, disks }: DaemonRecord): RecordedFile[] {
  const files = rooted ? Object.values(disks).flatMap(({ files }) => files) : [];
  return files.filter(({ inode }) => inode === undefined);
}

/** Whether the host has a socket there, and the daemon, which runs, has another one. */
async function isAnother(path: string, inRoot: string): Promise<boolean> {
  try {
    const { isSocket, dev, ino } = await lookWithin(path, () => Deno.stat(path));
    if (isSocket !== true) return false;
    const seen = await lookWithin(inRoot, () => Deno.stat(inRoot));
    return seen.dev !== dev || seen.ino !== ino;
  } catch {
    return false; // the server or the daemon is gone
  }
}
