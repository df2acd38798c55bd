/**
 * A disk as it was at one instant, shown over NBD on a socket of its storage daemon while its guest goes on. It ends when
 * it is closed, when its scratch file is full or fails, when its time is over, and with the daemon or the disk.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import { errorText, XenblkError } from "../errors.ts";
import { formatSize } from "../sizes.ts";
import { socketPathBelow } from "../socket_path.ts";
import type { DaemonMonitor, DiskDaemon } from "./disk.ts";
import { nodeSize } from "./qemu/graph_steps.ts";
import {
  beginView,
  bitmapsOf,
  checkVersion,
  closeScratch,
  endReaders,
  exportView,
  instantNames,
  isViewed,
  nodeBehind,
  openScratch,
  removeView,
} from "./qemu/instant.ts";
import { NbdProbe } from "./qemu/nbd_probe.ts";
import { makeScratch, removeScratch, type Scratch } from "./qemu/scratch.ts";

/** How often it is tried whether its readers can read. */
const LOOK_MS = 1_000;
/** Errors of the NBD protocol that are not the image's own: the view is broken. QEMU has EACCES, which the protocol has not. */
const BROKEN = new Set([1, 22]);

/** What is exported, and how. */
export interface DiskExportOptions {
  /** For messages: `xvdb of domain 5`. */
  readonly disk: string;
  /** The export's name. */
  readonly name: string;
  /** A bitmap of the disk: its state at that instant is shown as the context `qemu:dirty-bitmap:NAME`. */
  readonly bitmap?: string;
  /** Where the scratch file is. */
  readonly scratchDirectory: string;
  /** Most room for what the guest overwrites meanwhile. */
  readonly scratchBytes: number;
  /** Ends after so long. Absent: it has no limit. */
  readonly limitMs?: number;
  /** Gets what could not be removed. */
  readonly warn: (line: string) => void;
  readonly clock?: Clock;
}

/** Why an export has ended. */
export interface ExportEnd {
  /** As the end of a sentence. */
  readonly reason: string;
  /** Its readers lost what they had not read yet. */
  readonly failed: boolean;
}

/** One export. */
export class DiskExport {
  /** Where the daemon shows it. */
  readonly socket: string;
  /** Of the disk at that instant. */
  readonly sizeBytes: number;
  /** The instant, on the host's clock. */
  readonly taken: Date;
  /** Resolves, never rejects, once it has ended and nothing of it is left that could be removed. */
  readonly ended: Promise<ExportEnd>;
  readonly #daemon: DiskDaemon;
  readonly #options: DiskExportOptions;
  readonly #pid: number;
  readonly #probe: NbdProbe;
  readonly #over = new AbortController();
  readonly #ended = Promise.withResolvers<ExportEnd>();
  #ending: Promise<void> | undefined;

  private constructor(daemon: DiskDaemon, options: DiskExportOptions, begun: Begun, probe: NbdProbe) {
    this.#daemon = daemon;
    this.#options = options;
    this.#pid = begun.pid;
    this.#probe = probe;
    this.socket = begun.socket;
    this.sizeBytes = begun.sizeBytes;
    this.taken = begun.taken;
    this.ended = this.#ended.promise;
    void this.#watch();
    if (options.limitMs !== undefined) void this.#limit(options.limitMs);
  }

  /** Begins one. Rejects with {@linkcode XenblkError}; then nothing of it is left. */
  static async open(daemon: DiskDaemon, options: DiskExportOptions): Promise<DiskExport> {
    const begun = await begin(daemon, options);
    try {
      return new DiskExport(daemon, options, begun, await NbdProbe.connect(begun.socket, options.name));
    } catch (error) {
      await end(daemon, begun.pid, options);
      throw new XenblkError(`Cannot export ${options.disk}: its NBD server does not answer: ${errorText(error)}`, {
        cause: error,
        remedy: "look at the storage daemon's messages in the log of the process that serves the disk",
      });
    }
  }

  /** Ends it, and resolves once nothing of it is left that could be removed. Never rejects. */
  async close(how: ExportEnd): Promise<void> {
    await (this.#ending ??= this.#close(how));
  }

  async #close(how: ExportEnd): Promise<void> {
    this.#over.abort();
    this.#probe[Symbol.dispose]();
    await end(this.#daemon, this.#pid, this.#options);
    this.#ended.resolve(how);
  }

  /** Until it is closed. */
  async #watch(): Promise<void> {
    const { clock = SYSTEM_CLOCK, scratchBytes } = this.#options;
    const { signal } = this.#over;
    try {
      while (!signal.aborted) {
        if (BROKEN.has(await this.#probe.read())) {
          const reason = `its scratch file is full (its limit is ${formatSize(scratchBytes)}), or failed`;
          return void await this.close({ reason, failed: true });
        }
        await clock.sleep(LOOK_MS, signal);
      }
    } catch {
      if (!signal.aborted) await this.close({ reason: await this.#fate(), failed: true });
    }
  }

  async #limit(limitMs: number): Promise<void> {
    const { clock = SYSTEM_CLOCK } = this.#options;
    await clock.sleep(limitMs, this.#over.signal);
    await this.close({ reason: `its time limit of ${limitMs / 1000} s is over`, failed: true });
  }

  /** Why its connection has ended. */
  async #fate(): Promise<string> {
    try {
      const pid = await this.#daemon.run(({ pid, execute }) => execute("query-version").then(() => pid));
      return pid === this.#pid ? "its storage daemon closed it" : "its storage daemon died";
    } catch (error) {
      return `its disk is not served any more: ${errorText(error)}`;
    }
  }
}

/** What has begun. */
interface Begun {
  readonly socket: string;
  readonly sizeBytes: number;
  readonly taken: Date;
  readonly pid: number;
}

async function begin(daemon: DiskDaemon, options: DiskExportOptions): Promise<Begun> {
  const { disk, name, bitmap, scratchDirectory: directory, scratchBytes: limitBytes } = options;
  const what = `Cannot export ${disk}`;
  const names = instantNames(daemon.prefix);
  const { pid, sizeBytes, socket } = await daemon.run((monitor) => examine(monitor, daemon, what, bitmap));
  const scratch = await makeScratch({ what, directory, sizeBytes, limitBytes, pid });
  try {
    await daemon.run(sameDaemon(pid, what, (monitor) => openScratch(monitor, names, scratch)));
    await removeScratch(scratch);
    let taken = new Date();
    await daemon.run(sameDaemon(pid, what, async (monitor) => {
      await monitor.reroute(async (node) => {
        checkFree(node, daemon.top, what);
        taken = new Date();
        return await beginView(monitor, names, { node, top: daemon.top, bitmap }).catch(async (error) => {
          await removeView(monitor.execute, daemon.prefix);
          throw error;
        });
      });
      await exportView(monitor, names, { socket, name, bitmap });
    }));
    return { socket, sizeBytes, taken, pid };
  } catch (error) {
    await withdraw(daemon, pid, options, scratch);
    if (error instanceof XenblkError && error.line.startsWith("Cannot")) throw error;
    throw new XenblkError(`${what}: ${errorText(error)}`, {
      cause: error,
      remedy: "look at the storage daemon's messages in the log of the process that serves the disk",
    });
  }
}

async function withdraw(
  daemon: DiskDaemon,
  pid: number,
  options: DiskExportOptions,
  scratch: Scratch,
): Promise<void> {
  await end(daemon, pid, options);
  await removeScratch(scratch);
}

/** Looks at the disk before anything is made. */
async function examine(
  monitor: DaemonMonitor,
  { top }: DiskDaemon,
  what: string,
  bitmap: string | undefined,
): Promise<Omit<Begun, "taken">> {
  checkVersion(monitor, what);
  const sizeBytes = await nodeSize(monitor.execute, top);
  const bitmaps = bitmap === undefined ? [] : await bitmapsOf(monitor.execute, top);
  if (bitmap !== undefined && !bitmaps.includes(bitmap)) {
    throw new XenblkError(`${what} with bitmap ${bitmap}: the disk has no such bitmap`, {
      remedy: bitmaps.length === 0 ? "leave --bitmap out: the disk has none" : `name one of ${bitmaps.join(", ")}`,
    });
  }
  return { sizeBytes, socket: socketPathBelow(`${monitor.sockets}/nbd`), pid: monitor.pid };
}

/** Refuses a disk whose requests are led elsewhere already, as by a backup: what began last would have to end first. */
function checkFree(node: string, top: string, what: string): void {
  if (node === top) return;
  throw new XenblkError(
    `${what}: other work on the disk, such as a backup, has to see the guest's writes (node ${node})`,
    {
      remedy: "wait for its end (`xenblk job list`)",
    },
  );
}

/** Refuses another daemon than the one that the export has begun in. */
function sameDaemon<T>(
  pid: number,
  what: string,
  call: (monitor: DaemonMonitor) => Promise<T>,
): (monitor: DaemonMonitor) => Promise<T> {
  return async (monitor) => {
    if (monitor.pid === pid) return await call(monitor);
    throw new XenblkError(`${what}: its storage daemon died meanwhile`, { remedy: "repeat it" });
  };
}

/** Removes all of an export that is in that daemon. Never rejects: another daemon of the disk has nothing of it. */
async function end(daemon: DiskDaemon, pid: number, { disk, warn }: DiskExportOptions): Promise<void> {
  const { prefix } = daemon;
  try {
    await daemon.run(async ({ execute, reroute, disallow, pid: present }) => {
      if (present !== pid) return;
      await endReaders(execute, prefix); // the guest need not wait for these
      if (await isViewed(execute, prefix)) {
        await reroute(async (node) => {
          const behind = await nodeBehind(execute, prefix, node);
          await removeView(execute, prefix);
          return behind;
        });
      }
      await disallow(await closeScratch(execute, prefix));
    });
  } catch (error) {
    warn(`cannot end the export of ${disk} yet: ${errorText(error)}; it ends with the disk, or its storage daemon`);
  }
}
