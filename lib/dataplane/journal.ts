/**
 * The journal of one ring: the requests that were taken and not yet answered, in memory that outlives the process, so
 * that after a crash the next process answers each of them exactly once. It holds the layout and the rules, and is
 * given its memory: a mapped file, or private memory where nothing is to survive. It must not know requests' meaning.
 *
 * A request is copied from the ring straight into its entry, and decoded from there: the journal costs a few stores per
 * request. Only the process is assumed to die, not the machine: what was stored is there, in program order, because
 * every word that decides goes through Atomics.
 *
 * Header, as u32 words: 0 magic, 1 version, 2 ring slots, 3 entries, 4..7 the connection's nonce, 8 consumed: index of
 * the next request to take; 9 published: the rsp_prod that was stored last; 10 put: the rsp_prod that is stored next.
 * Entry, 128 bytes: 0 phase, 1 the request's index on the ring, 2 the index of its response, 3 unused, from 16 on the
 * request as it was on the ring.
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

const ENTRY_FREE = 0;
const ENTRY_TAKEN = 1;
const ENTRY_ANSWERED = 2;

/** Where a crashed process left a ring. */
export interface Outstanding {
  /** Index of the next request to take. */
  readonly requestConsumer: number;
  /** Entries that were taken and not answered, in the order of their requests. */
  readonly slots: readonly number[];
}

/** Bytes of a journal with so many entries. */
export function journalBytes(entries: number): number {
  return HEADER_BYTES + entries * ENTRY_BYTES;
}

/** See the file's first lines. */
export class Journal {
  /** Requests as they were on the ring; the one of an entry is at {@linkcode requestAt}. */
  readonly snapshot: SnapshotMemory;
  readonly #header: Int32Array;
  readonly #words: Int32Array;
  readonly #entries: number;

  /** Over memory of {@linkcode journalBytes} bytes, whatever it holds: see {@linkcode begin} and {@linkcode recover}. */
  constructor(memory: Uint8Array, entries: number) {
    this.#entries = entries;
    this.#header = new Int32Array(memory.buffer, memory.byteOffset, HEADER_BYTES / 4);
    this.#words = new Int32Array(memory.buffer, memory.byteOffset + HEADER_BYTES, entries * ENTRY_WORDS);
    this.snapshot = new SnapshotMemory(memory);
  }

  /** Where in {@linkcode snapshot} the entry's request is, in bytes. */
  requestAt(entry: number): number {
    return HEADER_BYTES + entry * ENTRY_BYTES + REQUEST_AT_BYTES;
  }

  /** Starts anew for a connection whose ring has nothing outstanding at `index`. */
  begin(nonce: Nonce, ringSlots: number, index: number): void {
    const header = this.#header;
    Atomics.store(header, MAGIC_WORD, 0); // not valid until all is written
    for (let entry = 0; entry < this.#entries; entry++) Atomics.store(this.#words, entry * ENTRY_WORDS, ENTRY_FREE);
    header[VERSION_WORD] = VERSION;
    header[RING_SLOTS_WORD] = ringSlots;
    header[ENTRIES_WORD] = this.#entries;
    storeNonce(header, NONCE_WORD, nonce);
    for (const word of [CONSUMED_WORD, PUBLISHED_WORD, PUT_WORD]) Atomics.store(header, word, index | 0);
    Atomics.store(header, MAGIC_WORD, MAGIC);
  }

  /** The entry's request is copied; it was the ring's request of that index. Counts once {@linkcode consumed} says so. */
  taken(entry: number, requestIndex: number): void {
    const word = entry * ENTRY_WORDS;
    this.#words[word + 1] = requestIndex;
    Atomics.store(this.#words, word, ENTRY_TAKEN);
  }

  /** Requests before this index are taken, each in an entry. */
  consumed(requestConsumer: number): void {
    Atomics.store(this.#header, CONSUMED_WORD, requestConsumer | 0);
  }

  /** The entry's response has that index, which {@linkcode committing} has announced. */
  answering(entry: number, responseIndex: number): void {
    const word = entry * ENTRY_WORDS;
    this.#words[word + 2] = responseIndex;
    Atomics.store(this.#words, word, ENTRY_ANSWERED);
  }

  /** Before any response of a batch is put: what rsp_prod will be. Storing it in the ring then commits them. */
  committing(responseProducer: number): void {
    Atomics.store(this.#header, PUT_WORD, responseProducer | 0);
  }

  /** After rsp_prod was stored. */
  committed(responseProducer: number): void {
    Atomics.store(this.#header, PUBLISHED_WORD, responseProducer | 0);
  }

  /**
   * What the process that kept this journal left to do, given the ring's rsp_prod. Undefined if the journal is not that
   * connection's, or rsp_prod (which the guest can overwrite) is none that the process can have stored.
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
    const ageOf = (entry: number): number => indexDifference(requestConsumer, this.#words[entry * ENTRY_WORDS + 1]!);
    for (let entry = 0; entry < this.#entries; entry++) {
      if (!slots.includes(entry)) Atomics.store(this.#words, entry * ENTRY_WORDS, ENTRY_FREE);
      else Atomics.store(this.#words, entry * ENTRY_WORDS, ENTRY_TAKEN);
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
   * Taken (and counted as consumed) with no response, or with one that is put and not committed. An entry that was not
   * used for long may hold an old response's index, so only the few that can be meant now count.
   */
  #isOutstanding(entry: number, requestConsumer: number, responseProducer: number, put: number): boolean {
    const word = entry * ENTRY_WORDS;
    const phase = Atomics.load(this.#words, word);
    // Others can overtake a request any number of times: all that is known of its index is that it was consumed.
    if (phase === ENTRY_TAKEN) return ((this.#words[word + 1]! - requestConsumer) | 0) < 0;
    if (phase !== ENTRY_ANSWERED) return false;
    return indexDifference(this.#words[word + 2]!, responseProducer) < indexDifference(put, responseProducer);
  }
}
