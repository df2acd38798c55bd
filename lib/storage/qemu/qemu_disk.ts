/**
 * A disk that a storage daemon serves, as the backend uses it: its channels come from the vhost-user-blk client, its
 * size and its life from the daemon.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { lookWithin } from "../../path_lookup.ts";
import { formatSize } from "../../sizes.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { endsWithin } from "../../within.ts";
import type {
  ChangedNodes,
  DaemonImage,
  DaemonMonitor,
  DiskAttachment,
  DiskDaemon,
  DiskFile,
  DiskProperties,
  Reroute,
  TopChange,
} from "../disk.ts";
import { cannotShrink } from "../image/grow.ts";
import type { VhostDevice } from "../vhost.ts";
import type { StorageDaemon } from "./daemon.ts";
import type { BlockGraph } from "./graph.ts";
import { type DiskPlan, isFragile } from "./plan.ts";
import { isSameFile, type LiveNames, recordedFile } from "./record.ts";
import { changeTops, layersOf, type OpenedDisk, PlannedChange } from "./top_change.ts";
import { type ChangedImage, type DaemonDisk, type DiskLoss, LostForGoodError, type QemuRequest } from "./types.ts";

/** How long a disk's channels may take to close: their requests may wait for storage that does not answer. */
const CLOSE_MS = 10_000;

/** What a disk asks of those who opened it. */
export interface DiskKeeper {
  /**
   * Takes the disk out of its daemon, and ends a daemon that has no other. Unless `settled`, what a daemon of it has lost
   * stays known. Rejects with XenblkError.
   */
  release(settled: boolean): Promise<void>;
  /** The disk, opened and exported by a daemon that runs: where, and by which. Rejects with XenblkError. */
  reopen(): Promise<{ readonly daemon: StorageDaemon; readonly socket: string }>;
  /** Exports the disk anew, or another node of it, in a turn that `inDaemon` gives; the socket's path. Rejects with XenblkError. */
  exportAnew(daemon: StorageDaemon, change?: Reroute): Promise<string>;
  /** Calls with the running daemon that has the disk, in turn. Rejects with XenblkError if there is none. */
  inDaemon<T>(call: (daemon: StorageDaemon) => Promise<T>): Promise<T>;
  /** The plan for a request of the same disk. */
  planOf(request: QemuRequest): DiskPlan;
  /** Answered writes of the disk were replayed. */
  settle(): Promise<void>;
  readonly logger: Logger;
}

/** One disk of a daemon. */
export class QemuDisk implements DaemonDisk {
  lost: Promise<DiskLoss>;
  readonly lostBefore?: string;
  readonly #opened: OpenedDisk;
  readonly #keeper: DiskKeeper;
  readonly #device: VhostDevice;
  readonly #listeners = new Set<() => void>();
  #daemon: StorageDaemon;
  /** Set while the connection ends because the export is made anew. */
  #renewal: Promise<void> | undefined;
  #closed: Promise<void> | undefined;
  #isSettled = false;

  constructor(
    opened: OpenedDisk,
    daemon: StorageDaemon,
    device: VhostDevice,
    keeper: DiskKeeper,
    lostBefore: string | undefined,
  ) {
    this.#opened = opened;
    this.#daemon = daemon;
    this.#device = device;
    this.#keeper = keeper;
    if (lostBefore !== undefined) this.lostBefore = lostBefore;
    this.lost = this.#watch(daemon);
  }

  get files(): readonly DiskFile[] {
    return this.#request.graph.files;
  }

  get properties(): DiskProperties {
    const { readOnly, cache = "writeback" } = this.#request;
    const { properties } = this.#device;
    return { ...properties, cache, readOnly: readOnly || properties.readOnly };
  }

  get description(): string {
    const { sectors, readOnly, cache } = this.properties;
    const size = formatSize(sectors * SECTOR_BYTES);
    const engine = `engine qemu ${this.#daemon.record.qemu}, process ${this.#daemon.process.pid}`;
    const name = this.#request.name.replace(/^image /, "");
    return `${name} (${size}, ${readOnly ? "read-only, " : ""}${engine}, cache ${cache})`;
  }

  async attachment(lane: number): Promise<DiskAttachment> {
    return await this.#device.attachment(lane);
  }

  async grow(growTo?: number): Promise<void> {
    const { name, graph } = this.#request;
    const { top } = this.#names;
    const before = await this.#daemon.sizeOf(top);
    const bytes = growTo ?? await rawSize(graph) ?? before;
    if (bytes < before) throw cannotShrink(name, before, bytes);
    if (bytes > before && isFragile(graph)) throw nbdGrows(name);
    if (graph.nodes.some(({ driver }) => driver === "qed") && bytes > before) throw qedGrows(name);
    if (bytes > before) await this.#daemon.resize(name, top, bytes);
    const sectors = Math.floor(bytes / SECTOR_BYTES);
    await this.#device.refresh();
    // The exports of QEMU before 8.1 keep the size that they began with.
    if (this.#device.properties.sectors !== sectors) {
      await this.#keeper.inDaemon((daemon) => this.#renew(daemon));
    }
  }

  get daemon(): DiskDaemon {
    const { graph, image, owner } = this.#request;
    const { top, layers } = this.#names;
    return {
      isReplaced: async (path) => {
        const opened = this.#daemon.record.disks[owner.device]?.files.find((file) => file.path === path);
        return opened?.inode !== undefined && !isSameFile(opened, await recordedFile(opened));
      },
      top,
      layers,
      image,
      prefix: graph.top.slice(0, graph.top.indexOf("-") + 1),
      run: async (call) => {
        return await this.#keeper.inDaemon(async (daemon) => {
          // The device may have another image by now, whose nodes have the same names.
          const { plan, request: { name, owner } } = this.#opened;
          if (daemon.record.disks[owner.device]?.plan !== plan.identity) throw isClosed(name);
          return await call(this.#monitorOf(daemon));
        });
      },
    };
  }

  changeTo(from: DaemonImage | undefined, image: ChangedImage, nodes: ChangedNodes): TopChange {
    const request = { ...this.#request, ...image };
    const planned = this.#daemon; // the nodes of another one have other names
    return new PlannedChange(this.#opened, { request, plan: this.#keeper.planOf(request) }, nodes, {
      isAsPlanned: (daemon) => this.#closed === undefined && this.#request.image === from && daemon === planned,
      changed: () => this.#listeners.forEach((listener) => listener()),
    });
  }

  watchTrouble(listener: () => void): Disposable {
    const own = (): void => listener();
    this.#listeners.add(own);
    return { [Symbol.dispose]: (): void => void this.#listeners.delete(own) };
  }

  get #request(): QemuRequest {
    return this.#opened.request;
  }

  get #names(): LiveNames {
    const { graph, owner } = this.#request;
    return this.#daemon.record.disks[owner.device]?.live ?? { top: graph.top, layers: layersOf(graph) };
  }

  #monitorOf(daemon: StorageDaemon): DaemonMonitor {
    return {
      ...daemon.monitorOf(this.#request.name),
      changeTops: async (changes, steps) => await changeTops(daemon, changes, steps),
      reroute: async (change) => await this.#reroute(daemon, change),
    };
  }

  get tag(): string | undefined {
    return this.#daemon.tagOf(this.#request.owner.device);
  }

  async settle(): Promise<void> {
    await this.#keeper.settle();
  }

  closeSettled(): Promise<void> {
    this.#isSettled = true;
    return this[Symbol.asyncDispose]();
  }

  fail(): void {
    this.#device.fail();
  }

  async recover(replay: (socket: string) => Promise<void>): Promise<void> {
    const { writesLost } = await this.lost;
    const { daemon, socket } = await this.#keeper.reopen();
    // The earlier one may have died after the disk was lost for another reason.
    if (writesLost || (daemon !== this.#daemon && this.#losesWrites(this.#daemon))) {
      if (daemon.tagOf(this.#request.owner.device) !== this.tag) {
        throw new LostForGoodError("its image file was replaced since");
      }
      await this.#device.paused();
      await replay(socket);
    }
    await this.#device.reconnect(socket);
    await this.#keeper.settle();
    this.#daemon = daemon;
    this.lost = this.#watch(daemon);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    try {
      const closing = Promise.resolve(this.#device[Symbol.asyncDispose]());
      if (await endsWithin(closing, CLOSE_MS)) return await this.#keeper.release(this.#isSettled);
      closing.catch((error) => this.#keeper.logger.warning(errorText(error)));
      throw new XenblkError(`its requests have not ended for ${CLOSE_MS / 1000} s`);
    } catch (error) {
      const rest = "it stays open in its daemon until that answers";
      this.#keeper.logger.warning(`${this.#request.name}: ${rest}: ${errorText(error)}`);
    }
  }

  async #reroute(daemon: StorageDaemon, change: Reroute): Promise<void> {
    let failure: { readonly error: unknown } | undefined;
    await this.#renew(daemon, async (node) => {
      try {
        return await change(node);
      } catch (error) {
        failure = { error };
        return node;
      }
    });
    if (failure !== undefined) throw failure.error;
  }

  /** In a turn. The loss of the connection is then no loss of the disk. */
  async #renew(daemon: StorageDaemon, change?: Reroute): Promise<void> {
    const renewal = this.#renewal = this.#renewExport(daemon, change);
    try {
      await renewal;
    } catch (error) {
      if (this.#renewal === renewal) this.#renewal = undefined;
      throw error;
    }
  }

  /**
   * Operations in flight wait, and are carried out again. It ends with its daemon: the next one has another socket at the
   * same path, and gets no operation before the log was written again.
   */
  async #renewExport(daemon: StorageDaemon, change?: Reroute): Promise<void> {
    const ended = new AbortController();
    const { name } = this.#request;
    void daemon.died.then((reason) => ended.abort(new XenblkError(`Cannot export ${name} anew: ${reason}`)));
    const socket = await this.#keeper.exportAnew(daemon, change);
    await this.#device.lost;
    await this.#device.reconnect(socket, ended.signal);
  }

  /** Whether the daemon, which has ended, can have lost answered writes. */
  #losesWrites(daemon: StorageDaemon): boolean {
    const { readOnly, cache } = this.properties;
    return !daemon.endedWell && !readOnly && cache !== "writethrough";
  }

  async #watch(daemon: StorageDaemon): Promise<DiskLoss> {
    const reason = await Promise.race([this.#device.lost, daemon.died]);
    if (isFragile(this.#request.graph) && this.#renewal === undefined) {
      await daemon.abandon(this.#request.owner.device);
      const store = `its ${this.#request.graph.remote} server may have been lost`;
      return { reason: `${store} (${reason})`, writesLost: this.#losesWrites(daemon) };
    }
    const death = await daemon.fate();
    const renewal = this.#renewal;
    this.#renewal = undefined;
    const failure = renewal === undefined
      ? `the connection to ${daemon.name} ended: ${reason}`
      : await renewal.then(() => undefined, errorText);
    if (death !== undefined) return { reason: death, writesLost: this.#losesWrites(daemon) };
    return failure === undefined ? await this.#watch(daemon) : { reason: failure, writesLost: false };
  }
}

/** Of a raw image that is one whole file: the file's size, which the daemon looked at when it opened the file. */
async function rawSize({ nodes, files }: BlockGraph): Promise<number | undefined> {
  const [file, raw] = nodes;
  const isWhole = file?.driver === "file" && raw?.driver === "raw" && nodes.length === 2 && raw["offset"] === undefined;
  if (!isWhole || raw["size"] !== undefined) return undefined;
  const { path } = files[0]!;
  return (await lookWithin(path, () => Deno.stat(path))).size;
}

function isClosed(name: string): XenblkError {
  return new XenblkError(`Cannot work on ${name}: the disk was closed, and its device has another image`, {
    remedy: "look at the disk with `xenblk show`, and repeat this",
  });
}

/** What fails while QEMU changes the image would be the loss of the server, and no request would show it. */
function nbdGrows(name: string): XenblkError {
  return new XenblkError(`Cannot resize ${name}: a disk on an NBD server does not grow while it is used`, {
    remedy: "detach the disk, and grow the export where its server has it; then a format on it, with `qemu-img resize`",
  });
}

function qedGrows(name: string): XenblkError {
  return new XenblkError(`Cannot resize ${name}: QEMU 7.2 ends when a qed image grows under load`, {
    remedy: "move the disk to a larger image of any format (`xenblk mirror`), or detach it and use `qemu-img resize`",
  });
}
