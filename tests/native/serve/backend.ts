/**
 * The backend under test in its own process, `deno run cli.ts serve`, and the actions of the toolstack. The resources
 * of the process are read from /proc and from the simulated machine.
 */

import type { AttachRequest } from "../../../lib/toolstack/attach.ts";
import type { DeviceAddress } from "../../../lib/xenbus/paths.ts";
import type { NativeXen } from "../harness.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;

/** The resources of a process, to compare before and after. */
export interface Holdings {
  readonly descriptors: number;
  readonly mappings: number;
  readonly residentKiB: number;
  readonly mappedPages: number;
  readonly ports: number;
}

/** A running `serve`, or another verb that keeps running. */
export class BackendProcess implements AsyncDisposable {
  readonly pid: number;
  readonly #xen: NativeXen;
  readonly #child: Deno.ChildProcess;
  readonly #errors: Promise<void>;
  /** Its standard error so far. */
  messages = "";

  /**
   * `confinement` is a program with arguments that executes Deno at its end, such as setpriv; `program` is run in place of
   * the command: a module, or another program with its arguments.
   */
  constructor(
    xen: NativeXen,
    args: readonly string[],
    confinement: readonly string[] = [],
    domid = 0,
    program: string | readonly string[] = `${ROOT}cli.ts`,
  ) {
    this.#xen = xen;
    const command = typeof program === "string" ? [Deno.execPath(), "run", "-A", "--no-check", program] : program;
    const [first, ...rest] = [...confinement, ...command, ...args];
    this.#child = new Deno.Command(first!, {
      args: rest,
      env: xen.env(domid),
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.pid = this.#child.pid;
    this.#errors = this.#collect();
  }

  /** Waits until its standard error matches. */
  async says(what: RegExp, timeoutMs = 60_000): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (!what.test(this.messages)) {
      if (performance.now() > end) throw new Error(`no message ${what} in time; messages: ${this.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Sends SIGTERM, and after `afterMs` SIGKILL if the process still runs. */
  async killAsItEnds(afterMs: number): Promise<void> {
    this.#child.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.exited();
  }

  /** Sends a signal and returns the exit status. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    this.#child.kill(signal);
    return await this.exited();
  }

  async exited(): Promise<number> {
    const { code } = await this.#child.status;
    await this.#errors;
    return code;
  }

  /** The resources that the process holds, those in the hypervisor included. */
  async holdings(): Promise<Holdings> {
    const stats = await this.#xen.processStats(this.pid);
    const status = await Deno.readTextFile(`/proc/${this.pid}/status`);
    return {
      descriptors: [...Deno.readDirSync(`/proc/${this.pid}/fd`)].length,
      mappings: (await Deno.readTextFile(`/proc/${this.pid}/maps`)).split("\n").length,
      residentKiB: Number(/VmRSS:\s+(\d+)/.exec(status)![1]),
      mappedPages: stats?.mappedPages ?? 0,
      ports: stats?.ports ?? 0,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.exited();
  }

  async #collect(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) this.messages += text;
  }
}

/** Runs an action of the toolstack in a process of domain 0. */
async function toolstack(xen: NativeXen, act: string, argument: unknown): Promise<string> {
  const program = new URL("./toolstack_process.ts", import.meta.url).pathname;
  return await xen.run(Deno.execPath(), ["run", "-A", "--no-check", program, act, JSON.stringify(argument)]);
}

/** Writes the nodes of a disk, as libxl does. */
export async function attach(xen: NativeXen, request: Partial<AttachRequest>): Promise<DeviceAddress> {
  const defaults = { backendDomain: 0, kind: "vbd3", readOnly: false, cdrom: false };
  return JSON.parse(await toolstack(xen, "attach", { ...defaults, ...request }));
}

/** Requests the removal of a disk, waits until both ends are Closed, and removes the nodes. */
export async function detach(xen: NativeXen, device: DeviceAddress): Promise<void> {
  await toolstack(xen, "detach", device);
}

/** Waits until a node exists, and has the value if one is given. Returns its value. */
export async function nodeValue(xen: NativeXen, path: string, wanted?: string, timeoutMs = 60_000): Promise<string> {
  let last: unknown;
  for (const end = performance.now() + timeoutMs; performance.now() < end;) {
    try {
      const value = (await xen.run("xenstore-read", [path])).trim();
      if (wanted === undefined || value === wanted) return value;
      last = new Error(`${path} is ${value}, expected ${wanted}`);
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw last;
}

/** Creates a sparse file of zeroes and returns its path. */
export function sparseImage(directory: string, name: string, sizeBytes: number): string {
  const path = `${directory}/${name}`;
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  file.truncateSync(sizeBytes);
  return path;
}
