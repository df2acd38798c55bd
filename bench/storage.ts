/**
 * Where the images of the bench lie: a file in memory and files on a disk, written through once so that nothing is a
 * hole. It must not know who reads them.
 */

import type { StorageName } from "./cases.ts";
import { fileSystemOf } from "./machine.ts";

/** A place for an image. */
export interface Storage {
  readonly directory: string;
  /** The image is to be used past the page cache. */
  readonly direct: boolean;
  /** For people: `ext4, O_DIRECT`. */
  readonly description: string;
}

/** A file that is there until it is disposed. */
export interface Image extends Disposable {
  readonly path: string;
  readonly direct: boolean;
}

const MEMORY = "/dev/shm";
const CHUNK_BYTES = 2 ** 20;

/** The place for a storage's image, or why this machine has none; `directory` is where disk-backed images go. */
export function findStorage(storage: StorageName, directory: string): Storage | string {
  const place = storage === "tmpfs" ? MEMORY : directory;
  let fileSystem: string;
  try {
    fileSystem = fileSystemOf(place);
  } catch {
    return `there is no directory ${place}`;
  }
  if (storage === "tmpfs" && fileSystem !== "tmpfs") return `${place} is on ${fileSystem}, not on tmpfs`;
  if (storage !== "tmpfs" && fileSystem === "tmpfs") {
    return `${place} is on tmpfs; name a directory on a disk with --directory`;
  }
  const description =
    { tmpfs: fileSystem, cached: `${fileSystem}, cached`, direct: `${fileSystem}, O_DIRECT` }[storage];
  return { directory: place, direct: storage === "direct", description };
}

/** Makes an image of random bytes, all of them on the disk. */
export async function makeImage({ directory, direct }: Storage, sizeBytes: number): Promise<Image> {
  const path = await Deno.makeTempFile({ dir: directory, prefix: "xenblk-bench-" });
  using undo = new DisposableStack();
  const image = undo.use({ path, direct, [Symbol.dispose]: () => Deno.removeSync(path) });
  await fill(path, sizeBytes);
  undo.move();
  return image;
}

/** Writes to the disk what is only in the page cache, so that no later round pays for it. */
export async function writeBack(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true });
  await file.syncData();
}

async function fill(path: string, sizeBytes: number): Promise<void> {
  using file = await Deno.open(path, { write: true });
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (let at = 0; at < chunk.length; at += 65536) crypto.getRandomValues(chunk.subarray(at, at + 65536));
  for (let done = 0; done < sizeBytes;) {
    const length = Math.min(chunk.length, sizeBytes - done);
    for (let at = 0; at < length;) at += await file.write(chunk.subarray(at, length));
    done += length;
  }
  await file.syncData();
}
