/**
 * Opens disks: examines the image and chooses the engine. If an image cannot be served, it throws an error that says why
 * and what to do.
 */

import { SECTOR_BYTES } from "../units.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Refusal } from "../hypervisor.ts";
import type { Disk, DiskAttachment, DiskOwner, DiskProperties, DiskRequest, MemoryRule } from "./disk.ts";
import { fileDescriptor, inlineFileAttachment } from "./engine/file.ts";
import { memoryAttachment } from "./engine/memory.ts";
import { nullAttachment } from "./engine/null.ts";
import type { ImageFile } from "./image/file.ts";
import { StorageSilentError } from "./image/file_threads.ts";
import { formatByContent, openImage } from "./image/inspect.ts";
import {
  type FileMedium,
  type HostUse,
  type ImageChannels,
  transferRoute,
  type UringAttachment,
} from "./image/medium.ts";
import { channelsClosed, countChannels } from "./open_channels.ts";
import type { IoPool } from "./pool/pool.ts";
import {
  decideServing,
  examinationFor,
  inPlaceOfUring,
  noUring,
  type Serving,
  type ServingContext,
} from "./serving.ts";
import { formatSize, parseSize } from "../sizes.ts";
import { endsWithin } from "../within.ts";
import { canonicalFormat, enginesFor, isPlugin, needsDaemon, unknownFormat } from "./image/formats.ts";
import { activeImage } from "./image/overlay_note.ts";
import { imageLabel } from "./image/spec.ts";
import { checkName } from "./qemu/allow.ts";

/** Published where the medium is not known: what today's are written in, so that guests align to it. */
const PHYSICAL_SECTOR_BYTES = 4096;

/** How long closing a disk waits for its storage. */
const CLOSE_LIMIT_MS = 10_000;

/** What opening a disk may use. */
export interface OpenContext extends ServingContext {
  /** The I/O Workers that serve files. Absent: each channel makes the file calls in its own thread, and blocks it. */
  readonly pool?: Pick<IoPool, "open">;
  /** Opens what needs a storage daemon. Absent: it is refused. */
  readonly openByDaemon?: (request: DiskRequest) => Promise<Disk>;
  /** Ends what a storage daemon still has of a device. Absent: there are no daemons. */
  readonly endDaemonDisk?: (owner: DiskOwner) => void;
  /** Opens a disk in TypeScript, in a process of its own. Absent: it is refused. */
  readonly openPlugin?: (request: DiskRequest) => Promise<Disk>;
  /** Has the image files that are open, for who must close them when a process ends without closing its disks. */
  readonly images?: Set<AsyncDisposable>;
  /** How long closing the disk waits for storage that does not answer. Default 10 s. */
  readonly closeLimitMs?: number;
}

/**
 * Opens a disk. Rejects with {@linkcode XenblkError} when the image is missing, empty, no file or block device, not
 * permitted, or of a format or with an engine that cannot serve it; nothing then stays open.
 */
export async function openDisk(request: DiskRequest, context: OpenContext = {}): Promise<Disk> {
  const format = canonicalFormat(request.format);
  if (format === undefined) throw unknownFormat(request.format, imageLabel(request));
  const asked = { ...request, format };
  const find = (): Promise<typeof asked> => activeImage(asked, !request.readOnly);
  if (format === "raw" && !isByDaemon(asked)) return await openUnlessLed(asked, find, context);
  const image = await find();
  if (image !== asked) return await openDisk(ledTo(image), context);
  if (!isByDaemon(asked)) endOther(asked, context);
  return await openNamed(asked, context);
}

function isByDaemon(image: DiskRequest): boolean {
  return image.engine === "qemu" || needsDaemon(image);
}

/** An image that notes lead to. The engine was chosen for the one that was named: it may not serve this one's format. */
function ledTo(image: DiskRequest): DiskRequest {
  const engine = enginesFor(image).includes(image.engine) ? image.engine : "auto";
  return { ...image, engine, led: true };
}

/** What a storage daemon still has of the device, which is now served without one. */
function endOther({ sole, owner }: DiskRequest, { endDaemonDisk }: OpenContext): void {
  if (sole === true && owner !== undefined) endDaemonDisk?.(owner);
}

/**
 * Opens an image without a daemon: a thread of its own finds out whether its storage answers; only then is a note looked
 * for.
 */
async function openUnlessLed(
  asked: DiskRequest,
  find: () => Promise<DiskRequest>,
  context: OpenContext,
): Promise<Disk> {
  await using undo = new AsyncDisposableStack();
  // An image that cannot be written to may be the base of one that can.
  const opened = await openNamed(asked, context).then((disk) => undo.use(disk), (error: unknown) => ({ error }));
  if ("error" in opened && opened.error instanceof StorageSilentError) throw opened.error;
  const image = await find().catch((error) => {
    throw "error" in opened ? opened.error : error;
  });
  if (image !== asked) {
    await undo.disposeAsync();
    return await openDisk(ledTo(image), context);
  }
  if ("error" in opened) throw opened.error;
  endOther(asked, context);
  undo.move();
  return opened;
}

/** Opens the image that is named, whatever a note says. */
async function openNamed(image: DiskRequest, context: OpenContext): Promise<Disk> {
  const name = imageLabel(image);
  const engines = enginesFor(image);
  if (!engines.includes(image.engine)) {
    throw new XenblkError(`Cannot open image ${name}: engine ${image.engine} does not serve this format`, {
      kind: "usage",
      remedy: `use engine ${engines.join(" or ")}`,
    });
  }
  if (isPlugin(image)) {
    if (image.allowImages !== undefined) checkName(image, image.allowImages);
    if (context.openPlugin === undefined) throw noPlugins(name);
    return await context.openPlugin(image);
  }
  if (isByDaemon(image)) {
    if (context.openByDaemon === undefined) throw noDaemon(name);
    return await context.openByDaemon(image);
  }
  return image.format === "raw" ? await openFileDisk(image, context) : openSizedDisk(image.format, image, context);
}

function noPlugins(name: string): XenblkError {
  return new XenblkError(`Cannot open image ${name}: this process starts no plugins`, {
    remedy: "start deno with all permissions (-A); on a test host, pass `plugins` to testHost (docs/plugins.md)",
  });
}

function noDaemon(name: string): XenblkError {
  return new XenblkError(`Cannot open image ${name}: this process starts no storage daemon`, {
    remedy: "convert it with `qemu-img convert -O raw`",
  });
}

async function openFileDisk(request: DiskRequest, context: OpenContext): Promise<Disk> {
  const { target: path, readOnly } = request;
  const name = `image ${path}`;
  const owned = new AsyncDisposableStack();
  // Kept open as long as the disk: it keeps the inode's number from being given to another file.
  const opened = owned.use(
    await (context.native?.open(path, examinationFor(request)) ?? openImage(path, readOnly)),
  );
  context.images?.add(opened);
  owned.defer(() => void context.images?.delete(opened));
  const closing = closeWithin(name, context, () => owned.disposeAsync());
  await using undo = new AsyncDisposableStack();
  undo.defer(closing);
  const format = formatByContent(opened.start);
  if (format !== undefined) {
    context.warn?.(
      `${name}: it begins like a ${format} image, but is served as it is (raw); name it ${format}:${path} if the guest ` +
        "is to see its content",
    );
  }
  checkHostUse(request, opened.medium?.uses ?? []);
  const serving = decideServing(request, context, opened.medium);
  const properties = filePropertiesOf(serving, propertiesOf(name, opened.sizeBytes, readOnly, context));
  const { identity, below, channels } = opened;
  const image: ImageFile = {
    path,
    readOnly,
    cache: serving.cache,
    identity,
    ...(below === undefined ? {} : { below }),
    ...(channels === undefined ? {} : { descriptors: channels.descriptors }),
  };
  const served = serving.engine === "uring"
    ? serveByRing(
      image,
      channels!,
      serving.medium!,
      context.native!.uringModule,
      (refusal) => withoutRing(image, request, context, refusal),
    )
    : await serveFile(image, context.pool);
  owned.defer(() => served.close());
  undo.move();
  const describing = (properties: DiskProperties): string => describe("raw", path, properties, served.engine);
  const watched = channels === undefined ? served : warnOfReplacement(served, name, channels, context);
  return new OpenedDisk(properties, describing, watched, closing, { image, size: (to) => opened.size(to) });
}

/**
 * Refuses a file or block device that the host uses, by the rule of xl's hotplug script (tools/hotplug/Linux/block,
 * check_sharing): a writer if it is mounted at all, a reader if it is mounted for writing; none in mode `w!`.
 */
function checkHostUse({ target: path, readOnly, shared }: DiskRequest, uses: readonly HostUse[]): void {
  const use = shared === true ? undefined : uses.find(({ writes }) => writes || !readOnly);
  if (use === undefined) return;
  throw new XenblkError(`Cannot ${readOnly ? "read" : "write to"} image ${path}: ${use.what}`, {
    remedy: readOnly
      ? "unmount it, or mount it read-only (`mount -o remount,ro`): a guest must not read what changes underneath"
      : "end that use first: two at a time would damage what is on it; or insist with mode w!",
  });
}

/** Every channel may be the first after the file was removed: that is reported once. */
function warnOfReplacement(
  served: ServedImage,
  name: string,
  channels: ImageChannels,
  { warn }: OpenContext,
): ServedImage {
  let reported = warn === undefined;
  return {
    ...served,
    attachment: async (lane) => {
      const attachment = await served.attachment(lane);
      if (reported || !await channels.isReplaced()) return attachment;
      reported = true;
      warn?.(`${name}: it was removed or replaced; the file that was opened is served until the disk is detached`);
      return attachment;
    },
  };
}

/** Closes an image, and stops waiting if its storage does not let go of it. */
function closeWithin(
  name: string,
  { warn, closeLimitMs = CLOSE_LIMIT_MS }: OpenContext,
  close: () => Promise<void>,
): () => Promise<void> {
  return async (): Promise<void> => {
    const closing = close();
    try {
      if (await endsWithin(closing, closeLimitMs)) return;
    } catch (error) {
      if (error instanceof StorageSilentError) return warn?.(errorText(error));
      throw error;
    }
    warn?.(`${name}: its storage does not answer; it is closed when it does, or when this process ends`);
    closing.catch((error) => warn?.(errorText(error)));
  };
}

/** What the medium and the way it is used add to a file's size. */
function filePropertiesOf({ engine, cache, medium }: Serving, sized: DiskProperties): DiskProperties {
  if (medium === undefined) return { ...sized, cache };
  const { logicalSectorBytes, physicalSectorBytes, discard } = medium;
  const properties = { ...sized, logicalSectorBytes, physicalSectorBytes, cache };
  return engine === "uring" && discard !== undefined ? { ...properties, discard } : properties;
}

/** How a file is served: by the reactors' rings, by the pool, or in each channel's own thread. */
interface ServedImage {
  readonly engine: string;
  readonly attachment: (lane: number) => Promise<DiskAttachment>;
  /** See {@linkcode Disk.reattach}. */
  readonly reattach?: (attachment: DiskAttachment, lane: number) => DiskAttachment | undefined;
  readonly withoutUring?: (lane: number, refusal: Refusal) => Promise<DiskAttachment>;
  readonly waitsFor?: (rule: MemoryRule) => string | undefined;
  readonly close: () => Promise<void>;
}

/** `other` serves the image to reactors that could not make their ring, if any. */
function serveByRing(
  image: ImageFile,
  leases: ImageChannels,
  medium: FileMedium,
  module: string,
  other: (refusal: Refusal) => Promise<ServedImage>,
): ServedImage {
  const { routes } = medium;
  const channels = countChannels();
  const reads = routes.reads === "cached" ? "call if cached" : routes.reads;
  const ways = routes.direct ? "" : `, reads by ${reads}, writes by ${routes.writes}`;
  let fallback: Promise<ServedImage> | undefined;
  return {
    engine: `uring${ways}`,
    attachment: async (): Promise<UringAttachment> => ({
      module,
      image,
      routes,
      channels,
      descriptor: await leases.lease(),
    }),
    // The same descriptor, so that its next flush reports what has failed since its last one.
    reattach: (attachment) => attachment.module === module ? attachment : undefined,
    waitsFor: (rule) => waitsFor(image, medium, rule),
    withoutUring: async (lane, refusal) => {
      const served = fallback ??= other(refusal);
      // What failed may succeed the next time.
      served.catch(() => fallback = fallback === served ? undefined : fallback);
      return await (await served).attachment(lane);
    },
    close: async () => {
      await channelsClosed(channels);
      await (await fallback?.catch(() => undefined))?.close();
    },
  };
}

/**
 * Serves by engine file what was opened for io_uring, which was there then. Not what the operator asked to have served
 * by it; nor what other reactors serve past the page cache, which such writes would not agree with.
 */
async function withoutRing(
  image: ImageFile,
  { engine }: DiskRequest,
  { pool, warn }: OpenContext,
  refusal: Refusal,
): Promise<ServedImage> {
  const name = `image ${image.path}`;
  if (engine === "uring" || image.cache === "none") throw noUring(name, refusal);
  warn?.(`${name}: ${inPlaceOfUring(refusal)}`);
  return await serveFile(image, pool);
}

async function serveFile(image: ImageFile, pool: OpenContext["pool"]): Promise<ServedImage> {
  if (pool === undefined) {
    const channels = countChannels();
    const attachment = inlineFileAttachment(image, channels);
    return {
      engine: "file-inline",
      attachment: () => Promise.resolve(attachment),
      close: () => channelsClosed(channels),
    };
  }
  const opened = await pool.open(`image ${image.path}`, fileDescriptor(image));
  return {
    engine: "file",
    attachment: async (lane) => await Promise.resolve(opened.attachment(lane)),
    reattach: (_attachment, lane) => opened.attachment(lane),
    close: () => opened.close(),
  };
}

/** Disks without a file: their target is a size. */
function openSizedDisk(format: string, request: DiskRequest, context: OpenContext): Disk {
  const { target, readOnly } = request;
  const sized = propertiesOf(`${format}:${target}`, parseSize(target), readOnly, context);
  const discard = { granularityBytes: SECTOR_BYTES, alignmentBytes: 0, secure: false };
  const properties = readOnly ? sized : { ...sized, discard };
  const attachment = format === "memory"
    ? memoryAttachment(allocateData(properties.sectors * SECTOR_BYTES, target), readOnly)
    : nullAttachment(readOnly);
  const describing = (properties: DiskProperties): string => describe(format, target, properties, format);
  return new OpenedDisk(
    properties,
    describing,
    { attachment: () => Promise.resolve(attachment), reattach: (attachment) => attachment },
    () => Promise.resolve(),
  );
}

function allocateData(sizeBytes: number, target: string): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(sizeBytes);
  } catch (error) {
    throw new XenblkError(`Cannot open memory:${target}: there is not that much memory`, {
      cause: error,
      remedy: "use a smaller size or an image file",
    });
  }
}

function propertiesOf(name: string, sizeBytes: number, readOnly: boolean, context: OpenContext): DiskProperties {
  const sectors = Math.floor(sizeBytes / SECTOR_BYTES);
  if (sectors === 0) {
    throw new XenblkError(
      `Cannot open ${name}: it is ${sizeBytes === 0 ? "empty" : `smaller than one sector of ${SECTOR_BYTES} bytes`}`,
      { remedy: "give it a size, for instance with `truncate -s 1G`" },
    );
  }
  const rest = sizeBytes % SECTOR_BYTES;
  if (rest > 0) {
    context.warn?.(`${name}: its last ${rest} bytes are not served: its size is not a multiple of ${SECTOR_BYTES}`);
  }
  return { sectors, logicalSectorBytes: SECTOR_BYTES, physicalSectorBytes: PHYSICAL_SECTOR_BYTES, readOnly };
}

function describe(format: string, target: string, properties: DiskProperties, engine: string): string {
  const size = formatSize(properties.sectors * SECTOR_BYTES);
  const { readOnly, cache } = properties;
  const access = readOnly ? "read-only, " : "";
  return `${format}:${target} (${size}, ${access}engine ${engine}${cache === undefined ? "" : `, cache ${cache}`})`;
}

/** Only calls on a file in memory never wait; no other medium has reads by call. */
function waitsFor({ identity: { device } }: ImageFile, medium: FileMedium, rule: MemoryRule): string | undefined {
  const { routes, discard } = medium;
  if (routes.reads === "call") return undefined;
  const transfers = (["reads", "writes"] as const).some((kind) => transferRoute(kind, routes, rule) === "call");
  const discards = routes.discards === "call" || discard?.secure === true;
  return transfers || discards ? `device ${device}` : undefined;
}

/** What a disk asks of how its file is served. */
type Served = Pick<ServedImage, "attachment" | "reattach" | "withoutUring" | "waitsFor">;

/** A disk as its opener left it. */
class OpenedDisk implements Disk {
  readonly image?: ImageFile;
  /** Where there is a file. */
  readonly grow?: (sizeBytes?: number) => Promise<void>;
  #properties: DiskProperties;
  readonly #describe: (properties: DiskProperties) => string;
  readonly #served: Served;
  readonly #close: () => Promise<void>;
  #closed: Promise<void> | undefined;

  constructor(
    properties: DiskProperties,
    describe: (properties: DiskProperties) => string,
    served: Served,
    close: () => Promise<void>,
    file?: { readonly image: ImageFile; readonly size: (growTo?: number) => Promise<number> },
  ) {
    if (file !== undefined) {
      this.image = file.image;
      this.grow = async (to?: number): Promise<void> => this.#grow(file.image.path, await file.size(to));
    }
    this.#properties = properties;
    this.#describe = describe;
    this.#served = served;
    this.#close = close;
  }

  get properties(): DiskProperties {
    return this.#properties;
  }

  get description(): string {
    return this.#describe(this.#properties);
  }

  async attachment(lane: number): Promise<DiskAttachment> {
    this.#mustBeOpen();
    return await this.#served.attachment(lane);
  }

  reattach(attachment: DiskAttachment, lane: number): DiskAttachment | undefined {
    return this.#closed === undefined ? this.#served.reattach?.(attachment, lane) : undefined;
  }

  waitsFor(rule: MemoryRule): string | undefined {
    return this.#served.waitsFor?.(rule);
  }

  async withoutUring(lane: number, refusal: Refusal): Promise<DiskAttachment> {
    this.#mustBeOpen();
    const { attachment, withoutUring } = this.#served;
    return withoutUring === undefined ? await attachment(lane) : await withoutUring(lane, refusal);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#closed ??= this.#close();
  }

  #grow(path: string, sizeBytes: number): void {
    this.#mustBeOpen();
    const sectors = Math.floor(sizeBytes / SECTOR_BYTES);
    if (sectors < this.#properties.sectors) {
      const sizes = `${formatSize(sizeBytes)}, the disk ${formatSize(this.#properties.sectors * SECTOR_BYTES)}`;
      throw new XenblkError(`Cannot shrink image ${path} under its guest: it has ${sizes}`, {
        remedy: "make the image as large as before, or detach the disk and attach it anew",
      });
    }
    this.#properties = { ...this.#properties, sectors };
  }

  #mustBeOpen(): void {
    if (this.#closed !== undefined) throw new XenblkError(`Cannot attach to ${this.description}: it is closed`);
  }
}
