/**
 * A batch of grant copies as libxengnttab takes it: an array of 24-byte segments in mmapped memory, written in place.
 * Nothing is allocated after construction.
 *
 * struct xengnttab_grant_copy_segment (xengnttab.h), as six u32 words; each end is an address or a grant:
 *   0, 1  source: address low, high; or reference, offset | domain << 16
 *   2, 3  dest:   the same
 *   4     len | flags << 16
 *   5     status (i16), two bytes of padding
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import type { GrantCopyBatch } from "../../lib/hypervisor.ts";
import { allocate, type NativeMemory } from "../linux/memory.ts";

/** sizeof(struct xengnttab_grant_copy_segment). */
export const COPY_SEGMENT_BYTES = 24;

const SEGMENT_WORDS = COPY_SEGMENT_BYTES / Uint32Array.BYTES_PER_ELEMENT;
const SEGMENT_HALFWORDS = COPY_SEGMENT_BYTES / Int16Array.BYTES_PER_ELEMENT;
const STATUS_WORD = 5;
const STATUS_HALFWORD = 10;
const LIMIT_OF_WORD = 0x1_0000_0000;

/** GNTCOPY_source_gref and GNTCOPY_dest_gref of grant_table.h, in the upper half of word 4. */
const SOURCE_IS_GRANT = 1 << 16;
const DEST_IS_GRANT = 2 << 16;
/** GNTST_general_error, as it stands in the status's two bytes. */
const GENERAL_ERROR = 0xFFFF;

/** A batch for one guest. `copy` gets the number of segments and the address of the first; 0 or a negative errno. */
export class NativeGrantCopyBatch implements GrantCopyBatch {
  #length = 0;
  readonly #memory: NativeMemory;
  readonly #words: Uint32Array;
  readonly #halfwords: Int16Array;
  readonly #domainBits: number;

  constructor(
    guest: number,
    readonly capacity: number,
    bind: (address: number) => (count: number) => number,
  ) {
    this.#memory = allocate(capacity * COPY_SEGMENT_BYTES);
    const { buffer } = this.#memory.view;
    this.#words = new Uint32Array(buffer, 0, capacity * SEGMENT_WORDS);
    this.#halfwords = new Int16Array(buffer, 0, capacity * SEGMENT_HALFWORDS);
    this.#domainBits = guest << 16;
    this.#copy = bind(this.#memory.address);
  }

  readonly #copy: (count: number) => number;

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  addFromGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    const word = this.#claim(offsetBytes, lengthBytes);
    const words = this.#words;
    words[word] = ref;
    words[word + 1] = offsetBytes | this.#domainBits;
    words[word + 2] = localAddress;
    words[word + 3] = localAddress / LIMIT_OF_WORD;
    words[word + 4] = lengthBytes | SOURCE_IS_GRANT;
  }

  addToGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    const word = this.#claim(offsetBytes, lengthBytes);
    const words = this.#words;
    words[word] = localAddress;
    words[word + 1] = localAddress / LIMIT_OF_WORD;
    words[word + 2] = ref;
    words[word + 3] = offsetBytes | this.#domainBits;
    words[word + 4] = lengthBytes | DEST_IS_GRANT;
  }

  run(): number {
    const length = this.#length;
    if (length === 0) return 0;
    const words = this.#words;
    for (let index = 0; index < length; index++) words[index * SEGMENT_WORDS + STATUS_WORD] = GENERAL_ERROR;
    return this.#copy(length);
  }

  status(index: number): number {
    if (index >= this.#length) throw new RangeError(`Cannot tell a status: segment ${index} of ${this.#length}`);
    return this.#halfwords[index * SEGMENT_HALFWORDS + STATUS_HALFWORD]!;
  }

  [Symbol.dispose](): void {
    this.#length = 0;
    this.#memory[Symbol.dispose]();
  }

  /** The first word of the next segment. */
  #claim(offsetBytes: number, lengthBytes: number): number {
    if (this.#length === this.capacity) throw new RangeError(`Cannot add a grant copy: all ${this.capacity} are used`);
    if (offsetBytes + lengthBytes > PAGE_BYTES) {
      throw new RangeError(`Cannot add a grant copy: ${offsetBytes} + ${lengthBytes} bytes cross the end of a page`);
    }
    return this.#length++ * SEGMENT_WORDS;
  }
}
