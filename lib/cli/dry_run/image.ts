/**
 * The images of a dry run: a given image, which stays locked until the run is over, or new images, which are removed at
 * the end.
 */

import { SECTOR_BYTES } from "../../units.ts";
import { errorText, XenblkError } from "../../errors.ts";
import type { NativePlatform } from "../../host_platform.ts";
import { SYSTEM_CLOCK } from "../../clock.ts";
import type { LockableImage } from "../../hypervisor.ts";
import { createLogger } from "../../log.ts";
import type { Disk, DiskRequest } from "../../storage/disk.ts";
import { type ImageLocks, ProcessImageLocks } from "../../storage/image/lock.ts";
import { openDisk } from "../../storage/open.ts";
import { isFile, isPlugin } from "../../storage/image/formats.ts";
import type { PluginSettings } from "../../storage/plugin/settings.ts";
import type { PluginClient } from "../../storage/plugin/types.ts";
import { openPluginDisk } from "../../storage/plugin_disk.ts";
import { imageLabel, type ImageName, imageName, paramsOf, parseImage } from "../../storage/image/spec.ts";
import type { GuestImage } from "./guest.ts";

/** The images to serve; disposing unlocks a given image and removes new ones. */
export interface DryRunImages extends AsyncDisposable {
  /** One for each guest. */
  readonly images: readonly GuestImage[];
  /** The first image, for messages. */
  readonly description: string;
  readonly sizeBytes: number;
  /** Runs a disk in TypeScript; absent: the images are none. */
  readonly plugins?: PluginClient;
}

/** How a given image is used. */
export interface GivenImageOptions {
  /** It will be written to. */
  readonly writes: boolean;
  /** A filter keeps writes from it, so the guest may write although the image is only read. */
  readonly overlaid: boolean;
  /**
   * Its locks keep other processes from the image until the run is over, and it knows which block devices the host has
   * mounted. Absent: the image is not locked.
   */
  readonly platform?: NativePlatform;
  /** How a disk in TypeScript is run. */
  readonly plugin: PluginSettings;
  /** Gets a line if the image cannot be locked. */
  readonly warn: (message: string) => void;
}

/**
 * The image that the user named, locked. Rejects with {@linkcode XenblkError} if it cannot be served, or if another
 * process uses it in a way that excludes this use.
 */
export async function givenImage(
  name: string,
  { writes, overlaid, platform, warn, plugin }: GivenImageOptions,
): Promise<DryRunImages> {
  const named = imageName(await parseImage(name));
  if (isPlugin(named)) return await givenPlugin(named, writes, platform?.plugins, plugin);
  await using undo = new AsyncDisposableStack();
  const request = { ...named, readOnly: !writes, engine: "auto" } as const;
  const disk = undo.use(await openDisk(request, platform && { native: platform.files }));
  if (disk.image !== undefined && platform !== undefined) {
    undo.use(await lockNow(new ProcessImageLocks(platform.imageLocks, warn), disk.image, writes));
  }
  const isRaw = named.format === "raw" && isFile(named);
  const isNew = named.format === "memory" || named.format === "null";
  const image: GuestImage = {
    params: await paramsOf(named),
    path: isRaw ? named.target : undefined,
    readOnly: !writes && !(overlaid && isRaw),
    baseline: isNew ? baselineOf(named.format) : "anything",
  };
  const held = undo.move();
  return {
    images: [image],
    description: imageLabel(named),
    sizeBytes: disk.properties.sectors * SECTOR_BYTES,
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

/**
 * A disk in TypeScript. It is opened before the run, so that what keeps it from that is said at once, and closed again,
 * because it need not bear to be open twice.
 */
async function givenPlugin(
  named: ImageName,
  writes: boolean,
  plugins: PluginClient | undefined,
  settings: PluginSettings,
): Promise<DryRunImages> {
  const params = await paramsOf(named);
  const request = { ...named, readOnly: !writes, engine: "auto" } as const;
  const services = { settings, clock: SYSTEM_CLOCK, log: createLogger("backend") };
  const openPlugin = plugins &&
    ((request: DiskRequest): Promise<Disk> => openPluginDisk(request, { plugins, ...services }));
  await using disk = await openDisk(request, openPlugin && { openPlugin });
  const { sectors, readOnly } = disk.properties;
  if (writes && readOnly) {
    throw new XenblkError(`Cannot write to ${imageLabel(named)}: the plugin has no method write`, {
      kind: "usage",
      remedy: "leave out --write, or give the plugin one",
    });
  }
  return {
    images: [{ params, path: undefined, readOnly: !writes, baseline: "anything" }],
    description: imageLabel(named),
    sizeBytes: sectors * SECTOR_BYTES,
    ...(plugins === undefined ? {} : { plugins }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

async function lockNow(locks: ImageLocks, image: LockableImage, writes: boolean): Promise<AsyncDisposable> {
  const lock = await locks.tryLock(image, { writes, shared: false, by: "dry-run" });
  if (typeof lock !== "string") return lock;
  throw new XenblkError(`Cannot ${writes ? "write to" : "read"} image ${image.path}: ${lock}`, {
    remedy: "end that use first, or use a copy of the image",
  });
}

/**
 * New images of zeroes: files in the system's temporary directory, memory, or null disks. The files are removed even if
 * a second signal ends the process at once.
 */
export function newImages(engine: "file" | "memory" | "null", sizeBytes: number, count: number): DryRunImages {
  const files = new TemporaryFiles();
  const images = Array.from({ length: count }, (): GuestImage => {
    const common = { readOnly: false, baseline: baselineOf(engine) } as const;
    if (engine !== "file") return { ...common, params: `${engine}:${sizeBytes}`, path: undefined };
    const path = files.create(sizeBytes);
    return { ...common, params: `raw:${path}`, path };
  });
  const description = `new ${images[0]!.params}`;
  return { images, description, sizeBytes, [Symbol.asyncDispose]: () => Promise.resolve(files[Symbol.dispose]()) };
}

/** Temporary files; disposing this, or the end of the process, removes them. */
class TemporaryFiles implements Disposable {
  readonly #paths: string[] = [];
  readonly #unload = (): void => this[Symbol.dispose]();

  constructor() {
    addEventListener("unload", this.#unload);
  }

  create(sizeBytes: number): string {
    try {
      const path = Deno.makeTempFileSync({ prefix: "xenblk-dry-run-", suffix: ".img" });
      this.#paths.push(path);
      Deno.truncateSync(path, sizeBytes);
      return path;
    } catch (error) {
      this[Symbol.dispose]();
      throw cannotCreate(error);
    }
  }

  [Symbol.dispose](): void {
    removeEventListener("unload", this.#unload);
    for (const path of this.#paths.splice(0)) Deno.removeSync(path);
  }
}

function cannotCreate(error: unknown): XenblkError {
  const denied = error instanceof Deno.errors.NotCapable;
  const why = denied ? "Deno was started without the permission to write there" : errorText(error);
  const remedy = denied ? "run deno with --allow-write" : "name another directory in TMPDIR";
  return new XenblkError(`Cannot create an image in the temporary directory: ${why}`, {
    cause: error,
    remedy: `${remedy}, or use --engine memory`,
  });
}

/** The null disk stores nothing. */
function baselineOf(format: string): GuestImage["baseline"] {
  return format === "null" ? undefined : "zeroes";
}
