/**
 * An image's file by its descriptor, as Deno cannot have it: opened past the page cache or synchronously written, opened
 * again although its path is gone, and looked at. These calls may block: they belong in file threads, all but
 * {@linkcode setDirect}.
 */

import { errnoName } from "../../lib/errno.ts";
import type { FileIdentity } from "../../lib/hypervisor.ts";
import { cString, errno, errnoText, libc, pointerTo } from "./libc.ts";
import { lazily } from "./library.ts";
import { allocate } from "./memory.ts";

const O_RDWR = 2;
const O_DSYNC = 0x1000;
const O_CLOEXEC = 0x80000;
/** fcntl.h of the two architectures differ. */
const O_DIRECT = Deno.build.arch === "aarch64" ? 0x10000 : 0x4000;
const F_SETFL = 4;

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7FF;
const STATX_DIOALIGN = 0x2000;
/** struct statx in 32-bit words. */
const STATX = {
  mask: 0,
  blockSize: 1,
  mode: 7,
  inode: 8,
  size: 10,
  ownMajor: 32,
  ownMinor: 33,
  major: 34,
  minor: 35,
  memoryAlign: 38,
  offsetAlign: 39,
  bytes: 256,
};
const S_IFMT = 0xF000;
const S_IFBLK = 0x6000;
const S_IFREG = 0x8000;
const S_IFDIR = 0x4000;

/** linux/fs.h */
const BLKGETSIZE64 = 0x80081272n;

/** How a file is to be opened. */
export interface DescriptorOptions {
  readonly readOnly: boolean;
  /** O_DIRECT. */
  readonly direct?: boolean;
  /** O_DSYNC. */
  readonly writeThrough?: boolean;
}

/** Facts of a file. */
export interface FileFacts {
  readonly identity: FileIdentity;
  readonly isFile: boolean;
  readonly isDirectory: boolean;
  readonly isBlockDevice: boolean;
  /** Of a regular file. */
  readonly sizeBytes: number;
  readonly blockBytes: number;
  /** `8:1` for a block device, as sysfs has it; undefined for anything else. */
  readonly blockDevice: string | undefined;
  /** What O_DIRECT requires of addresses and offsets (0: it is impossible); undefined where the kernel does not say. */
  readonly direct: { readonly memoryAlign: number; readonly offsetAlign: number } | undefined;
}

/** The error of a system call that failed with that errno: its text, and its name as `code`. */
export function systemError(value: number): Error {
  return Object.assign(new Error(errnoText(value)), { code: errnoName(value) });
}

/** Opens a file. The caller owns the descriptor. Throws {@linkcode systemError}; EINVAL for `direct` means: not here. */
export function openDescriptor(path: string, { readOnly, direct, writeThrough }: DescriptorOptions): number {
  const flags = O_CLOEXEC | (readOnly ? 0 : O_RDWR) | (direct ? O_DIRECT : 0) | (writeThrough ? O_DSYNC : 0);
  const fd = libc().open(cString(path), flags, 0);
  if (fd < 0) throw systemError(errno());
  return fd;
}

/**
 * Opens the file of a descriptor again, as an open file description of its own, whatever its path names now. Throws
 * {@linkcode systemError}.
 */
export function reopenDescriptor(fd: number, options: DescriptorOptions): number {
  return openDescriptor(`/proc/self/fd/${fd}`, options);
}

/** Closes a descriptor; on some file systems that writes to the storage. */
export function closeDescriptor(fd: number): void {
  libc().close(fd);
}

/** Turns O_DIRECT on or off, which asks nothing of the storage. Throws {@linkcode systemError}. */
export function setDirect(fd: number, direct: boolean): void {
  if (libc().fcntl(fd, F_SETFL, direct ? BigInt(O_DIRECT) : 0n) < 0) throw systemError(errno());
}

/** Gives a regular file another end; what is added reads as zeroes. Throws {@linkcode systemError}. */
export function setSize(fd: number, sizeBytes: number): void {
  if (libc().ftruncate(fd, BigInt(sizeBytes)) < 0) throw systemError(errno());
}

const EMPTY_PATH = lazily(() => cString(""));

/** Looks at an open file, or at the file that a path names. Throws {@linkcode systemError}. */
export function factsOf(file: number | string): FileFacts {
  using buffer = allocate(STATX.bytes);
  const mask = STATX_BASIC_STATS | STATX_DIOALIGN;
  const failed = typeof file === "number"
    ? libc().statx(file, EMPTY_PATH(), AT_EMPTY_PATH, mask, pointerTo(buffer.address)) < 0
    : libc().statx(AT_FDCWD, cString(file), 0, mask, pointerTo(buffer.address)) < 0;
  if (failed) throw systemError(errno());
  const words = new Uint32Array(buffer.view.buffer);
  const type = words[STATX.mode]! & S_IFMT;
  const [major, minor] = [words[STATX.ownMajor]!, words[STATX.ownMinor]!];
  const isBlockDevice = type === S_IFBLK;
  return {
    identity: isBlockDevice ? { device: makeDevice(major, minor), inode: 0 } : {
      device: makeDevice(words[STATX.major]!, words[STATX.minor]!),
      inode: words[STATX.inode]! + words[STATX.inode + 1]! * 2 ** 32,
    },
    isFile: type === S_IFREG,
    isDirectory: type === S_IFDIR,
    isBlockDevice,
    sizeBytes: words[STATX.size]! + words[STATX.size + 1]! * 2 ** 32,
    blockBytes: words[STATX.blockSize]!,
    blockDevice: isBlockDevice ? `${major}:${minor}` : undefined,
    direct: (words[STATX.mask]! & STATX_DIOALIGN) === 0
      ? undefined
      : { memoryAlign: words[STATX.memoryAlign]!, offsetAlign: words[STATX.offsetAlign]! },
  };
}

/** Bytes of an open file or block device, as it is now. Throws {@linkcode systemError}. */
export function sizeOf(fd: number): number {
  const { isBlockDevice, sizeBytes } = factsOf(fd);
  if (!isBlockDevice) return sizeBytes;
  using size = allocate(BigUint64Array.BYTES_PER_ELEMENT);
  if (libc().ioctl(fd, BLKGETSIZE64, BigInt(size.address)) < 0) throw systemError(errno());
  return Number(new BigUint64Array(size.view.buffer, 0, 1)[0]!);
}

/** The first bytes of a file, at most so many. Throws {@linkcode systemError}. */
export function startOf(fd: number, mostBytes: number): Uint8Array {
  using memory = allocate(16 + mostBytes);
  new BigUint64Array(memory.view.buffer, 0, 2).set([BigInt(memory.address + 16), BigInt(mostBytes)]);
  const read = libc().preadv(fd, BigInt(memory.address), 1, 0n);
  if (read < 0) throw systemError(errno());
  return memory.view.slice(16, 16 + read);
}

/** sys/sysmacros.h's makedev: what stat(2), and so Deno.FileInfo, calls a device. */
export function makeDevice(major: number, minor: number): number {
  const low = ((major & 0xFFF) << 8) | (minor & 0xFF);
  return low + ((minor & 0xFFFFFF00) >>> 0) * 2 ** 12 + ((major & 0xFFFFF000) >>> 0) * 2 ** 32;
}
