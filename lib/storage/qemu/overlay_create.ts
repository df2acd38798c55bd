/**
 * Takes a snapshot of disks that a storage daemon serves: each gets a qcow2 overlay beside its image, all in one
 * transaction, so that the bases hold what the guest had written at one instant.
 *
 * The overlays are complete and durable before the notes beside their bases say that they count (overlay_note.ts), and the
 * notes say so before the daemon changes anything. So what dies at any step leaves images that are opened rightly: without
 * the note, the base, which nothing but the base's own disk has written to; with it, the overlay, which is empty, or has
 * the later writes. The write logs need not be emptied: QEMU flushes a base when it gets an overlay, and a log is written
 * again to whatever is on top, in its order, which leaves the same there as writing it once.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { ChainDaemon, DaemonImage, DaemonMonitor, FoundImage, TopChange } from "../disk.ts";
import { isFile } from "../image/formats.ts";
import {
  directoryOf,
  fileOf,
  readNote,
  realImagePath,
  removeNote,
  syncPath,
  writeNote,
} from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";
import { announceOverlay, removeUnfinished } from "../image/unfinished_overlay.ts";
import type { BlockNode } from "./graph.ts";
import { nodeSize } from "./graph_steps.ts";
import type { Execute } from "./removal.ts";
import { chainBelow, MOST_OVERLAYS } from "./overlay_chain.ts";
import { settleDeletions } from "./overlay_settle.ts";
import { type AioModes, modesAfter, withModes } from "./plan.ts";
import { qemuImgError, runQemuImg } from "./qemu_img.ts";
import { QmpError } from "./qmp.ts";

/** How long the overlays may take to be made, and the daemon to put them on: it waits for the guest's requests. */
const MAKE_MS = 30_000;
const TRANSACTION_MS = 60_000;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/;

/** A disk of which a snapshot is taken. */
export interface SnapshotDisk {
  readonly daemon: ChainDaemon;
  /** For messages: `xvda of web (domain 5)`. */
  readonly name: string;
}

/** How it is taken. */
export interface SnapshotOptions {
  /** Its name: letters, digits, `.`, `_` and `-`. */
  readonly snapshot: string;
  /** Called before each step, with its name; for tests. */
  readonly at?: (step: SnapshotStep) => Promise<void> | void;
}

/** The steps of a snapshot, in order. */
export const SNAPSHOT_STEPS = ["make", "made", "begin", "add", "note", "record", "transaction", "end"] as const;

/** One of {@linkcode SNAPSHOT_STEPS}. */
export type SnapshotStep = typeof SNAPSHOT_STEPS[number];

/** A snapshot of one disk. */
export interface TakenSnapshot {
  /** Absolute path of the image that is not written any more. */
  readonly base: string;
  /** The image that the guest writes to now, as the node `params` names it. */
  readonly image: string;
  /** How many snapshots the disk has now. */
  readonly count: number;
}

/** Snapshots that were taken together. */
export interface TakenSnapshots {
  readonly disks: readonly TakenSnapshot[];
  /** How long the daemon took to put the overlays on; the guest's requests wait in that time. */
  readonly pauseMs: number;
}

/** One disk's overlay, and what becomes of it. */
interface Overlay {
  readonly disk: SnapshotDisk;
  readonly base: DaemonImage;
  readonly path: string;
  readonly count: number;
}

/** The same with its nodes. */
interface PlacedOverlay extends Overlay {
  readonly found: FoundImage;
  readonly fileNode: BlockNode;
  readonly node: BlockNode;
}

/**
 * Takes a snapshot of all of the disks at one instant. Rejects with {@linkcode XenblkError}; then there is none, unless the
 * daemon died or fell silent meanwhile: the disks then go on with their overlays, and the error says so.
 */
export async function takeSnapshot(disks: readonly SnapshotDisk[], options: SnapshotOptions): Promise<TakenSnapshots> {
  const { snapshot, at = (): void => {} } = options;
  checkName(snapshot);
  const overlays: Overlay[] = [];
  // What a daemon says of its disk now: it is asked once.
  for (const { daemon, name } of disks) {
    await settleDeletions(daemon);
    overlays.push(await overlayFor({ daemon, name }, snapshot));
  }
  const made: Overlay[] = [];
  // What the other one has made would be taken for what a process left that was killed.
  using _taking = takingOf(overlays);
  await at("make");
  try {
    for (const overlay of overlays) {
      await make(overlay);
      made.push(overlay);
    }
    await at("made");
    const taken = await putOn(overlays, snapshot, at);
    for (const { base } of made) await removeUnfinished(base.target).catch(() => {}); // whoever opens the base does it
    return taken;
  } catch (error) {
    for (const overlay of made) await removeUnused(overlay);
    throw error;
  }
}

/** The paths of images of which a snapshot is being taken; no other process has such an image open. */
const TAKING = new Set<string>();

/** Throws {@linkcode XenblkError} if a snapshot of one of the disks is being taken. */
function takingOf(overlays: readonly Overlay[]): Disposable {
  const paths = overlays.map(({ base }) => base.target);
  const other = overlays.find(({ base }) => TAKING.has(base.target));
  if (other !== undefined) {
    throw new XenblkError(`Cannot take a snapshot of ${other.disk.name}: another one is being taken`, {
      remedy: "repeat it",
    });
  }
  for (const path of paths) TAKING.add(path);
  return { [Symbol.dispose]: (): void => paths.forEach((path) => TAKING.delete(path)) };
}

/** A disk, before a snapshot is taken of it. */
export interface SnapshotBase {
  /** Absent: nobody knows. */
  readonly image: DaemonImage | undefined;
  /** For messages, as in {@linkcode SnapshotDisk}. */
  readonly name: string;
}

/** Rejects with {@linkcode XenblkError} if a snapshot cannot have that name, or one of the images none: nothing is asked of a daemon. */
export async function checkSnapshot(snapshot: string, bases: readonly SnapshotBase[]): Promise<void> {
  checkName(snapshot);
  for (const base of bases) await baseOf(base);
}

function checkName(snapshot: string): void {
  if (NAME.test(snapshot)) return;
  throw new XenblkError(`Cannot name a snapshot ${JSON.stringify(snapshot)}`, {
    kind: "usage",
    remedy: "use letters, digits, `.`, `_` and `-`: at most 64, and none of `.` and `-` at the begin",
  });
}

/** The image by its path without links. Its directory holds what was written, so it is none of device nodes. */
async function baseOf({ image, name }: SnapshotBase): Promise<DaemonImage> {
  const what = `Cannot take a snapshot of ${name}`;
  const target = image !== undefined && isFile(image) ? await realImagePath(image.target) : "";
  const found = target === "" ? undefined : await lookWithin(target, () => Deno.stat(target)).catch((error) => {
    throw new XenblkError(`${what}: ${target}: ${errorText(error)}`, {
      cause: error,
      remedy: "put the image back there",
    });
  });
  if (image !== undefined && found?.isFile === true) return { ...image, target };
  const why = "its image is in no directory, where an overlay could lie beside it";
  throw new XenblkError(`${what}: ${why}`, { remedy: "use an image in a file" });
}

/** Refuses a disk that cannot have one. */
async function overlayFor(disk: SnapshotDisk, snapshot: string): Promise<Overlay> {
  const { daemon: { image }, name } = disk;
  const refusal = (why: string, remedy: string): XenblkError =>
    new XenblkError(`Cannot take a snapshot of ${name}: ${why}`, { remedy });
  const base = await baseOf({ image, name });
  const links = await chainBelow(base.target, base.format);
  if (links.length >= MOST_OVERLAYS) {
    throw refusal(`it has ${links.length} snapshots already`, "merge them with `xenblk snapshot commit`");
  }
  if (links.some((link) => link.snapshot === snapshot)) {
    throw refusal(`it has a snapshot ${snapshot} already`, "choose another name, or delete that one");
  }
  const first = links.at(-1)?.base ?? base.target;
  const path = `${directoryOf(base.target)}/${fileOf(first).replace(/\.[A-Za-z0-9]{1,10}$/, "")}.${snapshot}.qcow2`;
  return { disk, base, path, count: links.length + 1 };
}

/** Makes an empty overlay that belongs to the base's owner, and is on the disk. */
async function make({ disk, base, path }: Overlay): Promise<void> {
  const what = `Cannot take a snapshot of ${disk.name}`;
  await removeUnfinished(base.target); // of a process that was killed
  if (await lookWithin(path, () => Deno.lstat(path).then(() => true, () => false))) {
    throw new XenblkError(`${what}: ${path} exists already`, { remedy: "choose another name, or remove that file" });
  }
  const size = await disk.daemon.run(async ({ execute }) => await nodeSize(execute, disk.daemon.top));
  const backing = ["-u", "-b", fileOf(base.target), "-F", base.format];
  const args = ["create", "-q", "-f", "qcow2", ...backing, "--", path, String(size)];
  try {
    await announceOverlay(base.target, path);
    const outcome = await runQemuImg(args, { what, timeoutMs: MAKE_MS });
    if (outcome.status !== 0) throw qemuImgError(what, outcome);
    await lookWithin(path, async () => {
      const { mode, uid, gid } = await Deno.stat(base.target);
      if (mode !== null) await Deno.chmod(path, mode & 0o777);
      if (uid !== null && gid !== null) await Deno.chown(path, uid, gid);
      await syncPath(path);
      await syncPath(directoryOf(path));
    });
    await removeNote(path); // of an overlay with that name that was merged
  } catch (error) {
    await Deno.remove(path).catch(() => {});
    await removeUnfinished(base.target).catch(() => {}); // whoever opens the base does it
    if (error instanceof XenblkError) throw error;
    throw new XenblkError(`${what}: ${path}: ${errorText(error)}`, { cause: error, remedy: "free space there" });
  }
}

/** Puts the overlays on their disks. */
async function putOn(
  overlays: readonly Overlay[],
  snapshot: string,
  at: NonNullable<SnapshotOptions["at"]>,
): Promise<TakenSnapshots> {
  const placed = await Promise.all(overlays.map(place));
  const changes = placed.map(changeOf);
  let pauseMs = 0;
  await at("begin");
  await overlays[0]!.disk.daemon.run(async (monitor) => {
    const unused = async (): Promise<void> => {
      for (const overlay of placed.toReversed()) await removeNodes(monitor, overlay);
    };
    const paths = placed.map(({ path }) => path);
    await monitor.allow(paths.map((path) => ({ path, writable: true })));
    const changing = monitor.changeTops(changes, {
      prepare: async () => {
        await at("add");
        for (const overlay of placed) await addNodes(monitor, overlay).catch(undoing(unused));
      },
      note: async () => {
        await at("note");
        await noteAll(placed, snapshot).catch(undoing(unused));
        await at("record");
      },
      carryOut: async () => {
        await at("transaction");
        const startMs = performance.now();
        const refusal = await transact(monitor, placed);
        pauseMs = performance.now() - startMs;
        await at("end");
        return refusal;
      },
      undo: async () => {
        for (const { base } of placed) await removeNote(base.target);
        await unused();
      },
    });
    // Those that went on top, or may have, are a disk's by now.
    await changing.catch(undoing(() => monitor.disallow(paths)));
  });
  const disks = placed.map(({ base, path, count }) => ({
    base: base.target,
    image: imageText({ format: "qcow2", target: path }),
    count,
  }));
  return { disks, pauseMs };
}

/** Rejects with the error once `undo` is done. */
function undoing(undo: () => Promise<void>): (error: unknown) => Promise<never> {
  return async (error) => {
    await undo();
    throw error;
  };
}

/** Gives the overlay's nodes names that no other node of the daemon has: those that it gets when it is opened anew are taken. */
async function place(overlay: Overlay): Promise<PlacedOverlay> {
  const { disk: { daemon, name }, path, count } = overlay;
  const found = await daemon.find({ format: "qcow2", target: path });
  const top = found.nodes.at(-1)!;
  const file = found.nodes.find((node) => node["node-name"] === top["file"]);
  if (file === undefined || "encrypt" in top || Object.values(daemon.layers).length === 0) {
    throw new XenblkError(`Cannot take a snapshot of ${name}: its image is not one that takes an overlay`);
  }
  const backing = found.nodes.find((node) => node["node-name"] === top["backing"]);
  if (backing !== undefined && ("encrypt" in backing || "key-secret" in backing)) {
    throw new XenblkError(`Cannot take a snapshot of ${name}: its image is encrypted, and its overlay would not be`, {
      remedy: "take a backup of it instead",
    });
  }
  const named = (kind: string): string => `${daemon.prefix}s${count}-${kind}-${freshNumber().toString(36)}`;
  const fileNode = { ...file, "node-name": named("file") };
  const node = { ...top, "node-name": named("qcow2"), file: fileNode["node-name"], backing: null };
  return { ...overlay, found, fileNode, node };
}

let lastNumber = 0;

/** Differs from all that other processes have used for a daemon that they left. */
function freshNumber(): number {
  return lastNumber = Math.max(lastNumber + 1, Date.now() % 2 ** 40);
}

function changeOf({ disk: { daemon: { layers } }, path, found, fileNode, node }: PlacedOverlay): TopChange {
  const [fileName, top] = [`${fileNode["node-name"]}`, `${node["node-name"]}`];
  return found.change({
    top,
    layers: { ...layers, [path]: { image: top, file: fileName } },
    added: [fileName, top],
    removed: [],
  });
}

async function addNodes({ execute }: DaemonMonitor, { fileNode, node }: PlacedOverlay): Promise<void> {
  await addFile(execute, fileNode, { aio: "io_uring", native: true });
  await execute("blockdev-add", node);
}

/** By other system calls where the host does not let the daemon have the fastest. */
async function addFile(execute: Execute, node: BlockNode, modes: AioModes): Promise<void> {
  try {
    await execute("blockdev-add", withModes(node, modes));
  } catch (error) {
    const others = error instanceof QmpError ? modesAfter(error.description, modes) : undefined;
    if (others === undefined) throw error;
    await addFile(execute, node, others);
  }
}

async function removeNodes({ execute }: DaemonMonitor, { fileNode, node }: PlacedOverlay): Promise<void> {
  for (const each of [node, fileNode]) {
    await execute("blockdev-del", { "node-name": each["node-name"] }).catch(() => {}); // it is not there, or with its daemon
  }
}

/** Either all are noted, or none. */
async function noteAll(placed: readonly PlacedOverlay[], snapshot: string): Promise<void> {
  const created = new Date().toISOString();
  const noted: string[] = [];
  try {
    for (const { base, path } of placed) {
      noted.push(base.target);
      await writeNote(directoryOf(base.target), {
        version: 1,
        snapshot,
        created,
        base: fileOf(base.target),
        baseFormat: base.format,
        overlay: fileOf(path),
      });
    }
  } catch (error) {
    for (const base of noted) await removeNote(base);
    throw error;
  }
}

/** The reason if the daemon refuses; then no disk has its overlay. */
async function transact({ execute }: DaemonMonitor, placed: readonly PlacedOverlay[]): Promise<Error | undefined> {
  const actions = placed.map(({ disk: { daemon: { top } }, node }) => ({
    type: "blockdev-snapshot",
    data: { node: top, overlay: node["node-name"] },
  }));
  try {
    await execute("transaction", { actions }, TRANSACTION_MS);
    return undefined;
  } catch (error) {
    if (error instanceof QmpError) return error;
    throw new XenblkError(
      `Cannot say what the snapshot holds: ${errorText(error)}; the disks go on with their overlays`,
      { cause: error, remedy: "see `xenblk snapshot list`, and take another one" },
    );
  }
}

/** An overlay that no note speaks of. */
async function removeUnused({ base, path }: Overlay): Promise<void> {
  const isNoted = await readNote(base.target).then((note) => note?.overlay === fileOf(path), () => true);
  if (!isNoted) await Deno.remove(path).catch(() => {}); // it is empty
  await removeUnfinished(base.target).catch(() => {}); // whoever opens the base does it
}
