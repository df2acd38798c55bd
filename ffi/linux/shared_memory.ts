/**
 * Memory that other processes can map: a memfd (memfd_create(2)) of a fixed size. It is sealed (fcntl(2), F_ADD_SEALS),
 * so that a process which has its descriptor cannot make it smaller: touching pages behind its end would end this one.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { cString, errno, errnoText, libc, MAP_SHARED, PROT_READ, PROT_WRITE } from "./libc.ts";

/** MFD_CLOEXEC and MFD_ALLOW_SEALING. */
const CLOEXEC_ALLOW_SEALING = 3;
const F_ADD_SEALS = 1033;
/** F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW. */
const SEAL_SIZE = 7n;
/** FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 3;
const MAP_FAILED = 0xFFFF_FFFF_FFFF_FFFFn;

/** Zeroed memory, mapped at one address for all threads of this process. Pages that are never touched take no memory. */
export class SharedMemory implements Disposable {
  readonly fd: number;
  /** Where it is mapped here. */
  readonly address: number;
  readonly lengthBytes: number;
  readonly #owned: DisposableStack;

  /** `name` shows in /proc/PID/maps. Throws RangeError if there is no memory or no descriptor left. */
  constructor(name: string, lengthBytes: number) {
    using undo = new DisposableStack();
    this.lengthBytes = Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES;
    this.fd = check("make a memfd", libc().memfd_create(cString(name), CLOEXEC_ALLOW_SEALING));
    undo.defer(() => void libc().close(this.fd));
    const mapped = BigInt(this.lengthBytes);
    check(`make a memfd of ${this.lengthBytes} bytes`, libc().ftruncate(this.fd, mapped));
    check("seal a memfd", libc().fcntl(this.fd, F_ADD_SEALS, SEAL_SIZE));
    const address = libc().mmap(null, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, this.fd, 0n);
    if (address === MAP_FAILED) throw new RangeError(`Cannot map ${mapped} bytes of a memfd: ${errnoText(errno())}`);
    undo.defer(() => void libc().munmap(address, mapped));
    this.address = Number(address);
    this.#owned = undo.move();
  }

  /** Frees the pages of a range, which then reads as zeroes here and in every process that has mapped it. */
  release(offsetBytes: number, lengthBytes: number): void {
    check("free memory of a memfd", libc().fallocate(this.fd, PUNCH_HOLE, BigInt(offsetBytes), BigInt(lengthBytes)));
  }

  /** No thread may touch it any more. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

function check(action: string, result: number): number {
  if (result < 0) throw new RangeError(`Cannot ${action}: ${errnoText(errno())}`);
  return result;
}
