/**
 * A Xen host without a hypervisor, for tests: Debian's real xenstored, and stand-ins for the libraries
 * that talk to Xen. The stand-ins simulate a machine in shared memory (see src/). A process that a test starts with
 * {@linkcode NativeXen.env} is a process of one of its domains.
 */

import { statfsSync } from "node:fs";
import { buildNative, missingBuildParts } from "./build.ts";
import { findXenstored, Xenstored } from "./xenstored.ts";

/** The resources of one process, and what it did since it opened its first handle. */
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

/** The resources of one domain: grants that are active or still mapped, its pages that others map, all its ports. */
export interface DomainStats {
  readonly domid: number;
  readonly alive: boolean;
  readonly grants: number;
  readonly mappedPages: number;
  readonly ports: number;
}

/** The state of the whole machine. Dead processes hold nothing. */
export interface MachineStats {
  readonly framesUsed: number;
  readonly processes: readonly ProcessStats[];
  readonly domains: readonly DomainStats[];
}

/** Names a part that these tests miss on this computer, and its Debian package. Undefined if nothing is missing. */
export function missingParts(): string | undefined {
  const missing = missingBuildParts();
  if (missing !== undefined) return missing;
  if (findXenstored() === undefined) {
    return "xenstored is missing (Debian package xen-utils-4.17 or later; tests/native/install.sh unpacks it)";
  }
  return missingProgram("xenstore-read", "xenstore-utils");
}

/** Says that a program is missing, and in which Debian package it is. Undefined if the program exists. */
export function missingProgram(name: string, debianPackage: string): string | undefined {
  try {
    new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync();
    return undefined;
  } catch {
    return `${name} is missing (Debian package ${debianPackage})`;
  }
}

/** In CI no test may be skipped. */
const IN_CI = Deno.env.get("CI") === "true";
let printedMissing = false;

/**
 * Registers a test that needs this host. If parts are missing, the test is ignored and the reason is printed once. With
 * CI=true in the environment it fails with the reason instead.
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

/** Half a gibibyte of guest pages must fit; otherwise a process that touches them dies of SIGBUS. */
const ROOM_BYTES = 512 * 1024 * 1024;

/** A new directory, in memory if there is room, so that the machine's pages are not written to a disk. */
function makeDirectory(): string {
  try {
    const status = statfsSync("/dev/shm");
    if (status.bavail * status.bsize >= ROOM_BYTES) return Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "xenblk-" });
  } catch { /* no /dev/shm here */ }
  return Deno.makeTempDirSync({ prefix: "xenblk-" });
}

/** The default uuid of a domain. */
function defaultUuid(domid: number): string {
  return `00000000-0000-4000-8000-${domid.toString().padStart(12, "0")}`;
}

/** A Xen host for a test. All its files are in {@linkcode directory}; disposing it removes them. */
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

  /** Builds the parts if needed, creates a machine with domain 0 and starts xenstored. */
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

  /** The environment for a child process of a domain. */
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

  /** Starts xenstored and introduces the domains to it. The new store only has the nodes of domain 0. */
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
   * Kills xenstored and starts it again. As on a real host, the new store only has the nodes of domain 0. With
   * `keepStore` all nodes and their permissions are restored before this returns. `meanwhile` runs while there is no
   * xenstored.
   */
  async restartXenstored(options: { keepStore?: boolean; meanwhile?: () => Promise<void> } = {}): Promise<void> {
    const copy = `${this.directory}/store.copy`;
    if (options.keepStore) await this.control("save", copy);
    await this.stopXenstored("SIGKILL");
    await options.meanwhile?.();
    await this.startXenstored();
    if (options.keepStore) await this.control("load", copy);
  }

  /** Creates a domain on the machine and in xenstored, with the nodes and permissions that xl gives a PV guest. */
  async createDomain(domid: number, name = `guest-${domid}`, uuid = defaultUuid(domid)): Promise<void> {
    await this.control("create", String(domid), name, uuid);
    this.#domains.add(domid);
  }

  /**
   * Ends a domain as a crash or `xl destroy` does in Xen: its ports and grants end, and @releaseDomain fires. xenstored
   * removes the nodes that the domain owned; the toolstack has to remove the others.
   */
  async killDomain(domid: number): Promise<void> {
    this.#domains.delete(domid);
    await this.control("kill", String(domid));
  }

  /** Kills a domain, then removes its nodes as xl does. The backend directories of its devices stay. */
  async destroyDomain(domid: number): Promise<void> {
    this.#domains.delete(domid);
    await this.control("destroy", String(domid));
  }

  /** The resources of all processes and domains now. */
  async stats(): Promise<MachineStats> {
    return JSON.parse(await this.control("stats"));
  }

  /** The resources of one process. Undefined if it has no open handle. */
  async processStats(pid: number): Promise<ProcessStats | undefined> {
    return (await this.stats()).processes.find((process) => process.pid === pid);
  }

  /** Runs a program as a process of a domain and returns its output. Throws Error if it fails. */
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

  /** Stops xenstored and removes the machine. The test's processes must have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopXenstored();
    Deno.removeSync(this.directory, { recursive: true });
  }
}
