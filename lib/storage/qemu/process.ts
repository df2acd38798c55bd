/**
 * A process of this host by its identity: number, start time and boot, so that a number that was given to another process
 * is never taken for it. Reads /proc, which waits for no disk.
 */

/** Which process, for as long as the host has a memory of it. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat (proc(5)), in clock ticks since the boot. */
  readonly startTime: string;
  /** /proc/sys/kernel/random/boot_id. */
  readonly bootId: string;
}

/** Between looks at a process that is not our child. */
const FIRST_LOOK_MS = 5;
const LONGEST_LOOK_MS = 200;

/** The start time is the 20th field after the command's name. */
const START_TIME = 19;

/** The identity of the process with this number; undefined if there is none, or it has ended and is not reaped. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const stat = await readOptional(`/proc/${pid}/stat`);
  // The name may contain spaces and parentheses.
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  const startTime = fields?.[START_TIME];
  if (startTime === undefined || fields![0] === "Z" || fields![0] === "X") return undefined;
  return { pid, startTime, bootId: (await readOptional("/proc/sys/kernel/random/boot_id") ?? "").trim() };
}

/** Whether the very process still runs. */
export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  const now = await identify(process.pid);
  return now !== undefined && now.startTime === process.startTime && now.bootId === process.bootId;
}

/** Whether the process has ended within the time. */
export async function hasEnded(process: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  for (let waitMs = FIRST_LOOK_MS;; waitMs = Math.min(2 * waitMs, LONGEST_LOOK_MS)) {
    if (!await isAlive(process)) return true;
    const leftMs = deadline - performance.now();
    if (leftMs <= 0) return false;
    await new Promise((resolve) => setTimeout(resolve, Math.min(waitMs, leftMs)));
  }
}

/** Sends the signal, if the very process still runs. */
export async function signal(process: ProcessIdentity, name: Deno.Signal): Promise<void> {
  if (!await isAlive(process)) return;
  try {
    Deno.kill(process.pid, name);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Whether the program's file was replaced since the process started, as an upgrade of its package does. */
export async function isUpgraded({ pid }: ProcessIdentity): Promise<boolean> {
  try {
    return (await Deno.readLink(`/proc/${pid}/exe`)).endsWith(" (deleted)");
  } catch {
    return false; // it has ended, or is not ours to look at
  }
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch {
    return undefined; // no such process, or not permitted
  }
}

/** How a process ended, for people. */
export function statusText({ code, signal }: Deno.CommandStatus): string {
  if (signal === null) return `it exited with status ${code}`;
  const sender = signal === "SIGKILL" ? " by hand, or by the kernel for lack of memory (see `dmesg`)" : "";
  return `it was ended with ${signal}${sender}`;
}
