/**
 * Examines a file or block device before engine uring serves it: its sectors, whether O_DIRECT works, how it takes
 * discards, and how to read and write it without needless waits. It changes nothing on the medium.
 */

import { EINVAL } from "../../lib/errno.ts";
import { SECTOR_BYTES } from "../../lib/units.ts";
import type { DiscardProperties } from "../../lib/storage/disk.ts";
import type { DiscardRoute, FileMedium, ImageOptions, TransferRoute } from "../../lib/storage/image/medium.ts";
import { closeDescriptor, factsOf, type FileFacts, reopenDescriptor } from "../linux/image_descriptor.ts";
import { hostUsesOf } from "../linux/image_devices.ts";
import { errno, libc, pointerTo } from "../linux/libc.ts";
import { allocate } from "../linux/memory.ts";
import { probeDiscardCommand } from "./probe.ts";

/** Larger blocks (of network file systems, say) are no physical sectors, and guests could not make use of them. */
const MOST_PHYSICAL_BYTES = 4096;

/** linux/fs.h */
const BLKSSZGET = 0x1268n;
const BLKPBSZGET = 0x127Bn;
/** BLKSECDISCARD: takes two 64-bit words, offset and length. */
export const BLKSECDISCARD = 0x127Dn;
/** BLKDISCARD: as {@linkcode BLKSECDISCARD}. */
export const BLKDISCARD = 0x1277n;

/** falloc.h: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. */
export const PUNCH_HOLE = 3;

/** A multiple of any file system's block. */
const HOLE_BYTES = 1 << 20;

/** magic.h: file systems whose buffered writes the ring can only hand to threads, which costs more than the write. */
const EXT = 0xEF53;
const TMPFS = 0x01021994;
const RAMFS = 0x858458F6;

/**
 * File systems of this machine that honour a request not to wait (RWF_NOWAIT), by their magic numbers. All others (FUSE,
 * NFS, CIFS, 9p, Ceph and what is not known) may make a submission wait for the storage, or occupy the ring's threads
 * until it answers. Overlay passes the request on to the file system below.
 */
const NEVER_WAIT: ReadonlySet<number> = new Set([
  EXT,
  TMPFS,
  RAMFS,
  0x58465342, // XFS
  0x9123683E, // Btrfs
  0xF2F52010, // F2FS
  0xCA451A4E, // bcachefs
  0x794C7630, // overlay
]);
/** Names of some others, for messages. */
const FILE_SYSTEM_NAMES: ReadonlyMap<number, string> = new Map([
  [0x65735546, "FUSE"],
  [0x6969, "NFS"],
  [0xFF534D42, "CIFS"],
  [0xFE534D42, "SMB"],
  [0x01021997, "9p"],
  [0x00C36400, "Ceph"],
  [0x01161970, "GFS2"],
  [0x7461636F, "OCFS2"],
  [0x2FC12FC1, "ZFS"],
]);

/** Examines a file that is open for the use that the options name. */
export function examine(fd: number, { readOnly, direct, writeThrough }: ImageOptions): FileMedium {
  const facts = factsOf(fd);
  const { blockDevice } = facts;
  const sectors = blockDevice === undefined ? fileSectors(facts) : deviceSectors(fd);
  const type = fileSystemType(fd);
  const uses = hostUsesOf(fd);
  if (blockDevice === undefined && !NEVER_WAIT.has(type)) {
    const name = FILE_SYSTEM_NAMES.get(type) ?? `of type 0x${type.toString(16)}`;
    return { routes: { direct: false, reads: "ring", writes: "ring" }, ...sectors, uses, mayWait: mayWait(name) };
  }
  const notDirect = direct ? directObstacle(fd, readOnly, facts, sectors.logicalSectorBytes) : undefined;
  const discards = readOnly ? undefined : discardOf(fd, facts, sectors.logicalSectorBytes);
  return {
    routes: {
      direct: direct && notDirect === undefined,
      ...routesOf(type, facts, writeThrough),
      ...(discards === undefined ? {} : { discards: discards.route }),
    },
    ...sectors,
    ...(discards === undefined ? {} : { discard: discards.properties }),
    ...(notDirect === undefined ? {} : { notDirect }),
    uses,
  };
}

function mayWait(name: string): string {
  return `its file system (${name}) may make a reactor, which serves other disks too, wait for the storage`;
}

/** Sector sizes as the guest gets to know them. */
interface Sectors {
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
}

function fileSectors({ blockBytes }: FileFacts): Sectors {
  const physicalSectorBytes = Math.min(Math.max(blockBytes, SECTOR_BYTES), MOST_PHYSICAL_BYTES);
  return { logicalSectorBytes: SECTOR_BYTES, physicalSectorBytes };
}

function deviceSectors(fd: number): Sectors {
  using result = allocate(Int32Array.BYTES_PER_ELEMENT);
  const word = new Int32Array(result.view.buffer, 0, 1);
  const ask = (request: bigint, fallback: number): number =>
    libc().ioctl(fd, request, BigInt(result.address)) < 0 ? fallback : word[0]!;
  const logicalSectorBytes = ask(BLKSSZGET, SECTOR_BYTES);
  return { logicalSectorBytes, physicalSectorBytes: Math.max(logicalSectorBytes, ask(BLKPBSZGET, SECTOR_BYTES)) };
}

/** Why whole sectors cannot be transferred past the page cache, or undefined if they can. */
function directObstacle(
  open: number,
  readOnly: boolean,
  facts: FileFacts,
  sectorBytes: number,
): string | undefined {
  using undo = new DisposableStack();
  let fd: number;
  try {
    fd = reopenDescriptor(open, { readOnly, direct: true });
  } catch {
    return "its file system does no direct I/O";
  }
  undo.defer(() => closeDescriptor(fd));
  const { direct } = facts;
  if (direct === undefined) return tryDirectRead(fd, sectorBytes);
  if (direct.memoryAlign === 0 || direct.offsetAlign === 0) return "its file system does no direct I/O";
  // Guests place their data at any sector of 512 bytes of a page.
  const least = Math.max(direct.memoryAlign > SECTOR_BYTES ? direct.memoryAlign : 0, direct.offsetAlign);
  return least > sectorBytes
    ? `its medium takes blocks of ${least} bytes, the disk has sectors of ${sectorBytes}`
    : undefined;
}

/** For kernels before 6.1, which do not report what they require of direct I/O. */
function tryDirectRead(fd: number, sectorBytes: number): string | undefined {
  using memory = allocate(4 * MOST_PHYSICAL_BYTES);
  const vector = new BigUint64Array(memory.view.buffer, 0, 2);
  vector[0] = BigInt(memory.address + MOST_PHYSICAL_BYTES + SECTOR_BYTES);
  vector[1] = BigInt(sectorBytes);
  const result = libc().preadv(fd, BigInt(memory.address), 1, BigInt(sectorBytes));
  return result < 0 && errno() === EINVAL ? `its medium has blocks larger than ${sectorBytes} bytes` : undefined;
}

/** `waits`: a write is over only when the medium has it, so that the caller must not wait for it. */
function routesOf(
  type: number,
  { blockDevice }: FileFacts,
  waits: boolean,
): { reads: TransferRoute; writes: TransferRoute } {
  if (blockDevice === undefined && (type === TMPFS || type === RAMFS)) return { reads: "call", writes: "call" };
  const slowInRing = blockDevice !== undefined || type === EXT;
  return { reads: "cached", writes: slowInRing && !waits ? "call" : "ring" };
}

function fileSystemType(fd: number): number {
  using buffer = allocate(256);
  return libc().fstatfs(fd, pointerTo(buffer.address)) < 0 ? 0 : new Uint32Array(buffer.view.buffer)[0]!;
}

/** How discards are carried out and what they are good for; undefined: not at all. */
function discardOf(
  fd: number,
  facts: FileFacts,
  sectorBytes: number,
): { route: DiscardRoute; properties: DiscardProperties } | undefined {
  if (facts.blockDevice === undefined) {
    // A hole beyond the end changes nothing, but shows whether the file system makes holes.
    const beyondEnd = BigInt(Math.ceil(facts.sizeBytes / HOLE_BYTES + 1) * HOLE_BYTES);
    if (libc().fallocate(fd, PUNCH_HOLE, beyondEnd, BigInt(HOLE_BYTES)) < 0) return undefined;
    const granularityBytes = Math.max(facts.blockBytes, SECTOR_BYTES);
    return { route: "punch", properties: { granularityBytes, alignmentBytes: 0, secure: false } };
  }
  if (!takesRange(fd, BLKDISCARD)) return undefined;
  const granularityBytes = sysfsNumber(facts.blockDevice, "queue/discard_granularity") ?? 0;
  const properties = {
    granularityBytes: Math.max(granularityBytes, sectorBytes),
    alignmentBytes: sysfsNumber(facts.blockDevice, "discard_alignment") ?? 0,
    secure: takesRange(fd, BLKSECDISCARD),
  };
  return { route: probeDiscardCommand(fd) ? "command" : "call", properties };
}

/** Whether a device knows a request for a range, asked with a range that no device takes: it starts within a sector. */
function takesRange(fd: number, request: bigint): boolean {
  using range = allocate(16);
  new BigUint64Array(range.view.buffer).set([1n, BigInt(SECTOR_BYTES)]);
  return libc().ioctl(fd, request, BigInt(range.address)) < 0 && errno() === EINVAL;
}

/** A number from the device's folder in sysfs, or from the whole disk's that a partition is on. */
function sysfsNumber(device: string, name: string): number | undefined {
  for (const folder of [`/sys/dev/block/${device}`, `/sys/dev/block/${device}/..`]) {
    try {
      return Number(Deno.readTextFileSync(`${folder}/${name}`));
    } catch { /* not there: the next */ }
  }
  return undefined;
}
