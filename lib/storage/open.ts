/**
 * Opens disks: examines the image and chooses the engine. If an image cannot be served, it throws an error that says why
 * and what to do.
 */

import { SECTOR_BYTES } from "../units.ts";
import { XenblkError } from "../errors.ts";
import type { Refusal } from "../hypervisor.ts";
import type { Disk, DiskAttachment, DiskProperties, DiskRequest } from "./disk.ts";
import { fileDescriptor, inlineFileAttachment } from "./engine/file.ts";
import { memoryAttachment } from "./engine/memory.ts";
import { nullAttachment } from "./engine/null.ts";
import { identityOf, type ImageFile } from "./image/file.ts";
import { openImage, sizeOf } from "./image/inspect.ts";
import { lockWord } from "./image/lock.ts";
import type { FileMedium, UringAttachment } from "./image/medium.ts";
import { channelsClosed, countChannels } from "./open_channels.ts";
import type { IoPool } from "./pool/pool.ts";
import { decideServing, inPlaceOfUring, noUring, type Serving, type ServingContext } from "./serving.ts";
import { formatSize, parseSize } from "../sizes.ts";
import { canonicalFormat } from "./image/spec.ts";

/** Published where the medium is not known: what today's are written in, so that guests align to it. */
const PHYSICAL_SECTOR_BYTES = 4096;

/** What opening a disk may use. */
export interface OpenContext extends ServingContext {
  /** The I/O Workers that serve files. Absent: each channel makes the file calls in its own thread, and blocks it. */
  readonly pool?: Pick<IoPool, "open">;
}

/**
 * Opens a disk. Rejects with {@linkcode XenblkError} when the image is missing, empty, no file or block device, not
 * permitted, or of a format or with an engine that cannot serve it; nothing then stays open.
 */
export async function openDisk(request: DiskRequest, context: OpenContext = {}): Promise<Disk> {
  const name = `${request.format}:${request.target}`;
  const format = canonicalFormat(request.format, name);
  const engines = format === "raw" ? ["auto", "uring", "file"] : ["auto", format];
  if (!engines.includes(request.engine)) {
    throw new XenblkError(`Cannot open image ${name}: engine ${request.engine} does not serve this format`, {
      kind: "usage",
      remedy: `use engine ${engines.join(" or ")}`,
    });
  }
  return format === "raw" ? await openFileDisk(request, context) : openSizedDisk(format, request, context);
}

async function openFileDisk(request: DiskRequest, context: OpenContext): Promise<Disk> {
  const { target: path, readOnly } = request;
  using undo = new DisposableStack();
  const { file, sizeBytes } = openImage(path, readOnly, context.warn);
  // Kept open as long as the disk: it keeps the inode's number from being given to another file.
  undo.adopt(file, (file) => file.close());
  const serving = decideServing(request, context);
  const properties = filePropertiesOf(serving, propertiesOf(`image ${path}`, sizeBytes, readOnly, context));
  const image = { path, readOnly, cache: serving.cache, identity: identityOf(file), locked: lockWord() };
  const served = serving.engine === "uring"
    ? serveByRing(
      image,
      serving.medium!,
      context.native!.uringModule,
      (refusal) => withoutRing(image, request, context, refusal),
    )
    : await serveFile(image, context.pool);
  const owned = undo.move();
  const closing = async (): Promise<void> => {
    await served.close();
    owned.dispose();
  };
  const describing = (properties: DiskProperties): string => describe("raw", path, properties, served.engine);
  return new OpenedDisk(properties, describing, served, closing, { image, size: () => sizeOf(file) });
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
  readonly withoutUring?: (lane: number, refusal: Refusal) => Promise<DiskAttachment>;
  readonly close: () => Promise<void>;
}

/** `other` serves the image to reactors that could not make their ring, if any. */
function serveByRing(
  image: ImageFile,
  { routes }: FileMedium,
  module: string,
  other: (refusal: Refusal) => Promise<ServedImage>,
): ServedImage {
  const channels = countChannels();
  const attachment: UringAttachment = { module, image, routes, channels };
  const ways = routes.direct ? "" : `, reads by ${routes.reads}, writes by ${routes.writes}`;
  let fallback: Promise<ServedImage> | undefined;
  return {
    engine: `uring${ways}`,
    attachment: () => Promise.resolve(attachment),
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
    { attachment: () => Promise.resolve(attachment) },
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

/** A disk as its opener left it. */
class OpenedDisk implements Disk {
  readonly image?: ImageFile;
  /** Where there is a file. */
  readonly grow?: () => Promise<void>;
  #properties: DiskProperties;
  readonly #describe: (properties: DiskProperties) => string;
  readonly #served: Pick<ServedImage, "attachment" | "withoutUring">;
  readonly #close: () => Promise<void>;
  #closed: Promise<void> | undefined;

  constructor(
    properties: DiskProperties,
    describe: (properties: DiskProperties) => string,
    served: Pick<ServedImage, "attachment" | "withoutUring">,
    close: () => Promise<void>,
    file?: { readonly image: ImageFile; readonly size: () => number },
  ) {
    if (file !== undefined) {
      this.image = file.image;
      // deno-lint-ignore require-await -- the size is looked at in this thread so far
      this.grow = async (): Promise<void> => this.#grow(file.image.path, file.size());
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
