/**
 * A Xen host without a hypervisor, for tests: Debian's real xenstored and libxenstore, and stand-ins for the libraries
 * that talk to Xen, over a machine of shared memory (see src/). Processes that a test starts with {@linkcode
 * NativeXen.env} are processes of one of its domains. It must not know of block devices.
 */

import { statfsSync } from "node:fs";
import { buildNative, missingBuildParts } from "./build.ts";
import { findXenstored, Xenstored } from "./xenstored.ts";

/** What one process holds of the machine, and what it did since it opened its first handle. */
export interface ProcessStats {
  readonly pid: number;
  readonly domid: number;
  /** Open library handles. */
  readonly opens: number;
  readonly mappedPages: number;
  readonly grants: number;
  readonly eventHandles: number;
  readonly ports: number;
  readonly notifies: number;
  readonly mapCalls: number;
  readonly unmapCalls: number;
  readonly copyCalls: number;
  readonly copySegments: number;
}

/** What one domain has: grants that are not ended or still mapped, pages others map, ports of any kind. */
export interface DomainStats {
  readonly domid: number;
  readonly alive: boolean;
  readonly grants: number;
  readonly mappedPages: number;
  readonly ports: number;
}

/** The state of the whole machine; dead processes hold nothing. */
export interface MachineStats {
  readonly framesUsed: number;
  readonly processes: readonly ProcessStats[];
  readonly domains: readonly DomainStats[];
}

/** What these tests lack on this computer, with the Debian package that has it; undefined if nothing. */
export function missingParts(): string | undefined {
  const missing = missingBuildParts();
  if (missing !== undefined) return missing;
  if (findXenstored() === undefined) {
    return "xenstored is missing (Debian package xen-utils-4.17 or later; tests/native/install.sh unpacks it)";
  }
  return missingProgram("xenstore-read", "xenstore-utils");
}

/** That a program is missing, and the Debian package that has it; undefined if it is there. */
export function missingProgram(name: string, debianPackage: string): string | undefined {
  try {
    new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync();
    return undefined;
  } catch {
    return `${name} is missing (Debian package ${debianPackage})`;
  }
}

/** True where nothing may be skipped. */
const IN_CI = Deno.env.get("CI") === "true";
let printedMissing = false;

/**
 * Registers a test that needs this host. Where parts are missing it is ignored and the reason printed once, but with
 * CI=true in the environment it fails with the reason.
 */
export function nativeTest(
  name: string,
  body: (context: Deno.TestContext) => Promise<void> | void,
  alsoMissing?: string,
): void {
  const missing = missingParts() ?? alsoMissing;
  if (missing !== undefined && !printedMissing && !IN_CI) {
    printedMissing = true;
    // deno-lint-ignore no-console
    console.log(`native tests are ignored: ${missing}`);
  }
  Deno.test({
    name,
    ignore: missing !== undefined && !IN_CI,
    fn: (context) => {
      if (missing !== undefined) throw new Error(`Cannot run a native test: ${missing}`);
      return body(context);
    },
  });
}

/** Half a gibibyte of guest pages must fit, or processes that touch them die of SIGBUS. */
const ROOM_BYTES = 512 * 1024 * 1024;

/** A fresh directory in memory where there is room (the machine's pages shouldn't be written back to a disk). */
function makeDirectory(): string {
  try {
    const status = statfsSync("/dev/shm");
    if (status.bavail * status.bsize >= ROOM_BYTES) return Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "xenblk-" });
  } catch { /* no /dev/shm here */ }
  return Deno.makeTempDirSync({ prefix: "xenblk-" });
}

/** The uuid that a domain gets if the test names none. */
function defaultUuid(domid: number): string {
  return `00000000-0000-4000-8000-${domid.toString().padStart(12, "0")}`;
}

/** One such host. Everything of it is in {@linkcode directory}, and gone when it is disposed. */
export class NativeXen implements AsyncDisposable {
  /** Directory of the stand-in libraries and tools. */
  readonly libraries: string;
  /** The machine's private directory; a test may keep files in it. */
  readonly directory: string;
  #xenstored: Xenstored | undefined;
  readonly #domains = new Set<number>();

  private constructor(libraries: string, directory: string) {
    this.libraries = libraries;
    this.directory = directory;
  }

  /** Builds what isn't built, makes a machine with domain 0 and starts xenstored. */
  static async start(): Promise<NativeXen> {
    const xen = new NativeXen(await buildNative(), makeDirectory());
    try {
      await xen.control("init");
      await xen.startXenstored();
    } catch (error) {
      await xen[Symbol.asyncDispose]();
      throw error;
    }
    return xen;
  }

  /** xenstored's socket. */
  get socketPath(): string {
    return `${this.directory}/socket`;
  }

  /** xenstored's process id; undefined while it is stopped. */
  get xenstoredPid(): number | undefined {
    return this.#xenstored?.pid;
  }

  /** The environment that makes a child process one of a domain's. */
  env(domid = 0): Record<string, string> {
    return {
      LD_LIBRARY_PATH: this.libraries,
      XENSTORED_RUNDIR: this.directory,
      XENSTORED_PATH: this.socketPath,
      XENBLK_JOURNAL_DIR: `${this.directory}/journals`,
      XENBLK_FAKE_DIR: this.directory,
      XENBLK_FAKE_DOMID: String(domid),
    };
  }

  /** Starts xenstored, with a store that is empty but for domain 0's nodes, and introduces the domains to it. */
  async startXenstored(): Promise<void> {
    const path = findXenstored();
    if (path === undefined) throw new Error(`Cannot start xenstored: ${missingParts()}`);
    const env = { ...this.env(), LD_PRELOAD: `${this.libraries}/xsd_shim.so` };
    this.#xenstored = await Xenstored.start(path, this.socketPath, env);
    await this.control("setup");
    for (const domid of this.#domains) await this.control("introduce", String(domid));
  }

  /** Stops xenstored; its store is lost. */
  async stopXenstored(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    await this.#xenstored?.stop(signal);
    this.#xenstored = undefined;
  }

  /**
   * Kills xenstored and starts it again. As with the real one the new store is empty, but for domain 0's nodes;
   * with `keepStore` every node and its permissions are written back before this returns. `meanwhile` happens while there
   * is no xenstored.
   */
  async restartXenstored(options: { keepStore?: boolean; meanwhile?: () => Promise<void> } = {}): Promise<void> {
    const copy = `${this.directory}/store.copy`;
    if (options.keepStore) await this.control("save", copy);
    await this.stopXenstored("SIGKILL");
    await options.meanwhile?.();
    await this.startXenstored();
    if (options.keepStore) await this.control("load", copy);
  }

  /** Makes a domain: known to the machine and to xenstored, with the nodes and permissions that xl gives a PV guest. */
  async createDomain(domid: number, name = `guest-${domid}`, uuid = defaultUuid(domid)): Promise<void> {
    await this.control("create", String(domid), name, uuid);
    this.#domains.add(domid);
  }

  /**
   * Ends a domain as a crash or `xl destroy` does in Xen: its ports and grants end and @releaseDomain fires. Nodes stay
   * for a toolstack to remove, but those that the domain owned, which xenstored removes.
   */
  async killDomain(domid: number): Promise<void> {
    this.#domains.delete(domid);
    await this.control("kill", String(domid));
  }

  /** {@linkcode killDomain}, then removes its nodes as xl does; backend directories of its devices stay. */
  async destroyDomain(domid: number): Promise<void> {
    this.#domains.delete(domid);
    await this.control("destroy", String(domid));
  }

  /** What every process and domain holds now. */
  async stats(): Promise<MachineStats> {
    return JSON.parse(await this.control("stats"));
  }

  /** What one process holds; undefined if it has no handle open. */
  async processStats(pid: number): Promise<ProcessStats | undefined> {
    return (await this.stats()).processes.find((process) => process.pid === pid);
  }

  /** Runs a program as a process of a domain and returns what it printed. Throws Error if it fails. */
  async run(program: string, args: readonly string[], domid = 0): Promise<string> {
    const command = new Deno.Command(program, { args: [...args], env: this.env(domid), stdin: "null" });
    const { success, code, stdout, stderr } = await command.output();
    if (!success) {
      const words = new TextDecoder().decode(stderr).trim();
      throw new Error(`Cannot run ${program} ${args.join(" ")}: ${words || `exit status ${code}`}`);
    }
    return new TextDecoder().decode(stdout);
  }

  /** Runs fakectl on this machine. */
  private control(...args: string[]): Promise<string> {
    return this.run(`${this.libraries}/fakectl`, [this.directory, ...args]);
  }

  /** Stops xenstored and removes the machine. Processes of the test must have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopXenstored();
    Deno.removeSync(this.directory, { recursive: true });
  }
}
