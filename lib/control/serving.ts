/**
 * Finds what the serving processes of this host say about their disks, and the process of one disk, by their sockets. A
 * process that has ended, does not answer, or may not be asked is passed over: xenstore still tells the rest.
 */

import type { DeviceReport } from "../backend/status.ts";
import { journalDirectory } from "../journal_directory.ts";
import { ControlClient } from "./client.ts";
import { controlDirectory, listSockets } from "./directory.ts";
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

/** The directory of the sockets of this host, as this process's environment has it. */
export function hostControlDirectory(): string {
  return controlDirectory(journalDirectory((name) => Deno.env.get(name)));
}

/** The processes that serve, in the order of their numbers. */
export async function servingProcesses(directory = hostControlDirectory()): Promise<readonly ServingProcess[]> {
  return await askEach(directory, (_client, process) => Promise.resolve(process));
}

/** The devices that processes have, by the backend's directory. */
export async function liveDevices(directory = hostControlDirectory()): Promise<ReadonlyMap<string, LiveDevice>> {
  const devices = await askEach(directory, devicesOf);
  return new Map(devices.flat().map((device) => [device.report.backendPath, device]));
}

/** A connection to the process that has the device at that directory of its backend. Undefined: none says that it has. */
export async function clientOf(
  backendPath: string,
  directory = hostControlDirectory(),
): Promise<ControlClient | undefined> {
  const device = (await liveDevices(directory)).get(backendPath);
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
): Promise<T[]> {
  const asked = (await socketsIn(directory)).map(async (path): Promise<T[]> => {
    try {
      using client = await ControlClient.connect(path);
      if (client === undefined) return [];
      const hello = await client.call("hello", {}, { timeoutMs: ASK_MS });
      return [await ask(client, { path, hello })];
    } catch {
      return []; // it ended meanwhile, is stopped, or is another user's
    }
  });
  return (await Promise.all(asked)).flat();
}

/** None where this process may not look. */
async function socketsIn(directory: string): Promise<string[]> {
  try {
    return (await listSockets(directory)).map(({ path }) => path);
  } catch {
    return [];
  }
}
