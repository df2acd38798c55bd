/**
 * The system calls of image locks, as a file thread makes them: open file description locks on the bytes that QEMU
 * uses, one byte for each permission that is used and one for each that others must not have.
 */

import { EACCES, EAGAIN } from "../../lib/errno.ts";
import type { LockableImage } from "../../lib/hypervisor.ts";
import { ImageDescriptors } from "../../lib/storage/image/descriptors.ts";
import { sameFile } from "../../lib/storage/image/file.ts";
import type { FileCall } from "../../lib/storage/image/file_call.ts";
import type { ImageUse } from "../../lib/storage/image/lock.ts";
import { closeDescriptor, factsOf, openDescriptor, systemError } from "./image_descriptor.ts";
import { errno, libc } from "./libc.ts";
import { lazily } from "./library.ts";
import { allocate, type NativeMemory } from "./memory.ts";

/** QEMU's numbers of the rights to a disk that matter here (block.h: BLK_PERM_*), as bits. */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;
/** Where in the file the bytes are (block/file-posix.c: RAW_LOCK_*_BASE): for rights used, and for rights denied. */
const USED_BASE = 100;
const DENIED_BASE = 200;

/** fcntl.h */
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

/** struct flock of 64-bit Linux: type and whence as 16-bit words, start and length in bytes, and who has the lock. */
const FLOCK = { type: 0, start: 8, length: 16, pid: 24, bytes: 32 };

/** A use as a number, for ImageDescriptors.lockedUse. */
const USED = 1;
const WRITES = 2;
const SHARED = 4;

/** The calls, with their arguments. `opened`: the descriptor that the lock opened, if any. */
export type LockCall =
  & FileCall
  & (
    | { readonly kind: "lock"; readonly image: LockableImage; readonly use: ImageUse }
    | { readonly kind: "unlock"; readonly image: LockableImage; readonly opened: number | undefined }
  );

/** A lock that was taken, or who excludes the use. */
export type LockAnswer = { readonly opened: number | undefined } | { readonly usedBy: string };

/** See FileCallModule. Throws an Error with the `code` of the system call that failed. */
export function fileCall(call: FileCall): LockAnswer | void {
  const request = call as LockCall;
  return request.kind === "lock" ? lock(request.image, request.use) : unlock(request.image, request.opened);
}

/**
 * Locks a descriptor that was opened since, if the image is locked: the kernel then keeps the lock until the I/O of the
 * descriptor is over, even if the process is killed.
 */
export function coverDescriptor(fd: number, descriptors: ImageDescriptors): void {
  const use = descriptors.lockedUse;
  if (use === 0) return;
  lockAll(fd, bytesOf({ writes: (use & WRITES) !== 0, shared: (use & SHARED) !== 0 }));
  if (descriptors.lockedUse === 0) unlockAll(fd); // the image was released meanwhile
}

function lock(image: LockableImage, use: ImageUse): LockAnswer {
  using undo = new DisposableStack();
  const table = image.descriptors === undefined ? undefined : new ImageDescriptors(image);
  const opened = table === undefined ? undo.adopt(openAtPath(image), closeDescriptor) : undefined;
  const fd = opened ?? table!.look;
  if (opened === undefined) undo.defer(() => unlockAll(fd));
  const { used, denied } = rightsOf(use);
  if (!lockAll(fd, bytesOf(use))) return { usedBy: usedBy(fd, image, 0) };
  // Lock first, then look: of two that come at the same time, at least one sees the other.
  const opposed = [...used.map((right) => DENIED_BASE + right), ...denied.map((right) => USED_BASE + right)];
  for (const byte of opposed) {
    const pid = holder(fd, byte);
    if (pid !== undefined) return { usedBy: usedBy(fd, image, pid) };
  }
  if (table !== undefined) {
    // Say so first, then look: a thread that opens a channel's descriptor meanwhile locks it itself, or we find it.
    table.lockedUse = USED | (use.writes ? WRITES : 0) | (use.shared ? SHARED : 0);
    for (const other of table.list()) if (other !== fd) lockAll(other, bytesOf(use));
  }
  undo.move();
  return { opened };
}

function unlock(image: LockableImage, opened: number | undefined): void {
  if (opened !== undefined) return closeDescriptor(opened); // which releases its locks
  const table = new ImageDescriptors(image);
  table.lockedUse = 0;
  table.list().forEach(unlockAll);
}

/** Opens the image for reading, which is enough. Throws if it cannot be, or another is at its path now. */
function openAtPath({ path, identity }: LockableImage): number {
  using undo = new DisposableStack();
  const fd = undo.adopt(openDescriptor(path, { readOnly: true }), closeDescriptor);
  if (!sameFile(factsOf(fd).identity, identity)) throw new Error("another file took its place at this path");
  undo.move();
  return fd;
}

/** The rights that a use needs, and those that it denies others. */
function rightsOf(
  { writes, shared }: Omit<ImageUse, "by">,
): { used: readonly number[]; denied: readonly number[] } {
  return { used: writes ? [CONSISTENT_READ, WRITE] : [CONSISTENT_READ], denied: shared ? [] : [WRITE, RESIZE] };
}

/** The bytes that a use locks. */
function bytesOf(use: Omit<ImageUse, "by">): number[] {
  const { used, denied } = rightsOf(use);
  return [...used.map((right) => USED_BASE + right), ...denied.map((right) => DENIED_BASE + right)];
}

/** False if another process has one of the bytes. Throws {@linkcode systemError} if the file has no such locks. */
function lockAll(fd: number, bytes: readonly number[]): boolean {
  for (const byte of bytes) {
    if (fcntl(fd, F_OFD_SETLK, F_RDLCK, byte) >= 0) continue;
    const reason = errno();
    if (reason === EAGAIN || reason === EACCES) return false;
    throw systemError(reason);
  }
  return true;
}

/** Every byte that any use locks. */
function unlockAll(fd: number): void {
  for (const byte of bytesOf({ writes: true, shared: false })) fcntl(fd, F_OFD_SETLK, F_UNLCK, byte);
}

/** The process that has a byte (-1: not known which), or undefined. */
function holder(fd: number, byte: number): number | undefined {
  if (fcntl(fd, F_OFD_GETLK, F_WRLCK, byte) < 0) throw systemError(errno());
  const data = new DataView(memory().view.buffer);
  return data.getInt16(FLOCK.type, true) === F_UNLCK ? undefined : data.getInt32(FLOCK.pid, true);
}

const memory: () => NativeMemory = lazily(() => allocate(FLOCK.bytes));

function fcntl(fd: number, operation: number, type: number, byte: number): number {
  const { address, view } = memory();
  view.fill(0, 0, FLOCK.bytes);
  const data = new DataView(view.buffer);
  data.setInt16(FLOCK.type, type, true);
  data.setBigInt64(FLOCK.start, BigInt(byte), true);
  data.setBigInt64(FLOCK.length, 1n, true);
  return libc().fcntl(fd, operation, BigInt(address));
}

/** Who has the image, as the end of a sentence. The kernel does not name the owner of an open file description's lock. */
function usedBy(fd: number, image: LockableImage, pid: number): string {
  const link = linkOf(`/proc/self/fd/${fd}`);
  const found = pid > 0
    ? pid
    : numericNames("/proc").find((process) => process !== Deno.pid && holdsLock(process, image, link));
  return found === undefined ? "another process uses it" : `process ${found}${nameOf(found)} uses it`;
}

/**
 * Whether a process has the image open and locked. Its descriptors are told apart by what the kernel has in memory (their
 * links, and the inode of their locks): a stat could wait for storage that has nothing to do with this image.
 */
function holdsLock(pid: number, { identity: { inode } }: LockableImage, link: string | undefined): boolean {
  return numericNames(`/proc/${pid}/fd`).some((fd) => {
    try {
      const locks = Deno.readTextFileSync(`/proc/${pid}/fdinfo/${fd}`).match(/OFDLCK .*/g) ?? [];
      if (locks.length === 0) return false;
      return linkOf(`/proc/${pid}/fd/${fd}`) === link || locks.some((text) => text.includes(`:${inode} `));
    } catch {
      return false; // it was closed meanwhile
    }
  });
}

function linkOf(path: string): string | undefined {
  try {
    return Deno.readLinkSync(path);
  } catch {
    return undefined;
  }
}

function nameOf(pid: number): string {
  try {
    return ` (${Deno.readTextFileSync(`/proc/${pid}/comm`).trim()})`;
  } catch {
    return "";
  }
}

/** The names in a directory of /proc that are numbers; none where it cannot be read. */
function numericNames(directory: string): number[] {
  try {
    return [...Deno.readDirSync(directory)].map(({ name }) => Number(name)).filter(Number.isInteger);
  } catch {
    return [];
  }
}
