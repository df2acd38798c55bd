/**
 * The scratch file of a disk's view at one instant: an empty qcow2 image that takes room as it is written, up to a bound.
 * Its name is removed as soon as the daemon has it open, so that nothing is left of it whatever dies.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { qemuImgError, runQemuImg } from "./qemu_img.ts";
import { identify } from "./process.ts";
import { removeIfThere } from "./record.ts";

/** A file's name has its process's mark up to a `_`. */
const PREFIX = "xenblk-export-";
const MARK = /^xenblk-export-([^_]*)_/;
/** What QEMU copies at a time, too. */
const CLUSTER_BYTES = 64 << 10;
/** How long it may take to make the file. */
const MAKE_MS = 10_000;
/** A file has a name for some seconds. One that is older, and whose process nobody here can know, was left. */
const LEFT_AFTER_MS = 3_600_000;

/** What it is made for. */
export interface ScratchRequest {
  /** The beginning of the sentence if it cannot be made: `Cannot export xvdb of domain 5`. */
  readonly what: string;
  readonly directory: string;
  /** Of the disk. */
  readonly sizeBytes: number;
  /** Most room that it takes. */
  readonly limitBytes: number;
  /** The process that opens it. */
  readonly pid: number;
}

/** A scratch file. */
export interface Scratch {
  readonly path: string;
  readonly limitBytes: number;
}

/** Makes one. Rejects with {@linkcode XenblkError}; then none is left. */
export async function makeScratch({ what, directory, sizeBytes, limitBytes, pid }: ScratchRequest): Promise<Scratch> {
  const path = `${directory}/${PREFIX}${await ownMark() ?? ""}_${crypto.randomUUID()}`;
  await removeLeft(directory);
  try {
    using _new = await Deno.open(path, { write: true, createNew: true, mode: 0o600 });
  } catch (error) {
    throw new XenblkError(`${what}: no scratch file can be made in ${directory}: ${errorText(error)}`, {
      cause: error,
      remedy: "name another directory with --scratch-dir",
    });
  }
  try {
    const args = ["create", "-q", "-f", "qcow2", "-o", `cluster_size=${CLUSTER_BYTES}`, path, `${sizeBytes}`];
    const outcome = await runQemuImg(args, { what, image: path, timeoutMs: MAKE_MS });
    if (outcome.status !== 0) throw qemuImgError(what, outcome);
    await Deno.truncate(path, limitBytes);
    const { uid, gid } = await ownerOf(pid);
    if (uid !== Deno.uid()) await Deno.chown(path, uid, gid);
    return { path, limitBytes };
  } catch (error) {
    await removeIfThere(path);
    if (error instanceof XenblkError) throw error;
    throw new XenblkError(`${what}: its scratch file ${path}: ${errorText(error)}`, {
      cause: error,
      remedy: "free space there, or name another directory with --scratch-dir",
    });
  }
}

/** A process that was killed between making one and removing its name has left it. */
async function removeLeft(directory: string): Promise<void> {
  try {
    const own = await ownMark();
    for await (const { name, isFile } of Deno.readDir(directory)) {
      const mark = MARK.exec(name)?.[1];
      if (!isFile || mark === undefined) continue;
      const path = `${directory}/${name}`;
      if (await isLeft(path, mark, own)) await removeIfThere(path);
    }
  } catch { /* making the next one says what is wrong there */ }
}

/**
 * Whether the file's process has ended. Its number says that only among processes that see each other, so not in another
 * container, on another host, or after a boot: then the file's age does.
 */
async function isLeft(path: string, mark: string, own: string | undefined): Promise<boolean> {
  const [place, pid] = partsOf(mark);
  if (own !== undefined && partsOf(own)[0] === place) return await markOf(Number(pid)) !== mark;
  const { mtime } = await Deno.stat(path);
  return mtime !== null && Date.now() - mtime.getTime() > LEFT_AFTER_MS;
}

function partsOf(mark: string): readonly string[] {
  return mark.split(".");
}

async function ownMark(): Promise<string | undefined> {
  return await markOf(Deno.pid);
}

/** A process of this host, as it is named in its files: boot and namespace, number, start. Undefined: it is not known. */
async function markOf(pid: number): Promise<string | undefined> {
  const process = await identify(pid);
  const namespace = await Deno.readLink("/proc/self/ns/pid").then((name) => /\d+/.exec(name)?.[0], () => undefined);
  if (process === undefined || process.bootId === "" || namespace === undefined) return undefined;
  return `${process.bootId}-${namespace}.${pid}.${process.startTime}`;
}

/** Removes its name. */
export async function removeScratch({ path }: Scratch): Promise<void> {
  await removeIfThere(path);
}

async function ownerOf(pid: number): Promise<{ readonly uid: number; readonly gid: number }> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const id = (field: string): number => Number(new RegExp(`^${field}:\\t(\\d+)`, "m").exec(status)?.[1]);
  return { uid: id("Uid"), gid: id("Gid") };
}
