/**
 * Opens an image's file and looks at it: what kind of thing it is, how large, what it begins with. Here by Deno's file
 * calls, which do not block their caller; ffi does the same by system calls in file threads.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { FileIdentity } from "../../hypervisor.ts";
import { formatSize } from "../../sizes.ts";
import { endsWithin } from "../../within.ts";
import { cannotShrink } from "./grow.ts";
import { cannotOpen } from "./explain.ts";
import { identityOf } from "./file.ts";
import { StorageSilentError } from "./file_threads.ts";
import type { OpenedImage } from "./medium.ts";

/** What begins an image that needs a format driver. */
const MAGICS = new Map([
  ["QFI\xfb\0\0\0\x01", "qcow"],
  ["QFI\xfb", "qcow2"],
  ["QED\0", "qed"],
  ["KDMV", "vmdk"],
  ["conectix", "vhd"],
  ["vhdxfile", "vhdx"],
]);
/** Bytes that {@linkcode formatByContent} needs. */
export const MAGIC_BYTES = 8;

const LIMIT_MS = 10_000;

/**
 * Opens a regular file or block device. Rejects with {@linkcode XenblkError} for anything else, or if the storage does not
 * answer within `limitMs`.
 */
export async function openImage(path: string, readOnly: boolean, limitMs: number = LIMIT_MS): Promise<OpenedImage> {
  const within = <T>(call: Promise<T>): Promise<T> => answerWithin(call, limitMs, path);
  try {
    // Before opening, because opening a FIFO would wait for its other end.
    checkKind(path, await within(Deno.stat(path)));
    const opening = Deno.open(path, { read: true, write: !readOnly });
    using undo = new DisposableStack();
    const file = await within(opening).catch((error) => {
      opening.then((late) => late.close(), () => {});
      throw error;
    });
    undo.defer(() => file.close());
    const info = await within(file.stat());
    checkKind(path, info);
    const start = new Uint8Array(MAGIC_BYTES);
    const startBytes = await within(file.read(start)) ?? 0;
    const identity: FileIdentity = identityOf(info);
    const sizeBytes = await within(sizeOf(file));
    const owned = undo.move();
    return {
      identity,
      sizeBytes,
      start: start.subarray(0, startBytes),
      size: (growTo) => within(growTo === undefined ? sizeOf(file) : growFile(file, path, growTo)),
      [Symbol.asyncDispose]: () => Promise.resolve(owned.dispose()),
    };
  } catch (error) {
    throw error instanceof XenblkError ? error : cannotOpen(path, readOnly, error);
  }
}

/** What an image begins like, if it needs a format driver. */
export function formatByContent(start: Uint8Array): string | undefined {
  const text = String.fromCharCode(...start);
  for (const [magic, format] of MAGICS) {
    if (text.startsWith(magic)) return format;
  }
  return undefined;
}

/** Throws {@linkcode XenblkError} for anything that is not a regular file or block device. */
export function checkKind(
  path: string,
  { isFile, isBlockDevice, isDirectory }: Pick<Deno.FileInfo, "isFile" | "isBlockDevice" | "isDirectory">,
): void {
  if (isFile || isBlockDevice) return;
  const kind = isDirectory ? "it is a directory" : "it is neither a regular file nor a block device";
  throw new XenblkError(`Cannot open image ${path}: ${kind}`, { remedy: "name an image file or a block device" });
}

/** Bytes of an open file or block device, as it is now; moves the file's position. */
async function sizeOf(file: Deno.FsFile): Promise<number> {
  const info = await file.stat();
  return info.isBlockDevice ? await file.seek(0, Deno.SeekMode.End) : info.size;
}

async function growFile(file: Deno.FsFile, path: string, growTo: number): Promise<number> {
  const { isFile, size } = await file.stat();
  checkGrowth(path, isFile, size, growTo);
  try {
    await file.truncate(growTo);
  } catch (error) {
    throw cannotGrow(path, growTo, error);
  }
  return growTo;
}

/** The error about a file that the file system does not make so large. */
export function cannotGrow(path: string, growTo: number, error: unknown): XenblkError {
  return new XenblkError(`Cannot make image ${path} ${formatSize(growTo)} large: ${errorText(error)}`, {
    cause: error,
    remedy: "name a smaller size, or free space on its file system",
  });
}

/** Throws {@linkcode XenblkError} if a file or device cannot be made so large by giving it another end. */
export function checkGrowth(path: string, isFile: boolean, sizeBytes: number, growTo: number): void {
  if (!isFile) {
    throw new XenblkError(`Cannot make block device ${path} larger`, {
      remedy: "grow the device itself (lvextend, for instance), then resize the disk without a size",
    });
  }
  if (growTo < sizeBytes) throw cannotShrink(`image ${path}`, sizeBytes, growTo);
}

async function answerWithin<T>(call: Promise<T>, limitMs: number, path: string): Promise<T> {
  if (await endsWithin(call, limitMs)) return await call;
  throw new StorageSilentError(
    `Cannot open image ${path}: its storage does not answer (open took longer than ${limitMs / 1000} s)`,
    { remedy: "check the device or file server that it is on" },
  );
}
