/**
 * What the tests of storage daemons share: a run directory with image files, the graph of an image, and a client of
 * exports that only connects. No test is in here.
 */

import { JournalFiles } from "../../../ffi/linux/journal_files.ts";
import type { Logger } from "../../../lib/log.ts";
import type { CacheMode, DiskProperties } from "../../../lib/storage/disk.ts";
import { StorageDaemons, type StorageDaemonsOptions } from "../../../lib/storage/qemu/daemons.ts";
import { type BlockGraph, graphOf } from "../../../lib/storage/qemu/graph.ts";
import type { DaemonRecord } from "../../../lib/storage/qemu/record.ts";
import type { QemuRequest } from "../../../lib/storage/qemu/types.ts";
import type { VhostClient, VhostDevice, VhostOptions } from "../../../lib/storage/vhost.ts";
import { missingProgram } from "../harness.ts";

const MISSING = missingProgram("qemu-storage-daemon", "qemu-system-common") ??
  missingProgram("qemu-img", "qemu-utils") ??
  (Deno.uid() === 0 ? undefined : "these tests start daemons as root");
const IN_CI = Deno.env.get("CI") === "true";

/** Registers a test that needs a real daemon; ignored where there is none, but not in CI. */
export function daemonTest(name: string, body: (context: Deno.TestContext) => Promise<void>): void {
  Deno.test({
    name: MISSING === undefined ? name : `${name} (${MISSING})`,
    ignore: MISSING !== undefined && !IN_CI,
    fn: async (context): Promise<void> => {
      if (MISSING !== undefined) throw new Error(MISSING);
      await body(context);
    },
  });
}

/** Lines of a log, by level. */
export class Lines implements Logger {
  readonly all: string[] = [];
  readonly debug = (): void => {};
  readonly info = (line: string): void => void this.all.push(`info ${line}`);
  readonly warning = (line: string): void => void this.all.push(`warning ${line}`);
  readonly error = (line: string): void => void this.all.push(`error ${line}`);

  /** The first line that matches, once there is one. */
  async line(pattern: RegExp): Promise<string> {
    return await until(
      `the log has ${pattern}, not ${this.all.join(" | ")}`,
      () => this.all.find((line) => pattern.test(line)),
    );
  }
}

/** A client that connects to exports, reads nothing of them and notices their end. */
export class ConnectingClient implements VhostClient {
  readonly #open = new Set<Deno.UnixConn>();

  /** As the end of its process does. */
  disconnect(): void {
    for (const connection of this.#open) connection.close();
    this.#open.clear();
  }

  /** The connections end by themselves. */
  cut(): void {
    for (const connection of this.#open) connection.closeWrite();
  }

  async connect({ socket }: VhostOptions): Promise<VhostDevice> {
    let lost = Promise.withResolvers<string>();
    let connection: Deno.UnixConn | undefined;
    const close = (): void => {
      if (connection !== undefined && this.#open.delete(connection)) connection.close();
      connection = undefined;
    };
    const open = async (path: string): Promise<void> => {
      const opened = connection = await Deno.connect({ transport: "unix", path });
      this.#open.add(opened);
      void opened.read(new Uint8Array(1)).catch(() => null).then(() => {
        if (this.#open.has(opened)) lost.resolve("the daemon closed the connection");
      });
    };
    await open(socket);
    return {
      properties: {
        sectors: 2048,
        logicalSectorBytes: 512,
        physicalSectorBytes: 4096,
        readOnly: false,
      } as DiskProperties,
      get lost(): Promise<string> {
        return lost.promise;
      },
      refresh: () => Promise.resolve(),
      attachment: () => Promise.reject(new Error("this client has no channels")),
      paused: () => Promise.resolve(),
      fail: () => {},
      reconnect: async (path) => {
        close();
        lost = Promise.withResolvers<string>();
        await open(path);
      },
      [Symbol.asyncDispose]: () => {
        close();
        return Promise.resolve();
      },
    };
  }
}

/** A run directory with images; its daemons are ended with it. */
export class DaemonRig implements AsyncDisposable {
  readonly images: string;
  readonly directory: string;
  readonly log = new Lines();
  #mounted: string | undefined;
  readonly #processes = new Map<StorageDaemons, ConnectingClient>();

  /** In the folder of another process's rig, or in one of its own. */
  constructor(readonly folder: string = Deno.makeTempDirSync({ prefix: "xenblk-daemon-" })) {
    this.images = `${folder}/images`;
    this.directory = `${folder}/run/daemons`;
    Deno.mkdirSync(this.images, { recursive: true });
  }

  /** Gives the run directories a file system of that size. Returns the path of a file that fills it. */
  async limitRun(size: string): Promise<string> {
    const run = `${this.folder}/run`;
    Deno.mkdirSync(run);
    await command("mount", "-t", "tmpfs", "-o", `size=${size}`, "xenblk-test", run);
    this.#mounted = run;
    return `${run}/filler`;
  }

  /** The daemons of one process of ours. */
  daemons(options: Partial<StorageDaemonsOptions> = {}): StorageDaemons {
    const locks = new JournalFiles(`${this.folder}/run`);
    const { directory, log: logger } = this;
    const vhost = new ConnectingClient();
    const daemons = new StorageDaemons({ directory, locks, vhost, logger, ...options });
    this.#processes.set(daemons, vhost);
    return daemons;
  }

  /** The process of ours that has these daemons ends, and leaves its disks as they are. */
  async end(daemons: StorageDaemons): Promise<void> {
    this.#processes.get(daemons)!.disconnect();
    await daemons[Symbol.asyncDispose]();
  }

  /** The disks of these daemons lose their connections, while the daemons live. */
  cut(daemons: StorageDaemons): void {
    this.#processes.get(daemons)!.cut();
  }

  /** Makes an image and returns its path. */
  async image(name: string, size = "64M", ...options: string[]): Promise<string> {
    const path = `${this.images}/${name}`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", ...options, path, size);
    return path;
  }

  /** A request for a qcow2 image on device `vdev` of domain 5. */
  request(path: string, vdev = 51712, more: Partial<QemuRequest> = {}): QemuRequest {
    const owner = { guest: 5, uuid: "11111111-2222-3333-4444-555555555555", device: `vbd3/5/${vdev}` };
    return {
      graph: qcow2Graph(path, `d${vdev}`, more.readOnly),
      readOnly: false,
      name: `image qcow2:${path}`,
      owner,
      ...more,
    };
  }

  /** The record in a run directory. */
  record(name = "5"): DaemonRecord {
    return JSON.parse(Deno.readTextFileSync(`${this.directory}/${name}/record.json`));
  }

  /** Names of run directories. */
  directories(): string[] {
    return [...Deno.readDirSync(this.directory)].map(({ name }) => name).filter((name) => name !== "probe").sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const daemons of this.#processes.keys()) await this.end(daemons);
    const last = this.daemons();
    for (const name of this.directories()) {
      try {
        Deno.kill(this.record(name).process.pid, "SIGCONT");
      } catch {
        // it is gone
      }
    }
    await last.sweep(() => true);
    await last[Symbol.asyncDispose]();
    await this.#reaped();
    if (this.#mounted !== undefined) await command("umount", this.#mounted);
    Deno.removeSync(this.folder, { recursive: true });
  }

  /** All daemons that this process has started are its children, also those that a later process of ours has ended. */
  async #reaped(): Promise<void> {
    for (const line of this.log.all) {
      const pid = / started QEMU .*process (\d+)$/.exec(line)?.[1];
      if (pid === undefined) continue;
      await until(`process ${pid} is reaped`, async () => await Deno.stat(`/proc/${pid}`).catch(() => true) === true);
    }
  }
}

/** A qcow2 file without a backing file. */
export function qcow2Graph(path: string, prefix: string, readOnly = false, cache?: CacheMode): BlockGraph {
  return graphOf({ driver: "qcow2", file: { driver: "file", filename: path } }, {
    prefix,
    label: `qcow2:${path}`,
    readOnly,
    ...(cache === undefined ? {} : { cache }),
  });
}

/** Runs a command; its output. */
export async function command(program: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/** The value, once there is one. */
export async function until<T>(what: string, look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  for (const start = performance.now(); performance.now() - start < 20_000;) {
    const value = await look();
    if (value !== undefined && value !== false) return value;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`it did not happen: ${what}`);
}

/** Whether a process runs. */
export function runs(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/.test(Deno.readTextFileSync(`/proc/${pid}/stat`));
  } catch {
    return false;
  }
}

/** A field of /proc/PID/status. */
export function statusOf(pid: number, field: string): string {
  const line = Deno.readTextFileSync(`/proc/${pid}/status`).split("\n").find((each) => each.startsWith(`${field}:`));
  return line!.slice(field.length + 1).trim();
}
