/**
 * Locks that keep other processes from an image, as QEMU takes them: open file description locks, one byte for each
 * permission that is used and one for each that others must not have. The descriptors that do the I/O are locked too: the
 * lock then lasts until the kernel has finished the writes of a killed process.
 */

import { EACCES, EAGAIN } from "../../lib/errno.ts";
import type { LockableImage } from "../../lib/hypervisor.ts";
import { type ImageLocks, type ImageUse, isLocked, setLocked } from "../../lib/storage/image/lock.ts";
import { isDescriptorOf } from "./image_descriptor.ts";
import { cString, errno, errnoText, libc } from "./libc.ts";
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
const O_CLOEXEC = 0x80000;

/** struct flock of 64-bit Linux: type and whence as 16-bit words, start and length in bytes, and who has the lock. */
const FLOCK = { type: 0, start: 8, length: 16, pid: 24, bytes: 32 };

/** The rights that a use needs, and those that it denies others. */
function rightsOf({ writes, shared }: ImageUse): { used: readonly number[]; denied: readonly number[] } {
  return { used: writes ? [CONSISTENT_READ, WRITE] : [CONSISTENT_READ], denied: shared ? [] : [WRITE, RESIZE] };
}

/** The bytes that a use locks. */
function bytesOf(use: ImageUse): number[] {
  const { used, denied } = rightsOf(use);
  return [...used.map((right) => USED_BASE + right), ...denied.map((right) => DENIED_BASE + right)];
}

const WRITER: ImageUse = { writes: true, shared: false, by: "" };

/** One thread's. */
export class NativeImageLocks implements ImageLocks {
  readonly #memory: () => NativeMemory = lazily(() => allocate(FLOCK.bytes));

  // deno-lint-ignore require-await -- the calls are made in this thread so far
  async tryLock(image: LockableImage, use: ImageUse): Promise<AsyncDisposable | string> {
    using undo = new DisposableStack();
    const fd = this.#open(image);
    undo.defer(() => libc().close(fd)); // which releases its locks
    const { used, denied } = rightsOf(use);
    if (!this.#lockAll(fd, bytesOf(use))) return usedBy(image, 0);
    // Lock first, then look: of two that come at the same time, at least one sees the other.
    const opposed = [...used.map((right) => DENIED_BASE + right), ...denied.map((right) => USED_BASE + right)];
    for (const byte of opposed) {
      const holder = this.#holder(fd, byte);
      if (holder !== undefined) return usedBy(image, holder);
    }
    if (use.writes && !use.shared) {
      // Say so first, then look: a thread that opens the image meanwhile locks its descriptor itself, or we find it.
      setLocked(image, true);
      undo.defer(() => {
        setLocked(image, false);
        for (const other of descriptorsOf(image)) this.#unlockAll(other);
      });
      this.cover(image);
    }
    const owned = undo.move();
    return { [Symbol.asyncDispose]: () => Promise.resolve(owned.dispose()) };
  }

  /**
   * Locks every descriptor of the image in this process, if it has the image to itself (so all of them are its own):
   * to be called when one was opened for I/O since. Closing a descriptor ends its lock, once the kernel has finished its
   * I/O.
   */
  cover(image: LockableImage): void {
    if (!isLocked(image)) return;
    for (const fd of descriptorsOf(image)) this.join(fd, image);
  }

  /** As {@linkcode NativeImageLocks.cover}, for one descriptor. */
  join(fd: number, image: LockableImage): void {
    if (!isLocked(image)) return;
    try {
      this.#lockAll(fd, bytesOf(WRITER));
    } catch {
      return; // one that is not open for reading cannot be locked, nor does it serve anything
    }
    if (!isLocked(image)) this.#unlockAll(fd); // the image was released meanwhile
  }

  /** Opens the image for reading, which is enough. Throws Error if it cannot be, or another is at its path now. */
  #open(image: LockableImage): number {
    const fd = libc().open(cString(image.path), O_CLOEXEC, 0);
    if (fd < 0) throw new Error(errnoText(errno()));
    if (isDescriptorOf(fd, image)) return fd;
    libc().close(fd);
    throw new Error("another file took its place at this path");
  }

  /** False if another process has one of the bytes. Throws Error if the file system has no such locks. */
  #lockAll(fd: number, bytes: readonly number[]): boolean {
    for (const byte of bytes) {
      if (this.#fcntl(fd, F_OFD_SETLK, F_RDLCK, byte) >= 0) continue;
      const reason = errno();
      if (reason === EAGAIN || reason === EACCES) return false;
      throw new Error(errnoText(reason));
    }
    return true;
  }

  /** Of a writer's bytes. */
  #unlockAll(fd: number): void {
    for (const byte of bytesOf(WRITER)) this.#fcntl(fd, F_OFD_SETLK, F_UNLCK, byte);
  }

  /** The process that has a byte (-1: not known which), or undefined. */
  #holder(fd: number, byte: number): number | undefined {
    if (this.#fcntl(fd, F_OFD_GETLK, F_WRLCK, byte) < 0) throw new Error(errnoText(errno()));
    const data = new DataView(this.#memory().view.buffer);
    return data.getInt16(FLOCK.type, true) === F_UNLCK ? undefined : data.getInt32(FLOCK.pid, true);
  }

  #fcntl(fd: number, operation: number, type: number, byte: number): number {
    const { address, view } = this.#memory();
    view.fill(0, 0, FLOCK.bytes);
    const data = new DataView(view.buffer);
    data.setInt16(FLOCK.type, type, true);
    data.setBigInt64(FLOCK.start, BigInt(byte), true);
    data.setBigInt64(FLOCK.length, 1n, true);
    return libc().fcntl(fd, operation, BigInt(address));
  }
}

/** Descriptors of the image that this process has open. */
function descriptorsOf(image: LockableImage): number[] {
  return numericNames("/proc/self/fd").filter((fd) => isDescriptorOf(fd, image));
}

/** Who has the image, as the end of a sentence. The kernel does not name the owner of an open file description's lock. */
function usedBy(image: LockableImage, pid: number): string {
  const found = pid > 0
    ? pid
    : numericNames("/proc").find((process) => process !== Deno.pid && holdsLock(process, image));
  return found === undefined ? "another process uses it" : `process ${found}${nameOf(found)} uses it`;
}

/** Whether a process has the image open and locked. */
function holdsLock(pid: number, { identity }: LockableImage): boolean {
  return numericNames(`/proc/${pid}/fd`).some((fd) => {
    try {
      const { dev, ino } = Deno.statSync(`/proc/${pid}/fd/${fd}`);
      if (dev !== identity.device || ino !== identity.inode) return false;
      return Deno.readTextFileSync(`/proc/${pid}/fdinfo/${fd}`).includes("OFDLCK");
    } catch {
      return false; // it was closed meanwhile
    }
  });
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
