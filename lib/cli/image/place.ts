/**
 * The place of an image that is being made: a directory beside it, named `IMAGE.part`, until the image is whole. So
 * nobody finds half an image at its name, an image that is replaced stays until the new one is there, and what was not
 * finished is removed. A block device has no such place: it is written directly.
 */

import { XenblkError } from "../../errors.ts";
import { imageLocksOf } from "../../host_platform.ts";
import { checkUnused } from "../../storage/unused.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { Host } from "../verb.ts";

/** Where an image is to be made. */
export interface PlaceRequest {
  /** The path of the new image. */
  readonly target: string;
  /** An existing file or block device may be overwritten. */
  readonly force: boolean;
  /** To find out whether an image that is to be overwritten is in use. */
  readonly host: Host;
}

/** A place, until {@linkcode ImagePlace.finish}; disposing it, or the end of the process, removes what was not finished. */
export class ImagePlace implements Disposable {
  /** Where the image is to be made. */
  readonly path: string;
  readonly #target: string;
  /** The directory that holds the new image; undefined for a block device. */
  readonly #directory: string | undefined;
  readonly #replaced: Deno.FileInfo | undefined;
  readonly #unload = (): void => this[Symbol.dispose]();
  #finished = false;

  private constructor(target: string, replaced: Deno.FileInfo | undefined) {
    const split = target.lastIndexOf("/") + 1;
    this.#target = target;
    this.#replaced = replaced;
    this.#directory = replaced?.isBlockDevice ? undefined : `${target}.part`;
    this.path = this.#directory === undefined ? target : `${this.#directory}/${target.slice(split)}`;
    addEventListener("unload", this.#unload);
  }

  /**
   * Takes the place. Rejects with {@linkcode XenblkError} if something is at the target and `force` is not given, if
   * that is in use, or if another process makes the same image.
   */
  static async take({ target, force, host }: PlaceRequest): Promise<ImagePlace> {
    const existing = await Deno.lstat(target).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw cannotCreate(target, error);
    });
    if (existing === undefined) return ImagePlace.#at(target, undefined);
    if (!force) {
      throw new XenblkError(`Cannot create image ${target}: it exists`, {
        remedy: "name another file, or overwrite it with --force",
      });
    }
    const real = await Deno.realPath(target).catch((error) => {
      throw cannotCreate(target, error);
    });
    const info = await Deno.stat(real);
    // What is smaller than a sector is no image that anybody could use.
    if (info.size >= SECTOR_BYTES || !info.isFile) await checkUnusedOn(host, real);
    return ImagePlace.#at(real, info);
  }

  static #at(target: string, replaced: Deno.FileInfo | undefined): ImagePlace {
    const place = new ImagePlace(target, replaced);
    if (place.#directory === undefined) return place;
    try {
      Deno.mkdirSync(place.#directory, { mode: 0o700 });
      return place;
    } catch (error) {
      place.#finished = true; // the directory is not ours
      place[Symbol.dispose]();
      throw cannotCreate(target, error);
    }
  }

  /** A message of qemu-img, with the image's name in place of where it is being made. */
  renamed<O extends { readonly stderr: string }>(outcome: O): O {
    return { ...outcome, stderr: outcome.stderr.replaceAll(this.path, this.#target) };
  }

  /** Gives the whole image its name. Rejects with {@linkcode XenblkError} if something else took it meanwhile. */
  async finish(): Promise<void> {
    const directory = this.#directory;
    if (directory !== undefined) {
      const parent = this.#target.slice(0, this.#target.lastIndexOf("/") + 1);
      // An image of several files, such as a flat vmdk: the file that names the others comes last.
      const files = (await Array.fromAsync(Deno.readDir(directory))).map(({ name }) => name);
      const ordered = files.sort((one, other) => +this.path.endsWith(`/${one}`) - +this.path.endsWith(`/${other}`));
      for (const name of ordered) await this.#move(`${directory}/${name}`, `${parent}${name}`);
    }
    this[Symbol.dispose]();
  }

  /** Removes what was not finished. */
  [Symbol.dispose](): void {
    removeEventListener("unload", this.#unload);
    if (this.#finished || this.#directory === undefined) return;
    this.#finished = true;
    Deno.removeSync(this.#directory, { recursive: true });
  }

  async #move(from: string, to: string): Promise<void> {
    using file = await Deno.open(from);
    await file.sync();
    const replaced = this.#replaced;
    if (replaced !== undefined) {
      await Deno.chown(from, replaced.uid, replaced.gid);
      await Deno.chmod(from, (replaced.mode ?? 0o644) & 0o777);
    } else if (await exists(to)) {
      throw new XenblkError(`Cannot create image ${this.#target}: another process created ${to} meanwhile`);
    }
    await Deno.rename(from, to);
  }
}

/** Rejects with {@linkcode XenblkError} if the host, another process or a guest uses the file or block device. */
async function checkUnusedOn(host: Host, path: string): Promise<void> {
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") {
    throw new XenblkError(`Cannot overwrite image ${path}: Deno was started without the permission to see its users`, {
      remedy: "run deno with --allow-ffi too, or remove the file",
    });
  }
  const platform = await host.openNativePlatform();
  await checkUnused(path, { native: platform.files, locks: imageLocksOf(platform, () => {}), by: "image" });
}

function cannotCreate(target: string, error: unknown): XenblkError {
  if (error instanceof Deno.errors.AlreadyExists) {
    return new XenblkError(`Cannot create image ${target}: ${target}.part exists`, {
      cause: error,
      remedy: "another process makes this image, or was killed while it did: if so, remove that directory",
    });
  }
  const why = error instanceof Deno.errors.NotFound
    ? "there is no such directory"
    : error instanceof Error
    ? error.message.replace(/ \(os error \d+\).*$/, "")
    : String(error);
  return new XenblkError(`Cannot create image ${target}: ${why}`, { cause: error });
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
