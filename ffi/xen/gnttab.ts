/**
 * The real grant table: libxengnttab's mapping side (GrantTable, grant copies) and granting side (GrantShares), as
 * xengnttab.h has them.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { EIO } from "../../lib/errno.ts";
import type { DomId, GrantCopyBatch, GrantRef, GrantShares, GrantTable, SharedPages } from "../../lib/hypervisor.ts";
import { GrantError } from "../../lib/hypervisor.ts";
import { deviceError, type XenDevice } from "./device.ts";
import { NativeGrantCopyBatch } from "./grant_copy.ts";
import { errno, errnoText, pointerTo, PROT_READ, PROT_WRITE } from "../linux/libc.ts";
import { lazily, openLibrary } from "../linux/library.ts";
import { allocate, NativeMemory } from "../linux/memory.ts";
import { silentLogger } from "./toollog.ts";

const SYMBOLS = {
  xengnttab_open: { parameters: ["pointer", /* logger */ "u32" /* open_flags */], result: "pointer" },
  xengnttab_close: { parameters: ["pointer" /* xgt */], result: "i32" },
  xengnttab_set_max_grants: { parameters: ["pointer", /* xgt */ "u32" /* nr_grants */], result: "i32" },
  xengnttab_map_domain_grant_refs: {
    parameters: ["pointer", /* xgt */ "u32", /* count */ "u32", /* domid */ "pointer", /* refs */ "i32" /* prot */],
    result: "usize",
  },
  xengnttab_unmap: {
    parameters: ["pointer", /* xgt */ "usize", /* start_address */ "u32" /* count */],
    result: "i32",
  },
  xengnttab_grant_copy: { parameters: ["pointer", /* xgt */ "u32", /* count */ "pointer" /* segs */], result: "i32" },
  xengntshr_open: { parameters: ["pointer", /* logger */ "u32" /* open_flags */], result: "pointer" },
  xengntshr_close: { parameters: ["pointer" /* xgs */], result: "i32" },
  xengntshr_share_pages: {
    parameters: ["pointer", /* xgs */ "u32", /* domid */ "i32", /* count */ "buffer", /* refs */ "i32" /* writable */],
    result: "usize",
  },
  xengntshr_unshare: {
    parameters: ["pointer", /* xgs */ "usize", /* start_address */ "u32" /* count */],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

const libxengnttab = lazily(() =>
  openLibrary({
    name: "libxengnttab",
    sonames: ["libxengnttab.so.1"],
    debianPackage: "libxengnttab1",
    variable: "XENBLK_LIBXENGNTTAB",
  }, SYMBOLS).symbols
);

const GNTDEV: XenDevice = { purpose: "the grant table", path: "/dev/xen/gntdev", kernelModule: "xen-gntdev" };
const GNTALLOC: XenDevice = { purpose: "page granting", path: "/dev/xen/gntalloc", kernelModule: "xen-gntalloc" };

/** References that fit the scratch page at first; it grows to the largest map asked for. */
const FIRST_SCRATCH_REFS = PAGE_BYTES / Uint32Array.BYTES_PER_ELEMENT;

/** This thread's errno as a negative number that is never 0, even if the library forgot to set it. */
function negativeErrno(): number {
  return -(errno() || EIO);
}

/** The grants of one guest domain through one handle of libxengnttab. */
export class NativeGrantTable implements GrantTable {
  readonly #library = libxengnttab();
  readonly #guest: DomId;
  #handle: Deno.PointerObject | undefined;
  #scratch: NativeMemory;
  #scratchRefs: Uint32Array;
  #scratchPointer: Deno.PointerObject;

  /** Throws {@linkcode XenblkError} of kind `hypervisor` if the library or /dev/xen/gntdev is missing or forbidden. */
  constructor(guest: DomId) {
    this.#guest = guest;
    const handle = this.#library.xengnttab_open(silentLogger(), 0);
    if (handle === null) throw deviceError(GNTDEV, errno());
    this.#handle = handle;
    this.#scratch = allocate(FIRST_SCRATCH_REFS * Uint32Array.BYTES_PER_ELEMENT);
    this.#scratchRefs = new Uint32Array(this.#scratch.view.buffer);
    this.#scratchPointer = pointerTo(this.#scratch.address);
  }

  setMaxGrants(count: number): void {
    if (this.#library.xengnttab_set_max_grants(this.#open(), count) === 0) return;
    const status = negativeErrno();
    throw new GrantError(
      `Cannot reserve ${count} grants of domain ${this.#guest}: ${errnoText(-status)}`,
      status,
    );
  }

  mapPages(refs: readonly GrantRef[], writable: boolean): NativeMemory {
    const count = refs.length;
    this.#reserve(count);
    this.#scratchRefs.set(refs);
    const address = this.#mapScratch(count, writable);
    if (address <= 0) {
      const what = `Cannot map the granted pages of domain ${this.#guest} (references ${refs.join(", ")})`;
      throw new GrantError(`${what}: ${errnoText(-address)}`, address);
    }
    return new NativeMemory(address, count * PAGE_BYTES, () => {
      const status = this.unmap(address, count);
      if (status < 0) {
        const what = `Cannot unmap the granted pages of domain ${this.#guest} (references ${refs.join(", ")})`;
        throw new GrantError(`${what}: ${errnoText(-status)}`, status);
      }
    });
  }

  map(refs: Uint32Array, first: number, count: number, writable: boolean, addresses: Float64Array): number {
    this.#reserve(count);
    const scratch = this.#scratchRefs;
    for (let index = 0; index < count; index++) scratch[index] = refs[first + index]!;
    const address = this.#mapScratch(count, writable);
    if (address <= 0) return address;
    for (let index = 0; index < count; index++) addresses[first + index] = address + index * PAGE_BYTES;
    return 0;
  }

  unmap(address: number, count: number): number {
    return this.#library.xengnttab_unmap(this.#open(), BigInt(address), count) === 0 ? 0 : negativeErrno();
  }

  createCopyBatch(capacity: number): GrantCopyBatch {
    const { xengnttab_grant_copy } = this.#library;
    const handle = this.#open();
    return new NativeGrantCopyBatch(this.#guest, capacity, (address) => {
      const segments = pointerTo(address);
      return (count) => xengnttab_grant_copy(handle, count, segments) === 0 ? 0 : negativeErrno();
    });
  }

  /** Mappings and copy batches made here go first: neither works without the handle. */
  [Symbol.dispose](): void {
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#handle = undefined;
    this.#library.xengnttab_close(handle);
    this.#scratch[Symbol.dispose]();
  }

  #open(): Deno.PointerObject {
    if (this.#handle === undefined) throw new TypeError(`Cannot use the grants of domain ${this.#guest}: closed`);
    return this.#handle;
  }

  /** Maps the first `count` scratch references; the address, or a negative errno. */
  #mapScratch(count: number, writable: boolean): number {
    const address = this.#library.xengnttab_map_domain_grant_refs(
      this.#open(),
      count,
      this.#guest,
      this.#scratchPointer,
      writable ? PROT_READ | PROT_WRITE : PROT_READ,
    );
    return address === 0n ? negativeErrno() : Number(address);
  }

  #reserve(count: number): void {
    if (count <= this.#scratchRefs.length) return;
    const larger = allocate(count * Uint32Array.BYTES_PER_ELEMENT);
    this.#scratch[Symbol.dispose]();
    this.#scratch = larger;
    this.#scratchRefs = new Uint32Array(larger.view.buffer);
    this.#scratchPointer = pointerTo(larger.address);
  }
}

/** Granted pages: memory, and one reference a page. */
class NativeSharedPages extends NativeMemory implements SharedPages {
  constructor(address: number, readonly refs: readonly GrantRef[], release: () => void) {
    super(address, refs.length * PAGE_BYTES, release);
  }
}

/** The granting side through one handle of libxengnttab's xengntshr functions. */
export class NativeGrantShares implements GrantShares {
  readonly #library = libxengnttab();
  #handle: Deno.PointerObject | undefined;

  /** Throws {@linkcode XenblkError} of kind `hypervisor` if the library or /dev/xen/gntalloc is missing or forbidden. */
  constructor() {
    const handle = this.#library.xengntshr_open(silentLogger(), 0);
    if (handle === null) throw deviceError(GNTALLOC, errno());
    this.#handle = handle;
  }

  share(toDomain: DomId, count: number, writable: boolean): SharedPages {
    if (this.#handle === undefined) throw new TypeError("Cannot grant pages: closed");
    const handle = this.#handle;
    const refs = new Uint32Array(count);
    const address = this.#library.xengntshr_share_pages(handle, toDomain, count, refs, writable ? 1 : 0);
    if (address === 0n) {
      const status = negativeErrno();
      throw new GrantError(`Cannot grant ${count} pages to domain ${toDomain}: ${errnoText(-status)}`, status);
    }
    return new NativeSharedPages(Number(address), Array.from(refs, (ref) => ref as GrantRef), () => {
      this.#library.xengntshr_unshare(handle, address, count);
    });
  }

  [Symbol.dispose](): void {
    const handle = this.#handle;
    this.#handle = undefined;
    if (handle !== undefined) this.#library.xengntshr_close(handle);
  }
}
