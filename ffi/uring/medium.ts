/**
 * Examines a file or block device before engine uring serves it: its sectors, whether O_DIRECT works, how it takes
 * discards, and how to read and write it without needless waits. It changes nothing on the medium.
 */

import { EINVAL } from "../../lib/errno.ts";
import { SECTOR_BYTES } from "../../lib/units.ts";
import type { CacheMode, DiscardProperties } from "../../lib/storage/disk.ts";
import type { DiscardRoute, FileMedium, TransferRoute } from "../../lib/storage/image/medium.ts";
import { type DescriptorFacts, factsOf, openDescriptor } from "../linux/image_descriptor.ts";
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

/** See NativeFiles.examine. */
export function examine(path: string, readOnly: boolean, cache: CacheMode): FileMedium {
  using undo = new DisposableStack();
  const fd = undo.adopt(openDescriptor(path, { readOnly, direct: false, writeThrough: false }), (fd) => {
    libc().close(fd);
  });
  const facts = factsOf(fd);
  const sectors = facts.blockDevice === undefined ? fileSectors(facts) : deviceSectors(fd);
  const notDirect = cache === "none" ? directObstacle(path, readOnly, facts, sectors.logicalSectorBytes) : undefined;
  const direct = cache === "none" && notDirect === undefined;
  const discards = readOnly ? undefined : discardOf(fd, facts, sectors.logicalSectorBytes);
  return {
    routes: {
      direct,
      ...routesOf(fd, facts, cache === "writethrough"),
      ...(discards === undefined ? {} : { discards: discards.route }),
    },
    ...sectors,
    ...(discards === undefined ? {} : { discard: discards.properties }),
    ...(notDirect === undefined ? {} : { notDirect }),
  };
}

/** Sector sizes as the guest gets to know them. */
interface Sectors {
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
}

function fileSectors({ blockBytes }: DescriptorFacts): Sectors {
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
  path: string,
  readOnly: boolean,
  facts: DescriptorFacts,
  sectorBytes: number,
): string | undefined {
  using undo = new DisposableStack();
  let fd: number;
  try {
    fd = openDescriptor(path, { readOnly, direct: true, writeThrough: false });
  } catch {
    return "its file system does no direct I/O";
  }
  undo.defer(() => void libc().close(fd));
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
function routesOf(fd: number, facts: DescriptorFacts, waits: boolean): { reads: TransferRoute; writes: TransferRoute } {
  const type = fileSystemType(fd);
  const inMemory = facts.blockDevice === undefined && (type === TMPFS || type === RAMFS);
  if (inMemory) return { reads: "call", writes: "call" };
  const slowInRing = facts.blockDevice !== undefined || type === EXT;
  return { reads: "ring", writes: slowInRing && !waits ? "call" : "ring" };
}

function fileSystemType(fd: number): number {
  using buffer = allocate(256);
  return libc().fstatfs(fd, pointerTo(buffer.address)) < 0 ? 0 : new Uint32Array(buffer.view.buffer)[0]!;
}

/** How discards are carried out and what they are good for; undefined: not at all. */
function discardOf(
  fd: number,
  facts: DescriptorFacts,
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
