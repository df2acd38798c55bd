/**
 * Looks whether a trace could be written at a path, before a disk is served. It changes nothing.
 */

import { errorText, XenblkError } from "../errors.ts";
import { lookWithin } from "../path_lookup.ts";

const MAGIC = "xbtr";

/**
 * Rejects with {@linkcode XenblkError} if the directory is missing, or if something is there that is no trace. A path with
 * a placeholder in its name names many files: only their directory is looked at.
 */
export async function checkTracePath(path: string, placeholder: string): Promise<void> {
  try {
    const directory = path.slice(0, path.lastIndexOf("/") + 1) || ".";
    if (!directory.includes(placeholder)) await lookWithin(path, () => Deno.stat(directory));
    if (!path.includes(placeholder)) await lookWithin(path, () => checkFile(path));
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    const missing = error instanceof Deno.errors.NotFound;
    throw cannotWrite(
      path,
      missing ? "there is no such directory" : errorText(error),
      missing ? "create it" : undefined,
    );
  }
}

async function checkFile(path: string): Promise<void> {
  const info = await Deno.stat(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  });
  if (info === undefined) return;
  checkKind(path, info);
  if (info.size === 0) return;
  using file = await Deno.open(path);
  const start = new Uint8Array(MAGIC.length);
  const count = await file.read(start) ?? 0;
  if (new TextDecoder().decode(start.subarray(0, count)) !== MAGIC) throw noTrace(path, "it does not begin with xbtr");
}

/** Throws {@linkcode XenblkError}: opening a pipe would wait, and writing to a device would destroy what is on it. */
export function checkKind(path: string, { isFile, isDirectory }: Deno.FileInfo): void {
  if (!isFile) throw cannotWrite(path, isDirectory ? "it is a directory" : "it is not a regular file");
}

/** Somebody named another file by mistake, such as an image. */
export function noTrace(path: string, why: string): XenblkError {
  return cannotWrite(path, `it exists, and is no trace that can be continued: ${why}`, "name a new file");
}

/** An error that names a trace. */
export function cannotWrite(path: string, why: string, remedy?: string, cause?: unknown): XenblkError {
  return new XenblkError(`Cannot write trace ${path}: ${why}`, {
    ...(remedy === undefined ? {} : { remedy }),
    ...(cause === undefined ? {} : { cause }),
  });
}
