/**
 * The images of a dry run: a given image, which is checked before it is served, or new images, which are removed at the
 * end.
 */

import { SECTOR_BYTES } from "../../units.ts";
import { errorText, XenblkError } from "../../errors.ts";
import { checkFree, type ImageLocks } from "../../storage/image/lock.ts";
import { openDisk } from "../../storage/open.ts";
import { parseImage } from "../../storage/image/spec.ts";
import type { GuestImage } from "./guest.ts";

/** The images to serve; disposing removes new images. */
export interface DryRunImages extends Disposable {
  /** One for each guest. */
  readonly images: readonly GuestImage[];
  /** The first image, for messages. */
  readonly description: string;
  readonly sizeBytes: number;
}

/** The image that the user named; read-only without `locks`. Rejects with XenblkError if it cannot be served. */
export async function givenImage(name: string, locks: ImageLocks | undefined): Promise<DryRunImages> {
  const { format, target } = await parseImage(name);
  const readOnly = locks === undefined;
  await using disk = await openDisk({ format, target, readOnly, engine: "auto" });
  if (disk.image !== undefined && locks !== undefined) {
    await checkFree(locks, disk.image, { writes: true, shared: false, by: "dry-run" });
  }
  const isFile = format === "raw";
  const image: GuestImage = {
    params: `${format}:${isFile ? Deno.realPathSync(target) : target}`,
    path: isFile ? target : undefined,
    readOnly,
    baseline: isFile ? "anything" : baselineOf(format),
  };
  return {
    images: [image],
    description: `${format}:${target}`,
    sizeBytes: disk.properties.sectors * SECTOR_BYTES,
    [Symbol.dispose]: () => {},
  };
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
  return { images, description, sizeBytes, [Symbol.dispose]: () => files[Symbol.dispose]() };
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
      throw new XenblkError(`Cannot create an image in the temporary directory: ${errorText(error)}`, {
        cause: error,
        remedy: "name another directory in TMPDIR, or use --engine memory",
      });
    }
  }

  [Symbol.dispose](): void {
    removeEventListener("unload", this.#unload);
    for (const path of this.#paths.splice(0)) Deno.removeSync(path);
  }
}

/** The null disk stores nothing. */
function baselineOf(format: string): GuestImage["baseline"] {
  return format === "null" ? undefined : "zeroes";
}
