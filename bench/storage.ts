/**
 * The images of the bench: a file in memory, files on a disk, and a block device over a file in memory. The last one
 * shows O_DIRECT without a slow disk. All images are written in full first, so that they have no holes. Images of format
 * qcow2 cannot be shared, so each backend gets a copy, and an empty image for the writes that allocate.
 */

import { errorText } from "../lib/errors.ts";
import { isDirect, isQcow2, placeOf, type StorageName } from "./cases.ts";
import { fileSystemOf } from "./machine.ts";

/** A place for an image. */
export interface Storage {
  readonly name: StorageName;
  readonly directory: string;
  /** The image is used with O_DIRECT. */
  readonly direct: boolean;
  /** For the report: `ext4, O_DIRECT`. */
  readonly description: string;
}

/** A file or block device that exists until it is disposed. */
export interface Image extends Disposable {
  readonly path: string;
  readonly direct: boolean;
}

/** A qcow2 image with data, and one without. */
export interface Qcow2Images {
  readonly written: string;
  readonly empty: string;
}

/** A round of writes that allocate has so much of an empty image. */
export const EMPTY_PART_BYTES = 2 ** 33;
/** Enough for the rounds of all cases; qcow2 keeps what is not written out of the file. */
const EMPTY_BYTES = 2 ** 40;

const MEMORY = "/dev/shm";
const CHUNK_BYTES = 2 ** 20;

/** The place for the image of a storage, or the reason why there is none. Images on a disk go to `directory`. */
export function findStorage(name: StorageName, directory: string): Storage | string {
  const kind = placeOf(name);
  const inMemory = kind === "tmpfs" || kind === "loop";
  const place = inMemory ? MEMORY : directory;
  let fileSystem: string;
  try {
    fileSystem = fileSystemOf(place);
  } catch {
    return `there is no directory ${place}`;
  }
  if (inMemory && fileSystem !== "tmpfs") return `${place} is on ${fileSystem}, not on tmpfs`;
  if (!inMemory && fileSystem === "tmpfs") {
    return `${place} is on tmpfs; name a directory on a disk with --directory`;
  }
  const missing = name === "loop" ? missingLoopDevice() : undefined;
  if (missing !== undefined) return missing;
  const description = {
    tmpfs: fileSystem,
    cached: `${fileSystem}, cached`,
    direct: `${fileSystem}, O_DIRECT`,
    loop: `loop on ${fileSystem}, O_DIRECT`,
  }[kind];
  const format = isQcow2(name) ? "qcow2 on " : "";
  return { name, directory: place, direct: isDirect(name), description: `${format}${description}` };
}

/** Creates an image of random bytes, without holes. */
export async function makeImage({ name, directory, direct }: Storage, sizeBytes: number): Promise<Image> {
  const path = await Deno.makeTempFile({ dir: directory, prefix: "xenblk-bench-" });
  using undo = new DisposableStack();
  undo.defer(() => Deno.removeSync(path));
  await fill(path, sizeBytes);
  const device = name === "loop" ? undo.adopt(losetup("--find", "--show", "--direct-io=on", path), detach) : undefined;
  const owned = undo.move();
  return { path: device ?? path, direct, [Symbol.dispose]: () => owned.dispose() };
}

/** Why there can be no qcow2 images; undefined if there can. */
export function missingQemuImg(): string | undefined {
  try {
    run("qemu-img", "--version");
    return undefined;
  } catch {
    return "qemu-img is missing (Debian package qemu-utils)";
  }
}

/** Makes a qcow2 image with the data of a raw one, and an empty one, until the stack is disposed. */
export function makeQcow2(image: Image, label: string, options: string, owned: AsyncDisposableStack): Qcow2Images {
  const [written, empty] = [`${image.path}-${label}.qcow2`, `${image.path}-${label}-empty.qcow2`];
  for (const path of [written, empty]) owned.defer(() => Deno.removeSync(path));
  run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-o", options, image.path, written);
  run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, empty, `${EMPTY_BYTES}`);
  return { written, empty };
}

function missingLoopDevice(): string | undefined {
  try {
    losetup("--find");
    return undefined;
  } catch (error) {
    return `no loop device is available: ${errorText(error)}`;
  }
}

function detach(device: string): void {
  losetup("--detach", device);
}

function losetup(...args: string[]): string {
  return run("losetup", ...args);
}

/** Runs a program and returns its output. Throws Error with its message if it fails. */
function run(program: string, ...args: string[]): string {
  const { success, stdout, stderr } = new Deno.Command(program, { args, stdin: "null" }).outputSync();
  const [out, words] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes).trim());
  if (!success) throw new Error(words);
  return out!;
}

/** Writes the page cache back to the disk, so that no later round is slowed by it. */
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
