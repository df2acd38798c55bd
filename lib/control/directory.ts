/**
 * Where the sockets of serving processes are: `control/PID.sock` below the directory of the journals, in a directory that
 * its owner alone may enter.
 */

import { SYSTEM_CLOCK } from "../clock.ts";
import { errorText } from "../errors.ts";

/** How long nobody may listen on a socket until it is stale: one that is being made does not listen yet. */
const SETTLE_MS = 50;
/** Sockets that are looked at; more processes do not serve on one host. */
const MOST_SOCKETS = 1024;

/** The directory of the sockets. `journals` is that of the journals. */
export function controlDirectory(journals: string): string {
  return `${journals}/control`;
}

/** The socket of a process. */
export function socketPath(directory: string, pid: number): string {
  return `${directory}/${pid}.sock`;
}

/** Where readers of an export of that device connect. */
export function exportSocket(directory: string, device: string): string {
  return `${directory}/export-${device.replaceAll("/", "-")}.sock`;
}

/** The sockets of exports in the directory, which exists. */
async function listExportSockets(directory: string): Promise<string[]> {
  const names = await Array.fromAsync(Deno.readDir(directory), ({ name }) => name);
  return names.filter((name) => /^export-.*\.sock$/.test(name)).map((name) => `${directory}/${name}`);
}

/** The sockets in the directory, those of dead processes among them, by path. None if there is no directory. */
export async function listSockets(directory: string): Promise<{ readonly path: string; readonly pid: number }[]> {
  const sockets = [];
  try {
    for await (const { name } of Deno.readDir(directory)) {
      const pid = /^([0-9]+)\.sock$/.exec(name)?.[1];
      if (pid !== undefined && sockets.push({ path: `${directory}/${name}`, pid: Number(pid) }) === MOST_SOCKETS) break;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return sockets.sort((a, b) => a.pid - b.pid);
}

/** Connects to a socket, or resolves with undefined if nobody listens there any more. */
export async function connectTo(path: string): Promise<Deno.UnixConn | undefined> {
  try {
    return await Deno.connect({ transport: "unix", path });
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused || error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Makes the directory, for its owner alone, and removes sockets whose processes have ended. */
export async function prepareDirectory(directory: string, warn: (line: string) => void): Promise<void> {
  await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
  const { isDirectory, mode } = await Deno.lstat(directory);
  // The user of an unprivileged serve owns the folder around it, and root may come by: no link may lead it astray.
  if (!isDirectory) throw new Deno.errors.NotADirectory(`${directory} is not a directory`);
  // One that another umask or hand made.
  if (((mode ?? 0) & 0o777) !== 0o700) await Deno.chmod(directory, 0o700);
  const own = (await listSockets(directory)).map(({ path }) => path);
  const silent = await silentOf([...own, ...await listExportSockets(directory)]);
  if (silent.length === 0) return;
  await SYSTEM_CLOCK.sleep(SETTLE_MS);
  for (const path of await silentOf(silent)) {
    try {
      await Deno.remove(path);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) warn(`cannot remove the stale socket: ${errorText(error)}`);
    }
  }
}

/** Removes the directory if no socket is in it. */
export async function leaveDirectory(directory: string): Promise<void> {
  try {
    await Deno.remove(directory);
  } catch { /* others have sockets in it */ }
}

/** Those on which nobody listens. One that cannot be reached, such as another user's, is left alone. */
async function silentOf(paths: readonly string[]): Promise<string[]> {
  const silent = [];
  for (const path of paths) {
    try {
      using connection = await connectTo(path);
      if (connection === undefined) silent.push(path);
    } catch { /* it is somebody's: a stopped process has no room for another connection, or it is another user's */ }
  }
  return silent;
}
