/**
 * Opening an image's file by its descriptor, as Deno cannot: past the page cache, synchronously written, and sure to be
 * the very file that the control plane looked at.
 */

import type { FileIdentity, LockableImage } from "../../lib/hypervisor.ts";
import type { ImageFile } from "../../lib/storage/image/file.ts";
import { cString, errno, errnoText, libc, pointerTo } from "./libc.ts";
import { lazily } from "./library.ts";
import { allocate } from "./memory.ts";

const O_RDWR = 2;
const O_DSYNC = 0x1000;
const O_CLOEXEC = 0x80000;
/** fcntl.h of the two architectures differ. */
const O_DIRECT = Deno.build.arch === "aarch64" ? 0x10000 : 0x4000;

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

/** How a file is to be opened. */
export interface DescriptorOptions {
  readonly readOnly: boolean;
  /** O_DIRECT. */
  readonly direct: boolean;
  /** O_DSYNC. */
  readonly writeThrough: boolean;
}

/** Facts of an open file. */
export interface DescriptorFacts {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  /** `8:1` for a block device, as sysfs has it; undefined for anything else. */
  readonly blockDevice: string | undefined;
  /** What O_DIRECT requires of addresses and offsets (0: it is impossible); undefined where the kernel does not say. */
  readonly direct: { readonly memoryAlign: number; readonly offsetAlign: number } | undefined;
}

/** Opens a file. The caller owns the descriptor. Throws Error with the reason; EINVAL for `direct` means: not here. */
export function openDescriptor(path: string, options: DescriptorOptions): number {
  const flags = O_CLOEXEC | (options.readOnly ? 0 : O_RDWR) | (options.direct ? O_DIRECT : 0) |
    (options.writeThrough ? O_DSYNC : 0);
  const fd = libc().open(cString(path), flags, 0);
  if (fd < 0) throw new Error(errnoText(errno()));
  return fd;
}

/** Opens the image that the control plane looked at. Throws Error if it cannot be, or another is at its path now. */
export function openSameDescriptor(image: ImageFile, direct: boolean): number {
  const writeThrough = image.cache === "writethrough";
  const fd = openDescriptor(image.path, { readOnly: image.readOnly, direct, writeThrough });
  if (isDescriptorOf(fd, image)) return fd;
  libc().close(fd);
  throw new Error("another file took its place at this path");
}

/** Whether a descriptor is open at the file that the control plane looked at. */
export function isDescriptorOf(fd: number, image: LockableImage): boolean {
  using buffer = allocate(STATX.bytes);
  if (libc().statx(fd, EMPTY_PATH(), AT_EMPTY_PATH, STATX_BASIC_STATS, pointerTo(buffer.address)) < 0) return false;
  const { device, inode } = identityIn(new Uint32Array(buffer.view.buffer));
  return device === image.identity.device && inode === image.identity.inode;
}

function identityIn(words: Uint32Array): FileIdentity {
  return {
    device: makeDevice(words[STATX.major]!, words[STATX.minor]!),
    inode: words[STATX.inode]! + words[STATX.inode + 1]! * 2 ** 32,
  };
}

const EMPTY_PATH = lazily(() => cString(""));

/** Looks at an open file. Throws Error with the reason. */
export function factsOf(fd: number): DescriptorFacts {
  using buffer = allocate(STATX.bytes);
  const mask = STATX_BASIC_STATS | STATX_DIOALIGN;
  if (libc().statx(fd, EMPTY_PATH(), AT_EMPTY_PATH, mask, pointerTo(buffer.address)) < 0) {
    throw new Error(errnoText(errno()));
  }
  const words = new Uint32Array(buffer.view.buffer);
  return {
    sizeBytes: words[STATX.size]! + words[STATX.size + 1]! * 2 ** 32,
    blockBytes: words[STATX.blockSize]!,
    blockDevice: (words[STATX.mode]! & S_IFMT) === S_IFBLK
      ? `${words[STATX.ownMajor]!}:${words[STATX.ownMinor]!}`
      : undefined,
    direct: (words[STATX.mask]! & STATX_DIOALIGN) === 0
      ? undefined
      : { memoryAlign: words[STATX.memoryAlign]!, offsetAlign: words[STATX.offsetAlign]! },
  };
}

/** sys/sysmacros.h's makedev: what stat(2), and so Deno.FileInfo, calls a device. */
function makeDevice(major: number, minor: number): number {
  const low = ((major & 0xFFF) << 8) | (minor & 0xFF);
  return low + ((minor & 0xFFFFFF00) >>> 0) * 2 ** 12 + ((major & 0xFFFFF000) >>> 0) * 2 ** 32;
}
