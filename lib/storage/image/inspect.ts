/**
 * Opens an image's file to look at it: what kind of thing it is, how large, and, when it cannot be opened, why, in
 * words for the operator.
 */

import { XenblkError } from "../../errors.ts";

/** A file that can be served. The caller owns `file`. */
export interface OpenedImage {
  readonly file: Deno.FsFile;
  readonly sizeBytes: number;
}

/** What begins an image that needs a format driver. */
const MAGICS = new Map([["QFI\xfb", "qcow2"], ["KDMV", "vmdk"], ["conectix", "vhd"], ["vhdxfile", "vhdx"]]);
const MAGIC_BYTES = 8;

/**
 * Opens a regular file or block device. Throws {@linkcode XenblkError} for anything else; `warn` gets a line if the content
 * looks like another format.
 */
export function openImage(path: string, readOnly: boolean, warn?: (message: string) => void): OpenedImage {
  try {
    // Before opening, because opening a FIFO would wait for its other end.
    checkKind(path, Deno.statSync(path));
    const file = Deno.openSync(path, { read: true, write: !readOnly });
    using undo = new DisposableStack();
    undo.adopt(file, (file) => file.close());
    const info = file.statSync();
    checkKind(path, info);
    const sizeBytes = sizeOf(file);
    const format = formatByContent(file);
    if (format !== undefined) {
      warn?.(`image ${path}: it begins like a ${format} image, but is served as it is (raw)`);
    }
    undo.move();
    return { file, sizeBytes };
  } catch (error) {
    throw error instanceof XenblkError ? error : cannotOpen(path, readOnly, error);
  }
}

/** Bytes of an open file or block device, as it is now; moves the file's position. */
export function sizeOf(file: Deno.FsFile): number {
  const info = file.statSync();
  return info.isBlockDevice ? file.seekSync(0, Deno.SeekMode.End) : info.size;
}

function checkKind(path: string, info: Deno.FileInfo): void {
  if (info.isFile || info.isBlockDevice) return;
  const kind = info.isDirectory ? "it is a directory" : "it is neither a regular file nor a block device";
  throw new XenblkError(`Cannot open image ${path}: ${kind}`, { remedy: "name an image file or a block device" });
}

function formatByContent(file: Deno.FsFile): string | undefined {
  const bytes = new Uint8Array(MAGIC_BYTES);
  file.seekSync(0, Deno.SeekMode.Start);
  const text = String.fromCharCode(...bytes.subarray(0, file.readSync(bytes) ?? 0));
  for (const [magic, format] of MAGICS) {
    if (text.startsWith(magic)) return format;
  }
  return undefined;
}

/** The error that a person sees when a file could not be opened, from what Deno threw. */
export function cannotOpen(path: string, readOnly: boolean, error: unknown): XenblkError {
  const { why, remedy } = explain(path, readOnly, error);
  return new XenblkError(`Cannot open image ${path}: ${why}`, {
    cause: error,
    ...(remedy === undefined ? {} : { remedy }),
  });
}

function explain(path: string, readOnly: boolean, error: unknown): { why: string; remedy?: string } {
  if (error instanceof Deno.errors.NotFound) {
    return { why: "there is no such file", remedy: `create it, for instance with \`truncate -s 1G ${path}\`` };
  }
  if (error instanceof Deno.errors.NotCapable) {
    const flags = readOnly ? `--allow-read=${path}` : `--allow-read=${path} --allow-write=${path}`;
    // Deno opens device nodes and the like only with every permission.
    const remedy = `run deno with ${error.message.includes("all access") ? "--allow-all" : flags}`;
    return { why: "Deno was started without the permission", remedy };
  }
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (error instanceof Deno.errors.PermissionDenied || code === "EACCES") {
    const right = readOnly ? "read it" : "write it, or attach it read-only";
    return { why: "permission denied", remedy: `let this user ${right}` };
  }
  if (code === "EROFS") return { why: "its file system is read-only", remedy: "attach it read-only" };
  return { why: message.replace(/ \(os error \d+\).*$/, "") };
}
