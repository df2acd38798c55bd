/**
 * Disks that a storage daemon serves: finds the files of the image, has the daemon open them, keeps a log of the writes
 * that are not flushed (write_log/), and follows the disk from one daemon to the next when a daemon dies. If that cannot
 * be done without losing answered writes, the disk fails for good.
 */

import type { Clock } from "../clock.ts";
import { errorText, XenblkError } from "../errors.ts";
import { endsWithin } from "../within.ts";
import type { JournalStore, PlatformDescriptor } from "../hypervisor.ts";
import { newNonce, nonceText } from "../nonce.ts";
import type {
  CacheMode,
  ChainDaemon,
  DaemonImage,
  Disk,
  DiskAttachment,
  DiskFile,
  DiskProperties,
  DiskRequest,
  FoundImage,
} from "./disk.ts";
import { imageLabel, imageText } from "./image/spec.ts";
import { type ChainContext, type ImageGraph, imageGraph } from "./qemu/chain.ts";
import { QemuImg } from "./qemu/image_info.ts";
import { removeIfThere } from "./qemu/record.ts";
import { type BlockGraph, caveatsOf } from "./qemu/graph.ts";
import { isFragile } from "./qemu/plan.ts";
import {
  type DaemonDisk,
  type DiskLoss,
  type ImageDaemons,
  LostForGoodError,
  type QemuRequest,
  RunDirectoryError,
} from "./qemu/types.ts";
import type { VhostClient } from "./vhost.ts";
import { loggedAttachment } from "./write_log/channel.ts";
import { KeptLog, MOST_PARTS } from "./write_log/kept_log.ts";
import { writeLogName } from "./write_log/name.ts";
import { replayLog, ReplayRefusedError } from "./write_log/replay.ts";

/**
 * How long another daemon is tried for before the disk is given up; and where a server has to come back, too, or somebody
 * has to make room in the run directory.
 */
const PATIENCE_MS = 60_000;
const LONG_PATIENCE_MS = 600_000;
/** The waits in between. */
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 5_000;
/** How long the connection of a replay may take to close. */
const CLOSE_MS = 2_000;

/** What serves images by storage daemons. */
export interface DaemonServices extends Omit<ChainContext, "allowImages" | "headerFile"> {
  readonly daemons: ImageDaemons;
  readonly vhost: VhostClient;
  /** For the Worker that writes the log again. */
  readonly platform: PlatformDescriptor;
  /** Where write logs are kept. Absent: there are none, and a disk with a daemon that died fails. */
  readonly logs?: Pick<JournalStore, "open" | "remove" | "names">;
  readonly clock: Clock;
  /** Where headers of snapshots are kept: the directory of the journal store. */
  readonly directory: string;
}

/** How images are looked at on this host. */
export function imageContext(): Omit<ChainContext, "allowImages"> {
  const credentialsDirectory = Deno.env.get("CREDENTIALS_DIRECTORY");
  return { inspector: new QemuImg(), ...(credentialsDirectory === undefined ? {} : { credentialsDirectory }) };
}

/** Where the header is that shows a snapshot inside a device's image. */
function headerFileOf(label: string, { directory }: DaemonServices): string {
  return `${directory}/${label.replaceAll("/", "-")}-snapshot`;
}

/**
 * What a daemon is to open for an image; `without` as in {@linkcode ChainDaemon.find}. Nothing is opened for writing.
 * Rejects with {@linkcode XenblkError}.
 */
export async function findImage(request: DiskRequest, context: ChainContext, without?: string): Promise<ImageGraph> {
  const { readOnly, cache, shared, allowImages, owner } = request;
  return await imageGraph(request, {
    ...context,
    ...(allowImages === undefined ? {} : { allowImages }),
    prefix: `d${/\d*$/.exec(owner?.device ?? "")![0]}`,
    readOnly,
    ...(cache === undefined ? {} : { cache }),
    ...(shared === undefined ? {} : { shared }),
    ...(without === undefined ? {} : { without }),
  });
}

/** Opens an image by a daemon. Rejects with {@linkcode XenblkError}; nothing then stays open. */
export async function openDaemonDisk(
  request: DiskRequest,
  services: DaemonServices,
  warn: (message: string) => void = () => {},
): Promise<Disk> {
  const { owner, readOnly } = request;
  const name = `image ${imageLabel(request)}`;
  if (owner === undefined) {
    throw new XenblkError(`Cannot open ${name}: a storage daemon belongs to a guest, and none is named`);
  }
  const headerFile = headerFileOf(owner.device, services);
  const { graph } = await findImage(request, { ...services, headerFile });
  for (const caveat of caveatsOf(graph)) warn(`${name}: ${caveat}`);
  const cache = cacheFor(request, graph, services.logs !== undefined, name, warn);
  const tag = nonceText(newNonce());
  const image = { format: request.format, target: request.target };
  const { signal } = request;
  const optional = { ...(cache === undefined ? {} : { cache }), ...(signal && { signal }) };
  const wanted = { graph, image, readOnly, name, owner, tag, ...optional };
  const again = async (other: DaemonImage, without?: string): Promise<ImageGraph> =>
    await findImage({ ...request, ...other }, { ...services, headerFile }, without);
  return await serve(wanted, services, warn, { led: request.led === true, find: again });
}

/**
 * Writes the log of a disk that nobody else opens to its image again. Resolves with the reason if that is not possible
 * any more. Rejects with {@linkcode XenblkError} if it is not possible now.
 */
export async function writeLogAgain(
  request: QemuRequest,
  services: DaemonServices,
  warn: (message: string) => void,
): Promise<string | undefined> {
  await using disk = await serve(request, services, warn);
  return disk.failure;
}

async function serve(
  request: QemuRequest,
  services: DaemonServices,
  warn: (message: string) => void,
  way: WayToImage = { led: false, find: noOther },
): Promise<ServedDisk> {
  const { graph, readOnly, cache, name, owner, tag } = request;
  await using undo = new AsyncDisposableStack();
  const headerFile = headerFileOf(owner.device, services);
  undo.defer(() => removeIfThere(headerFile));
  const disk = undo.use(await services.daemons.open(request));
  // With writethrough an answered write is durable.
  const isDurable = readOnly || cache === "writethrough";
  const log = isDurable || services.logs === undefined
    ? undefined
    : undo.use(new KeptLog(services.logs, writeLogName(owner.device)));
  const served = new ServedDisk(disk, { name, services, log, warn, headerFile, fragile: isFragile(graph), way });
  await served.begin(tag);
  undo.move();
  return served;
}

/**
 * The server of a remote store may restart alone, and lose what it had not flushed. With an NBD server that shows, and the
 * log has what was lost. Others are connected to again unnoticed, so each write is flushed, unless the operator has chosen
 * otherwise.
 */
function cacheFor(
  { cache }: DiskRequest,
  graph: BlockGraph,
  hasLog: boolean,
  name: string,
  warn: (message: string) => void,
): CacheMode | undefined {
  const { remote } = graph;
  if (remote === undefined || cache === "writethrough" || (isFragile(graph) && hasLog)) return cache;
  if (cache === undefined) return "writethrough";
  warn(`${name}: cache ${cache}: if its ${remote} server restarts, writes that it has not flushed are lost unnoticed`);
  return cache;
}

/** How the image was found. */
interface WayToImage {
  /** By notes of snapshots, from another one. */
  readonly led: boolean;
  /** How another image would be opened in its place; see ChainDaemon. */
  readonly find: (image: DaemonImage, without?: string) => Promise<ImageGraph>;
}

function noOther(): Promise<never> {
  return Promise.reject(new XenblkError("Cannot change the image of a disk that is only flushed"));
}

interface ServedDiskParts {
  readonly name: string;
  readonly services: DaemonServices;
  readonly log: KeptLog | undefined;
  readonly warn: (message: string) => void;
  /** Of a snapshot: its header. */
  readonly headerFile: string;
  /** See DiskPlan. */
  readonly fragile: boolean;
  readonly way: WayToImage;
}

/** A disk with its log, whichever daemon serves it. */
class ServedDisk implements Disk {
  readonly failed: Promise<string>;
  readonly #disk: DaemonDisk;
  /** What it was opened with. */
  readonly #first: DaemonImage | undefined;
  readonly #parts: ServedDiskParts;
  readonly #fail: (reason: string) => void;
  readonly #closing = Promise.withResolvers<undefined>();
  /** Ends a wait between two attempts when the disk is closed. */
  readonly #ending = new AbortController();
  #failure: string | undefined;
  #watching: Promise<void> = Promise.resolve();

  constructor(disk: DaemonDisk, parts: ServedDiskParts) {
    this.#disk = disk;
    this.#first = disk.daemon.image;
    this.#parts = parts;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.failed = promise;
    this.#fail = resolve;
  }

  get properties(): DiskProperties {
    // In one queue an error comes before what is completed after it.
    return { ...this.#disk.properties, mostChannels: this.#parts.fragile ? 1 : MOST_PARTS };
  }

  /** Why it has failed for good; undefined: it has not. */
  get failure(): string | undefined {
    return this.#failure;
  }

  get description(): string {
    return this.#disk.description;
  }

  get files(): readonly DiskFile[] {
    return this.#disk.files ?? [];
  }

  get daemon(): ChainDaemon {
    const daemon = this.#disk.daemon;
    return { ...daemon, find: (image, without) => this.#find(daemon.image, image, without) };
  }

  get named(): string | undefined {
    const { image } = this.#disk.daemon;
    return image !== undefined && (this.#parts.way.led || image !== this.#first) ? imageText(image) : undefined;
  }

  watchTrouble(listener: () => void): Disposable {
    return this.#disk.watchTrouble?.(listener) ?? { [Symbol.dispose]: (): void => {} };
  }

  async grow(sizeBytes?: number): Promise<void> {
    await this.#disk.grow!(sizeBytes);
  }

  async attachment(lane: number): Promise<DiskAttachment> {
    const inner = await this.#disk.attachment(lane);
    const { log } = this.#parts;
    return log === undefined ? inner : loggedAttachment(inner, log.place, log.givePart());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { log } = this.#parts;
    this.#closing.resolve(undefined);
    this.#ending.abort();
    await this.#watching;
    if (this.#failure !== undefined || log?.isEmpty !== false) await this.#disk.closeSettled();
    else await this.#disk[Symbol.asyncDispose]();
    log?.[Symbol.dispose]();
    await removeIfThere(this.#parts.headerFile);
  }

  /** Sees to what an earlier process left, then watches the disk. Rejects with {@linkcode XenblkError}. */
  async begin(tag: string | undefined): Promise<void> {
    const { log } = this.#parts;
    const { lostBefore } = this.#disk;
    const isKnown = log?.isOf(this.#disk.tag, this.#disk.properties) === true;
    if (isKnown && log!.failure !== 0) return void this.#giveUp("a flush of it failed under an earlier process");
    if (lostBefore !== undefined && !isKnown) {
      return void this.#giveUp(`${lostBefore}, and its write log is missing, damaged or another disk's`);
    }
    if (log !== undefined && (lostBefore !== undefined || this.#disk.tag !== tag)) await this.#takeOver(log);
    if (this.#failure !== undefined) return;
    log?.begin(this.#disk.tag);
    await this.#disk.settle(); // of another image, too, that the device had before
    this.#watching = this.#watch();
  }

  async #find(from: DaemonImage | undefined, image: DaemonImage, without?: string): Promise<FoundImage> {
    const { graph } = await this.#parts.way.find(image, without);
    const name = `image ${imageLabel(image)}`;
    return { nodes: graph.nodes, change: (nodes) => this.#disk.changeTo(from, { graph, image, name }, nodes) };
  }

  /** Writes the log of an earlier process again if its daemon is dead, and flushes in any case. */
  async #takeOver(log: KeptLog): Promise<void> {
    const { services: { platform }, name, warn } = this.#parts;
    const { lostBefore, lost } = this.#disk;
    const attachment = await this.#disk.attachment(0);
    const order = { platform, attachment, log: log.place, writes: lostBefore !== undefined };
    const target = { name, lost: lost.then(({ reason }) => reason), fail: () => this.#disk.fail() };
    try {
      const { operations } = await replayLog(order, target);
      if (lostBefore !== undefined) {
        warn(`${name}: ${lostBefore}; ${operations} operations of its log were written again`);
      }
    } catch (error) {
      // A flush fails once: the next one would succeed, and prove nothing. A replay writes everything again.
      if (order.writes || !(error instanceof ReplayRefusedError)) throw error;
      this.#giveUp(errorText(error));
    }
  }

  /** Until the disk is closed or fails. */
  async #watch(): Promise<void> {
    for (;;) {
      const loss = await Promise.race([this.#disk.lost, this.#closing.promise]);
      if (loss === undefined || !await this.#recover(loss)) return;
    }
  }

  /** False: the disk was given up, or is being closed. */
  async #recover(loss: DiskLoss): Promise<boolean> {
    const { name, services: { clock }, warn, fragile } = this.#parts;
    const beganMs = clock.now();
    warn(`${name}: ${loss.reason}; its requests wait for another storage daemon`);
    let said = "";
    for (let waitMs = FIRST_WAIT_MS; !this.#ending.signal.aborted; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
      try {
        await this.#disk.recover((socket) => this.#replay(socket));
        warn(`${name}: served again after ${Math.round(clock.now() - beganMs)} ms`);
        return true;
      } catch (error) {
        const text = errorText(error);
        if (error instanceof LostForGoodError) return this.#giveUp(`${loss.reason}, and ${text}`);
        const isLong = fragile || error instanceof RunDirectoryError;
        const patienceMs = isLong ? LONG_PATIENCE_MS : PATIENCE_MS;
        if (clock.now() - beganMs > patienceMs) return this.#giveUp(`${loss.reason}; and no other serves it: ${text}`);
        if (text !== said) warn(`${name}: ${text}; trying again`);
        said = text;
      }
      await clock.sleep(waitMs, this.#ending.signal);
    }
    this.#disk.fail(); // what the log holds is written by the one who opens the disk next
    return false;
  }

  /** Writes the log again over a connection of its own, while the disk's channels wait. */
  async #replay(socket: string): Promise<void> {
    const { name, services: { vhost, platform }, log, warn } = this.#parts;
    if (log === undefined || log.failure !== 0) {
      throw new LostForGoodError(log === undefined ? "there is no write log" : "a flush had failed before");
    }
    const device = await vhost.connect({ name, socket, readOnly: false, queues: 1, warn });
    try {
      const attachment = await device.attachment(0);
      const target = { name, lost: device.lost, fail: () => device.fail() };
      const { operations, bytes } = await replayLog({ platform, attachment, log: log.place, writes: true }, target);
      warn(`${name}: wrote ${operations} operations (${bytes} bytes) of its log again`);
    } finally {
      // A Worker that hangs in the kernel keeps it.
      await endsWithin(Promise.resolve(device[Symbol.asyncDispose]()), CLOSE_MS);
    }
  }

  #giveUp(reason: string): false {
    this.#failure = reason;
    this.#disk.fail();
    this.#fail(reason);
    return false;
  }
}
