/**
 * Private memory of this process by address: anonymous mmap(2), behind the seam's MemorySpace. Disposal detaches
 * the memory's own view, which then reads as empty. A view made from the bare address has no such guard: touching it
 * when the pages are gone ends the process with SIGSEGV.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import type { MemorySpace, OwnedMemory } from "../../lib/hypervisor.ts";
import { errno, errnoText, libc, MAP_ANONYMOUS, MAP_PRIVATE, pointerTo, PROT_READ, PROT_WRITE } from "./libc.ts";

const MAP_FAILED = 0xFFFF_FFFF_FFFF_FFFFn;

const MADV_DONTNEED = 4;

/** The bytes at an address. */
export function viewOf(address: number, lengthBytes: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointerTo(address), lengthBytes));
}

/** Memory at an address, freed by `release` when it is disposed. */
export class NativeMemory implements OwnedMemory {
  readonly view: Uint8Array<ArrayBuffer>;
  #release: (() => void) | undefined;

  constructor(readonly address: number, lengthBytes: number, release: () => void) {
    this.view = viewOf(address, lengthBytes);
    this.#release = release;
  }

  [Symbol.dispose](): void {
    const release = this.#release;
    if (release === undefined) return;
    this.#release = undefined;
    this.view.buffer.transfer(0);
    release();
  }
}

/** Memory of no file: its pages can be given back while it is in use. */
class AnonymousMemory extends NativeMemory {
  readonly #mappedBytes: bigint;

  constructor(address: number, lengthBytes: number, mappedBytes: bigint) {
    super(address, lengthBytes, () => {
      libc().munmap(BigInt(address), mappedBytes);
    });
    this.#mappedBytes = mappedBytes;
  }

  /** If the kernel refuses, the pages stay as they are: memory that is locked. */
  discard(): void {
    if (this.view.byteLength > 0) libc().madvise(BigInt(this.address), this.#mappedBytes, MADV_DONTNEED);
  }
}

/** Zeroed, page-aligned memory of at least `lengthBytes`. Throws RangeError when there is none left. */
export function allocate(lengthBytes: number): AnonymousMemory {
  if (!Number.isSafeInteger(lengthBytes) || lengthBytes <= 0) {
    throw new RangeError(`Cannot allocate ${lengthBytes} bytes: not a positive whole number`);
  }
  const mapped = BigInt(Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES);
  const address = libc().mmap(null, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0n);
  if (address === MAP_FAILED) throw new RangeError(`Cannot allocate ${lengthBytes} bytes: ${errnoText(errno())}`);
  return new AnonymousMemory(Number(address), lengthBytes, mapped);
}

/** The process's own memory as the seam sees it. */
export const nativeMemory: MemorySpace = { allocate, view: viewOf };
