/**
 * The journal of one ring: the requests that were taken and not yet answered, in memory that outlives the process.
 * After a crash the next process answers each of them exactly once. The memory is a mapped file, or private memory if
 * nothing needs to survive.
 *
 * A request is copied from the ring straight into its entry, and decoded from there: so the journal costs only a few
 * stores per request. It survives the death of the process, not of the machine. The order of these stores matters. Plain
 * ones are enough: a process dies between two instructions, so its stores are seen in their order, and V8 keeps the order
 * of stores to typed arrays. (Atomics.store is a call and waits for earlier stores, which costs as much as the copy.)
 *
 * Header, in u32 words: 0 magic; 1 version; 2 slots of the ring; 3 entries; 4 to 7 nonce of the connection; 8 consumed:
 * index of the next request to take; 9 published: the rsp_prod that was stored last; 10 put: the rsp_prod that will be
 * stored next. Entry, 128 bytes: word 0 state; word 1 the request's index on the ring; word 2 the index of its
 * response; word 3 unused; from byte 16 on, the request as it was on the ring, as many words as it has.
 */

import { indexDifference } from "../blkif/abi.ts";
import { SnapshotMemory } from "../blkif/request.ts";
import { holdsNonce, type Nonce, storeNonce } from "../nonce.ts";

const MAGIC = 0x4a6b6278; // "xbkJ"
const VERSION = 1;
const HEADER_BYTES = 64;
const ENTRY_BYTES = 128;
const ENTRY_WORDS = ENTRY_BYTES / 4;
const REQUEST_AT_BYTES = 16;

const MAGIC_WORD = 0;
const VERSION_WORD = 1;
const RING_SLOTS_WORD = 2;
const ENTRIES_WORD = 3;
const NONCE_WORD = 4;
const CONSUMED_WORD = 8;
const PUBLISHED_WORD = 9;
const PUT_WORD = 10;

/** Words of an entry. */
const STATE_WORD = 0;
const REQUEST_INDEX_WORD = 1;
const RESPONSE_INDEX_WORD = 2;

/** States of an entry. */
const ENTRY_FREE = 0;
const ENTRY_TAKEN = 1;
const ENTRY_ANSWERED = 2;

/** What a crashed process left to do. */
export interface Outstanding {
  /** Index of the next request to take. */
  readonly requestConsumer: number;
  /** Entries whose requests were taken and not answered, the oldest first. */
  readonly slots: readonly number[];
}

/** Bytes of a journal with `entries` entries. */
export function journalBytes(entries: number): number {
  return HEADER_BYTES + entries * ENTRY_BYTES;
}

/** A journal in memory of {@linkcode journalBytes} bytes. One thread's. */
export class Journal {
  /** The copies of the requests; that of an entry is at {@linkcode requestAt}. */
  readonly snapshot: SnapshotMemory;
  readonly #header: Int32Array;
  readonly #words: Int32Array;
  readonly #entries: number;

  /** The memory may hold anything: call {@linkcode begin} or {@linkcode recover} next. */
  constructor(memory: Uint8Array, entries: number) {
    this.#entries = entries;
    this.#header = new Int32Array(memory.buffer, memory.byteOffset, HEADER_BYTES / 4);
    this.#words = new Int32Array(memory.buffer, memory.byteOffset + HEADER_BYTES, entries * ENTRY_WORDS);
    this.snapshot = new SnapshotMemory(memory);
  }

  /** Offset of the entry's request in {@linkcode snapshot}, in bytes. */
  requestAt(entry: number): number {
    return HEADER_BYTES + entry * ENTRY_BYTES + REQUEST_AT_BYTES;
  }

  /** Starts an empty journal for a new connection. Both indices of its ring are at `index`. */
  begin(nonce: Nonce, ringSlots: number, index: number): void {
    const header = this.#header;
    Atomics.store(header, MAGIC_WORD, 0); // invalid until everything is written
    for (let entry = 0; entry < this.#entries; entry++) {
      Atomics.store(this.#words, entry * ENTRY_WORDS + STATE_WORD, ENTRY_FREE);
    }
    header[VERSION_WORD] = VERSION;
    header[RING_SLOTS_WORD] = ringSlots;
    header[ENTRIES_WORD] = this.#entries;
    storeNonce(header, NONCE_WORD, nonce);
    for (const word of [CONSUMED_WORD, PUBLISHED_WORD, PUT_WORD]) Atomics.store(header, word, index | 0);
    Atomics.store(header, MAGIC_WORD, MAGIC);
  }

  /**
   * The entry holds the ring's request of that index. It becomes valid when {@linkcode consumed} includes the index.
   */
  taken(entry: number, requestIndex: number): void {
    const word = entry * ENTRY_WORDS;
    this.#words[word + REQUEST_INDEX_WORD] = requestIndex;
    this.#words[word + STATE_WORD] = ENTRY_TAKEN;
  }

  /** All requests before this index are in entries. */
  consumed(requestConsumer: number): void {
    this.#header[CONSUMED_WORD] = requestConsumer | 0;
  }

  /** The entry's response is about to be put at that index, which {@linkcode committing} has announced. */
  answering(entry: number, responseIndex: number): void {
    const word = entry * ENTRY_WORDS;
    this.#words[word + RESPONSE_INDEX_WORD] = responseIndex;
    this.#words[word + STATE_WORD] = ENTRY_ANSWERED;
  }

  /** Before the first response of a batch is put: announces the rsp_prod that will commit the batch. */
  committing(responseProducer: number): void {
    this.#header[PUT_WORD] = responseProducer | 0;
  }

  /** After rsp_prod was stored, which committed the batch. */
  committed(responseProducer: number): void {
    this.#header[PUBLISHED_WORD] = responseProducer | 0;
  }

  /**
   * What the last process left to do, given the ring's rsp_prod. Undefined if the journal is of another connection, or
   * if that process cannot have stored this rsp_prod, which the guest is able to overwrite.
   */
  recover(nonce: Nonce, ringSlots: number, responseProducer: number): Outstanding | undefined {
    if (!this.#belongsTo(nonce, ringSlots)) return undefined;
    const published = Atomics.load(this.#header, PUBLISHED_WORD);
    const put = Atomics.load(this.#header, PUT_WORD);
    if (indexDifference(responseProducer, published) > indexDifference(put, published)) return undefined;
    const requestConsumer = Atomics.load(this.#header, CONSUMED_WORD);
    const open = indexDifference(requestConsumer, responseProducer);
    if (open > ringSlots) return undefined;
    const slots: number[] = [];
    for (let entry = 0; entry < this.#entries; entry++) {
      if (this.#isOutstanding(entry, requestConsumer, responseProducer, put)) slots.push(entry);
    }
    if (slots.length !== open) return undefined;
    const ageOf = (entry: number): number =>
      indexDifference(requestConsumer, this.#words[entry * ENTRY_WORDS + REQUEST_INDEX_WORD]!);
    for (let entry = 0; entry < this.#entries; entry++) {
      const state = slots.includes(entry) ? ENTRY_TAKEN : ENTRY_FREE;
      Atomics.store(this.#words, entry * ENTRY_WORDS + STATE_WORD, state);
    }
    Atomics.store(this.#header, PUBLISHED_WORD, responseProducer | 0);
    Atomics.store(this.#header, PUT_WORD, responseProducer | 0);
    slots.sort((a, b) => ageOf(b) - ageOf(a));
    return { requestConsumer: requestConsumer >>> 0, slots };
  }

  #belongsTo(nonce: Nonce, ringSlots: number): boolean {
    const header = this.#header;
    if (Atomics.load(header, MAGIC_WORD) !== MAGIC || header[VERSION_WORD] !== VERSION) return false;
    if (header[RING_SLOTS_WORD] !== ringSlots || header[ENTRIES_WORD] !== this.#entries) return false;
    return holdsNonce(header, NONCE_WORD, nonce);
  }

  /**
   * Whether the entry's request was taken and has no committed response. An entry that was not used for long may hold
   * the index of an old response, so only indices of the batch that was about to be committed count.
   */
  #isOutstanding(entry: number, requestConsumer: number, responseProducer: number, put: number): boolean {
    const word = entry * ENTRY_WORDS;
    const state = Atomics.load(this.#words, word + STATE_WORD);
    // Any number of later requests may have overtaken this one, so its index may be far behind.
    if (state === ENTRY_TAKEN) return ((this.#words[word + REQUEST_INDEX_WORD]! - requestConsumer) | 0) < 0;
    if (state !== ENTRY_ANSWERED) return false;
    return indexDifference(this.#words[word + RESPONSE_INDEX_WORD]!, responseProducer) <
      indexDifference(put, responseProducer);
  }
}
