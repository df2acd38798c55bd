/**
 * Finds what the serving processes of this host say about their disks, and the process of one disk, by their sockets. A
 * process that has ended, does not answer, or may not be asked is passed over: xenstore still tells the rest.
 */

import type { DeviceReport } from "../backend/status.ts";
import { XenblkError } from "../errors.ts";
import { journalDirectory } from "../journal_directory.ts";
import { ConnectionLostError, ControlClient } from "./client.ts";
import { connectTo, controlDirectory, listSockets } from "./directory.ts";
import type { Hello } from "./protocol.ts";

/** How long a process may take to say who it is, and what it serves. */
export const ASK_MS = 1_000;

/** A process that answers on its socket. */
export interface ServingProcess {
  /** The socket. */
  readonly path: string;
  readonly hello: Hello;
}

/** A device, and the process that serves it. */
export interface LiveDevice extends ServingProcess {
  readonly report: DeviceReport;
}

/** Gets the number of a process that has a socket and does not answer: it is stopped, or hangs. */
export type NoteSilent = (pid: number) => void;

/** The directory of the sockets of this host, as this process's environment has it. */
export function hostControlDirectory(): string {
  return controlDirectory(journalDirectory((name) => Deno.env.get(name)));
}

/** The processes that serve, in the order of their numbers. */
export async function servingProcesses(
  directory = hostControlDirectory(),
  silent?: NoteSilent,
): Promise<readonly ServingProcess[]> {
  return await askEach(directory, (_client, process) => Promise.resolve(process), silent);
}

/** The devices that processes have, by the backend's directory. */
export async function liveDevices(
  directory = hostControlDirectory(),
  silent?: NoteSilent,
): Promise<ReadonlyMap<string, LiveDevice>> {
  const devices = await askEach(directory, devicesOf, silent);
  return new Map(devices.flat().map((device) => [device.report.backendPath, device]));
}

/** A connection to the process that has the device at that directory of its backend. Undefined: none says that it has. */
export async function clientOf(
  backendPath: string,
  silent?: NoteSilent,
): Promise<ControlClient | undefined> {
  const device = (await liveDevices(hostControlDirectory(), silent)).get(backendPath);
  return device === undefined ? undefined : await ControlClient.connect(device.path);
}

/** The devices that one process has. */
export async function devicesOf(client: ControlClient, process: ServingProcess): Promise<readonly LiveDevice[]> {
  const { devices } = await client.call("status", {}, { timeoutMs: ASK_MS });
  return devices.filter(({ owned }) => owned).map((report) => ({ ...process, report }));
}

/** Asks all processes at the same time. */
export async function askEach<T>(
  directory: string,
  ask: (client: ControlClient, process: ServingProcess) => Promise<T>,
  silent: NoteSilent = () => {},
): Promise<T[]> {
  const asked = (await socketsIn(directory)).map(async ({ path, pid }): Promise<T[]> => {
    try {
      using client = await ControlClient.connect(path);
      if (client === undefined) return [];
      const hello = await client.call("hello", {}, { timeoutMs: ASK_MS });
      return [await ask(client, { path, hello })];
    } catch (error) {
      if (isSilence(error) || await refuses(path, error)) silent(pid);
      return []; // it ended meanwhile, is stopped, or is another user's
    }
  });
  return (await Promise.all(asked)).flat();
}

/** It did not answer, or has so many connections to take that no other one can wait. */
function isSilence(error: unknown): boolean {
  return (error instanceof XenblkError && error.kind === "timeout") || error instanceof Deno.errors.WouldBlock;
}

/** It is there, but has closed the connection: it has too many. */
async function refuses(path: string, error: unknown): Promise<boolean> {
  if (!(error instanceof ConnectionLostError)) return false;
  using again = await connectTo(path).catch(() => undefined);
  return again !== undefined;
}

/** None where this process may not look. */
async function socketsIn(directory: string): ReturnType<typeof listSockets> {
  try {
    return await listSockets(directory);
  } catch {
    return [];
  }
}
