/**
 * A snapshot inside a qcow2 image, as a disk that can be read. QEMU has no option to open one (blockdev-add of QEMU 10.0).
 * But a snapshot is another mapping table in the same file, and a header that names that table shows it. Such a header is
 * put into a small qcow2 overlay of the image's file; the image itself is neither written to nor copied. Layout of qcow2:
 * QEMU's docs/interop/qcow2.rst.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { LookedFile } from "./local_file.ts";
import type { BlockTree } from "./tree.ts";

/** A snapshot as it is to be shown. */
export interface SnapshotName {
  /** Its name; its ID, if no snapshot has the name. */
  readonly snapshot: string;
  /** Where the overlay is kept. Absent: nobody opens the tree, and the image's own file stands for it. */
  readonly headerFile?: string;
  /** The image's name in messages. */
  readonly label: string;
}

/** "QFI" and 0xfb. */
const MAGIC = 0x514649fb;
/** Of the header, in bytes. */
const SIZE_AT = 24;
const L1_SIZE_AT = 36;
const L1_OFFSET_AT = 40;
const SNAPSHOTS_AT = 60;
const SNAPSHOTS_OFFSET_AT = 64;
const AUTOCLEAR_AT = 88;
const HEADER_3_BYTES = 104;
/** An entry of the snapshot table: its fixed part; in its extra data, the disk's size. */
const ENTRY_BYTES = 40;
const EXTRA_SIZE_AT = 8;
/** The longest snapshot table that is read. QEMU's limits are 65 536 entries and 64 MiB. */
const MOST_TABLE_BYTES = 64 << 20;
const FIRST_TABLE_BYTES = 16 << 10;

/** The overlay has clusters of 64 KiB: these, in this order. */
const CLUSTER_BITS = 16;
const CLUSTER_BYTES = 1 << CLUSTER_BITS;
const [REFCOUNT_TABLE, REFCOUNT_BLOCK, L2_TABLE, DATA, L1_TABLE] = [1, 2, 3, 4, 5];
const L2_COVERS_BYTES = (CLUSTER_BYTES / 8) * CLUSTER_BYTES;
/** An entry of L1 or L2 whose cluster has one reference (COPIED). */
const COPIED = 1n << 63n;

/** Where a snapshot's table is. */
interface Snapshot {
  readonly l1Offset: bigint;
  readonly l1Size: number;
  readonly sizeBytes: bigint;
}

/**
 * What stands for the file of an image, so that the image shows a snapshot. Rejects with {@linkcode XenblkError} if there
 * is no such snapshot, or the overlay cannot be written.
 */
export async function snapshotFile(tree: BlockTree, file: LookedFile, name: SnapshotName): Promise<BlockTree> {
  const overlay = await lookWithin(file.named, () => readOverlay(file, name));
  if (name.headerFile === undefined) return tree;
  await keep(name.headerFile, overlay, name.label);
  return {
    driver: "qcow2",
    file: { driver: "file", filename: name.headerFile },
    backing: { driver: "raw", file: tree },
  };
}

async function readOverlay({ real, named }: LookedFile, { snapshot, label }: SnapshotName): Promise<Uint8Array> {
  using file = await Deno.open(real, { read: true });
  const sizeBytes = await file.seek(0, Deno.SeekMode.End);
  const start = await readAt(file, 0, CLUSTER_BYTES);
  const view = new DataView(start.buffer);
  if (view.getUint32(0) !== MAGIC) throw refusal(label, `${named} is no qcow2 image`, "name an image of format qcow2");
  const found = await findSnapshot(file, view, sizeBytes, snapshot);
  if (found === undefined) {
    const why = `${named} has no snapshot ${JSON.stringify(snapshot)}`;
    throw refusal(label, why, "`xenblk image info` lists its snapshots");
  }
  patch(view, found);
  return overlayOf(start, sizeBytes);
}

/** Reads more of the snapshot table until all of it, or the snapshot, was there. */
async function findSnapshot(
  file: Deno.FsFile,
  header: DataView,
  fileBytes: number,
  wanted: string,
): Promise<Snapshot | undefined> {
  const count = header.getUint32(SNAPSHOTS_AT);
  const at = Number(header.getBigUint64(SNAPSHOTS_OFFSET_AT));
  const mostBytes = Math.min(MOST_TABLE_BYTES, fileBytes - at);
  if (mostBytes <= 0) return undefined;
  for (let tableBytes = FIRST_TABLE_BYTES;; tableBytes *= 8) {
    const table = await readAt(file, at, Math.min(tableBytes, mostBytes));
    const { named, byId, isWhole } = find(table, count, wanted, header.getBigUint64(SIZE_AT));
    if (named !== undefined || isWhole || tableBytes >= mostBytes) return named ?? byId;
  }
}

/** Up to so many bytes; zeroes where the file ends. */
async function readAt(file: Deno.FsFile, offset: number, lengthBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  await file.seek(offset, Deno.SeekMode.Start);
  const bytes = new Uint8Array(lengthBytes);
  for (let done = 0, read; done < lengthBytes && (read = await file.read(bytes.subarray(done))) !== null;) done += read;
  return bytes;
}

/** Looks for the name, and for the ID, which counts if no snapshot has the name (as in qemu-img). `sizeBytes` is the image's. */
function find(
  table: Uint8Array,
  count: number,
  wanted: string,
  sizeBytes: bigint,
): { readonly named?: Snapshot; readonly byId: Snapshot | undefined; readonly isWhole: boolean } {
  const view = new DataView(table.buffer);
  const text = new TextDecoder();
  let byId: Snapshot | undefined;
  let seen = 0;
  for (let at = 0; seen < count && at + ENTRY_BYTES <= table.length; seen++) {
    const idAt = at + ENTRY_BYTES + view.getUint32(at + 36);
    const nameAt = idAt + view.getUint16(at + 12);
    const end = nameAt + view.getUint16(at + 14);
    if (end > table.length) break;
    const hasSize = idAt >= at + ENTRY_BYTES + EXTRA_SIZE_AT + 8;
    const snapshot = {
      l1Offset: view.getBigUint64(at),
      l1Size: view.getUint32(at + 8),
      sizeBytes: hasSize ? view.getBigUint64(at + ENTRY_BYTES + EXTRA_SIZE_AT) : sizeBytes,
    };
    if (text.decode(table.subarray(nameAt, end)) === wanted) return { named: snapshot, byId, isWhole: false };
    if (text.decode(table.subarray(idAt, nameAt)) === wanted) byId ??= snapshot;
    at = Math.ceil(end / 8) * 8;
  }
  return { byId, isWhole: seen === count };
}

/** Makes a header show the snapshot. Bitmaps, which belong to the present content, are left out. */
function patch(header: DataView, { l1Offset, l1Size, sizeBytes }: Snapshot): void {
  header.setBigUint64(SIZE_AT, sizeBytes);
  header.setUint32(L1_SIZE_AT, l1Size);
  header.setBigUint64(L1_OFFSET_AT, l1Offset);
  header.setUint32(SNAPSHOTS_AT, 0);
  header.setBigUint64(SNAPSHOTS_OFFSET_AT, 0n);
  if (header.getUint32(4) >= 3) header.setBigUint64(AUTOCLEAR_AT, header.getBigUint64(AUTOCLEAR_AT) & DATA_FILE_RAW);
}

/** The autoclear bit that says that an external data file is raw. */
const DATA_FILE_RAW = 2n;

/** A qcow2 image as large as the file, which holds its first cluster. */
function overlayOf(first: Uint8Array, fileBytes: number): Uint8Array {
  const sizeBytes = Math.max(CLUSTER_BYTES, Math.ceil(fileBytes / CLUSTER_BYTES) * CLUSTER_BYTES);
  const l1Size = Math.ceil(sizeBytes / L2_COVERS_BYTES);
  const l1Clusters = Math.ceil(l1Size * 8 / CLUSTER_BYTES);
  const clusters = L1_TABLE + l1Clusters;
  const bytes = new Uint8Array(clusters * CLUSTER_BYTES);
  const view = new DataView(bytes.buffer);
  const offset = (cluster: number): bigint => BigInt(cluster * CLUSTER_BYTES);
  view.setUint32(0, MAGIC);
  view.setUint32(4, 3);
  view.setUint32(20, CLUSTER_BITS);
  view.setBigUint64(SIZE_AT, BigInt(sizeBytes));
  view.setUint32(L1_SIZE_AT, l1Size);
  view.setBigUint64(L1_OFFSET_AT, offset(L1_TABLE));
  view.setBigUint64(48, offset(REFCOUNT_TABLE));
  view.setUint32(56, 1); // clusters of the refcount table
  view.setUint32(96, 4); // refcounts of 2^4 bits
  view.setUint32(100, HEADER_3_BYTES);
  view.setBigUint64(REFCOUNT_TABLE * CLUSTER_BYTES, offset(REFCOUNT_BLOCK));
  for (let cluster = 0; cluster < clusters; cluster++) view.setUint16(REFCOUNT_BLOCK * CLUSTER_BYTES + 2 * cluster, 1);
  view.setBigUint64(L1_TABLE * CLUSTER_BYTES, offset(L2_TABLE) | COPIED);
  view.setBigUint64(L2_TABLE * CLUSTER_BYTES, offset(DATA) | COPIED);
  bytes.set(first, DATA * CLUSTER_BYTES);
  return bytes;
}

/** Writes the file as a whole. The same content stays as it is: a daemon that outlived us may have it open. */
async function keep(path: string, bytes: Uint8Array, label: string): Promise<void> {
  try {
    const present = await Deno.readFile(path).catch(() => new Uint8Array());
    if (present.length === bytes.length && present.every((byte, at) => byte === bytes[at])) return;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true, mode: 0o700 });
    await Deno.writeFile(`${path}.new`, bytes, { mode: 0o600 });
    await Deno.rename(`${path}.new`, path);
  } catch (error) {
    throw new XenblkError(`Cannot open image ${label}: a header of its snapshot cannot be kept: ${errorText(error)}`, {
      cause: error,
      remedy: "free space there and make it writable, or name another directory with XENBLK_JOURNAL_DIR",
    });
  }
}

function refusal(label: string, why: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot open image ${label}: ${why}`, { remedy });
}
