/**
 * The log of one disk's unflushed writes, in memory that outlives the process: what was answered since the last flush,
 * with its data. A helper process that serves the disk (a storage daemon, an NBD server) may lose such writes when it
 * dies, although the guest lives on. They are then written again, in order, before anything else.
 *
 * Every channel of the disk has a partition, which only its thread writes to: a ring of entries, and a ring of bytes for
 * their data. All partitions share the sequence of answers, and how far the disk is flushed.
 *
 * Header, in u32 words: 0 magic; 1 version; 2 partitions; 3 bytes of a partition's data; 4 to 7 nonce; 8 sequence number
 * of the next answer; 9 answers before this number are flushed; 10 the negative errno of a flush that failed, or 0. Behind
 * it lie the entries of all partitions, then their data. Entry, in u32 words: 0 state; 1, 2 offset in bytes, low and high;
 * 3, 4 length in bytes; 5 where its data begins in the partition's; 6 discard: 1 for a secure one. State: 0 free; 1 in
 * flight; else the sequence number of its answer, shifted left by 2, and 2 for a write or 3 for a discard.
 */

import { holdsNonce, type Nonce, parseNonce, storeNonce } from "../../nonce.ts";

const MAGIC = 0x776b6278; // "xbkw"
const VERSION = 2;
const MAGIC_WORD = 0;
const VERSION_WORD = 1;
const PARTITIONS_WORD = 2;
const PARTITION_BYTES_WORD = 3;
const NONCE_WORD = 4;
const SEQUENCE_WORD = 8;
const FLUSHED_WORD = 9;
const FAILURE_WORD = 10;
const HEADER_BYTES = 4096;

const ENTRY_WORDS = 8;
const ENTRY_BYTES = ENTRY_WORDS * Uint32Array.BYTES_PER_ELEMENT;
const STATE = 0;
const OFFSET_LOW = 1;
const OFFSET_HIGH = 2;
const LENGTH_LOW = 3;
const LENGTH_HIGH = 4;
const DATA_AT = 5;
const SECURE = 6;

const FREE = 0;
const IN_FLIGHT = 1;
const WRITE = 2;
const DISCARD = 3;
const KIND_BITS = 2;
const KIND_MASK = 3;

const TWO_32 = 0x1_0000_0000;
/** Bytes of data for each entry, if all are used alike. */
const BYTES_PER_ENTRY = 2048;
/**
 * Sequence numbers have 30 bits. Whoever passes a multiple of this number frees what other channels, which may be idle
 * for hours, have not: so that no number is ever compared with one that is far away.
 */
const SWEEP_EVERY = 2 ** 24;

/** A write or discard that was answered and is not flushed. */
export interface LoggedOperation {
  readonly sequence: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** What was written; valid as long as the log's memory is. Absent: a discard. */
  readonly data?: Uint8Array;
  /** A discard that must be unrecoverable. */
  readonly secure: boolean;
}

/** How much was answered and is not flushed. */
export interface LogContent {
  readonly operations: number;
  /** Of the writes. */
  readonly bytes: number;
}

/** Where a log is. Structured-cloneable. */
export interface LogPlace {
  readonly address: number;
  readonly lengthBytes: number;
}

/** Bytes of a log whose partitions hold so many bytes of data each. */
export function logBytes(partitions: number, dataBytes: number): number {
  return dataOffset(partitions, dataBytes, partitions);
}

/**
 * Where the data of a partition begins in the memory. Header and entries of all partitions lie before all data: the data
 * of a partition that no channel uses is never touched.
 */
export function dataOffset(partitions: number, dataBytes: number, partition: number): number {
  return HEADER_BYTES + partitions * entriesBytes(dataBytes) + partition * dataBytes;
}

function entriesBytes(dataBytes: number): number {
  return (dataBytes / BYTES_PER_ENTRY) * ENTRY_BYTES;
}

/** The log of one disk, as any thread sees it. */
export class DiskLog {
  readonly #memory: Uint8Array;
  readonly #header: Int32Array;

  /** The memory may hold anything: call {@linkcode begin}, or look whether it {@linkcode belongsTo} a nonce. */
  constructor(memory: Uint8Array) {
    this.#memory = memory;
    this.#header = new Int32Array(memory.buffer, memory.byteOffset, HEADER_BYTES / 4);
  }

  get partitions(): number {
    return this.#header[PARTITIONS_WORD]!;
  }

  /** Starts an empty log, for the daemon or connection that the nonce names. */
  begin(nonce: Nonce, partitions: number, dataBytes: number): void {
    if (logBytes(partitions, dataBytes) > this.#memory.byteLength) throw new TypeError("Cannot begin log: too small");
    const header = this.#header;
    Atomics.store(header, MAGIC_WORD, 0); // invalid until everything is written
    header[VERSION_WORD] = VERSION;
    header[PARTITIONS_WORD] = partitions;
    header[PARTITION_BYTES_WORD] = dataBytes;
    storeNonce(header, NONCE_WORD, nonce);
    Atomics.store(header, SEQUENCE_WORD, 0);
    Atomics.store(header, FLUSHED_WORD, 0);
    Atomics.store(header, FAILURE_WORD, 0);
    for (let partition = 0; partition < partitions; partition++) {
      const { entries } = this.#partition(partition);
      for (let at = STATE; at < entries.length; at += ENTRY_WORDS) Atomics.store(entries, at, FREE);
    }
    Atomics.store(header, MAGIC_WORD, MAGIC);
  }

  /** Nothing in it has to be written again. One store: a log that is being emptied is whole at any moment. */
  empty(): void {
    Atomics.store(this.#header, FLUSHED_WORD, this.mark);
  }

  /** Whether it is whole, of this version, and was begun with that nonce. */
  belongsTo(nonce: Nonce): boolean {
    const header = this.#header;
    if (Atomics.load(header, MAGIC_WORD) !== MAGIC || header[VERSION_WORD] !== VERSION) return false;
    const [partitions, dataBytes] = [header[PARTITIONS_WORD]!, header[PARTITION_BYTES_WORD]!];
    const isWhole = partitions > 0 && dataBytes > 0 && dataBytes % BYTES_PER_ENTRY === 0 &&
      logBytes(partitions, dataBytes) === this.#memory.byteLength;
    return isWhole && holdsNonce(header, NONCE_WORD, nonce);
  }

  /** What it holds of the disk with this tag; undefined if it is not that disk's. No channel may be adding to it. */
  contentFor(tag: string | undefined): LogContent | undefined {
    const nonce = parseNonce(tag);
    if (nonce === undefined || !this.belongsTo(nonce)) return undefined;
    const found = this.unflushed();
    return { operations: found.length, bytes: found.reduce((sum, { data }) => sum + (data?.byteLength ?? 0), 0) };
  }

  /** Whether all that {@linkcode unflushed} returns can have been written to a disk of this size. */
  isSound(diskBytes: number): boolean {
    return this.unflushed().every(({ offsetBytes, lengthBytes, data }) =>
      offsetBytes + lengthBytes <= diskBytes && (data === undefined || data.byteLength === lengthBytes)
    );
  }

  /** One partition, for the thread that is going to write to it. All its entries are free. */
  partition(index: number): LogPartition {
    return new LogPartition(this, this.#header, this.#partition(index));
  }

  /** What was answered and is not flushed, in the order of the answers. No channel may be adding to it. */
  unflushed(): LoggedOperation[] {
    const flushed = Atomics.load(this.#header, FLUSHED_WORD);
    const found: LoggedOperation[] = [];
    for (let partition = 0; partition < this.partitions; partition++) {
      const { entries, data } = this.#partition(partition);
      for (let at = 0; at < entries.length; at += ENTRY_WORDS) {
        const state = Atomics.load(entries, at + STATE);
        if (state === FREE || state === IN_FLIGHT || isBefore(state >>> KIND_BITS, flushed)) continue;
        found.push(operationAt(entries, at, state, data));
      }
    }
    return found.sort((a, b) => isBefore(a.sequence, b.sequence) ? -1 : 1);
  }

  /** The sequence number of the next answer: a flush that begins now covers all before it. */
  get mark(): number {
    return Atomics.load(this.#header, SEQUENCE_WORD);
  }

  /** The negative errno of the first flush that failed, or 0. A disk reports such a failure once: no later flush counts. */
  get failure(): number {
    return Atomics.load(this.#header, FAILURE_WORD);
  }

  /** A flush has failed: from now on nothing counts as flushed. */
  fail(result: number): void {
    Atomics.compareExchange(this.#header, FAILURE_WORD, 0, result);
  }

  /** Everything that was answered is flushed. */
  get isFlushed(): boolean {
    return this.mark === Atomics.load(this.#header, FLUSHED_WORD);
  }

  /** A flush is done that began when {@linkcode mark} was `mark`. */
  flushed(mark: number): void {
    const header = this.#header;
    while (this.failure === 0) {
      const before = Atomics.load(header, FLUSHED_WORD);
      if (!isBefore(before, mark)) return;
      if (Atomics.compareExchange(header, FLUSHED_WORD, before, mark) !== before) continue;
      if (Math.floor(before / SWEEP_EVERY) !== Math.floor(mark / SWEEP_EVERY)) this.#sweep(mark);
      return;
    }
  }

  /** Frees what is flushed, in all partitions. Their owners find it free. */
  #sweep(mark: number): void {
    for (let partition = 0; partition < this.partitions; partition++) {
      const { entries } = this.#partition(partition);
      for (let at = STATE; at < entries.length; at += ENTRY_WORDS) {
        const state = Atomics.load(entries, at);
        if (state === FREE || state === IN_FLIGHT || !isBefore(state >>> KIND_BITS, mark)) continue;
        Atomics.compareExchange(entries, at, state, FREE);
      }
    }
  }

  #partition(index: number): PartitionMemory {
    const dataBytes = this.#header[PARTITION_BYTES_WORD]!;
    const entries = dataBytes / BYTES_PER_ENTRY;
    const { buffer, byteOffset } = this.#memory;
    const entriesAt = byteOffset + HEADER_BYTES + index * entriesBytes(dataBytes);
    return {
      entries: new Int32Array(buffer, entriesAt, entries * ENTRY_WORDS),
      data: new Uint8Array(buffer, byteOffset + dataOffset(this.partitions, dataBytes, index), dataBytes),
    };
  }
}

interface PartitionMemory {
  readonly entries: Int32Array;
  readonly data: Uint8Array;
}

/** Whether one sequence number of 30 bits comes before another one. */
function isBefore(sequence: number, other: number): boolean {
  return ((sequence - other) << KIND_BITS) < 0;
}

function operationAt(entries: Int32Array, at: number, state: number, data: Uint8Array): LoggedOperation {
  const number = (low: number, high: number): number =>
    (entries[at + low]! >>> 0) + (entries[at + high]! >>> 0) * TWO_32;
  const lengthBytes = number(LENGTH_LOW, LENGTH_HIGH);
  const begin = entries[at + DATA_AT]! >>> 0; // a view ends with the memory that it is of
  return {
    sequence: state >>> KIND_BITS,
    offsetBytes: number(OFFSET_LOW, OFFSET_HIGH),
    lengthBytes,
    ...((state & KIND_MASK) === WRITE ? { data: data.subarray(begin, begin + lengthBytes) } : {}),
    secure: entries[at + SECURE] === 1,
  };
}

/** One channel's part of the log. Its methods allocate nothing. */
export class LogPartition {
  /** The bytes of all its writes; an entry's data begins at {@linkcode dataAt}. */
  readonly data: Uint8Array;
  readonly #log: DiskLog;
  readonly #header: Int32Array;
  readonly #entries: Int32Array;
  readonly #capacity: number;
  /** Bytes that an entry keeps from others: its data, and what was left over at the end of the ring before it. */
  readonly #kept: Uint32Array;
  #oldest = 0;
  #used = 0;
  #dataHead = 0;
  #dataUsed = 0;

  constructor(log: DiskLog, header: Int32Array, { entries, data }: PartitionMemory) {
    this.data = data;
    this.#log = log;
    this.#header = header;
    this.#entries = entries;
    this.#capacity = entries.length / ENTRY_WORDS;
    this.#kept = new Uint32Array(this.#capacity);
    for (let at = STATE; at < entries.length; at += ENTRY_WORDS) Atomics.store(entries, at, FREE);
  }

  /** More than a quarter of the entries or of the bytes are in use: the rest has to last until a flush is done. */
  get isFilling(): boolean {
    return 4 * this.#used > this.#capacity || 4 * this.#dataUsed > this.data.byteLength;
  }

  /**
   * Makes an entry for a write that is about to start; its data is to be copied to {@linkcode dataAt}. -1: no room now.
   * Throws RangeError if there will never be any.
   */
  addWrite(offsetBytes: number, lengthBytes: number): number {
    if (lengthBytes > this.data.byteLength) throw new RangeError(`Cannot log a write of ${lengthBytes} bytes`);
    const rest = this.data.byteLength - this.#dataHead;
    const wraps = lengthBytes > rest;
    const skipped = wraps ? rest : 0;
    if (this.#used === this.#capacity || this.#dataUsed + skipped + lengthBytes > this.data.byteLength) return -1;
    const entry = this.#add(offsetBytes, lengthBytes, skipped + lengthBytes);
    const begin = wraps ? 0 : this.#dataHead;
    this.#entries[entry * ENTRY_WORDS + DATA_AT] = begin;
    this.#dataHead = begin + lengthBytes;
    return entry;
  }

  /** Makes an entry for a discard that is about to start. -1: no room. */
  addDiscard(offsetBytes: number, lengthBytes: number, secure: boolean): number {
    if (this.#used === this.#capacity) return -1;
    const entry = this.#add(offsetBytes, lengthBytes, 0);
    this.#entries[entry * ENTRY_WORDS + SECURE] = secure ? 1 : 0;
    return entry;
  }

  /** Where the entry's data begins in {@linkcode data}. */
  dataAt(entry: number): number {
    return this.#entries[entry * ENTRY_WORDS + DATA_AT]!;
  }

  /** The disk has carried out the entry's write: from now on it must not be lost. */
  writeAnswered(entry: number): void {
    this.#answered(entry, WRITE);
  }

  /** The same of a discard. */
  discardAnswered(entry: number): void {
    this.#answered(entry, DISCARD);
  }

  /** The entry's operation has failed: the guest is told so, and nothing has to be kept. */
  failed(entry: number): void {
    Atomics.store(this.#entries, entry * ENTRY_WORDS + STATE, FREE);
  }

  /** Frees the oldest entries, as far as they are flushed. */
  reclaim(): void {
    const entries = this.#entries;
    const flushed = Atomics.load(this.#header, FLUSHED_WORD);
    while (this.#used > 0) {
      const at = this.#oldest * ENTRY_WORDS + STATE;
      const state = Atomics.load(entries, at);
      if (state === IN_FLIGHT || (state !== FREE && !isBefore(state >>> KIND_BITS, flushed))) return;
      Atomics.store(entries, at, FREE);
      this.#dataUsed -= this.#kept[this.#oldest]!;
      this.#used--;
      if (++this.#oldest === this.#capacity) this.#oldest = 0;
    }
    this.#dataHead = 0;
  }

  /** See {@linkcode DiskLog.failure}. */
  get failure(): number {
    return this.#log.failure;
  }

  /** See {@linkcode DiskLog.fail}. */
  fail(result: number): void {
    this.#log.fail(result);
  }

  /** See {@linkcode DiskLog.isFlushed}. */
  get isFlushed(): boolean {
    return this.#log.isFlushed;
  }

  /** See {@linkcode DiskLog.mark}. */
  get mark(): number {
    return this.#log.mark;
  }

  /** See {@linkcode DiskLog.flushed}; also reclaims. */
  flushed(mark: number): void {
    this.#log.flushed(mark);
    this.reclaim();
  }

  #add(offsetBytes: number, lengthBytes: number, keptBytes: number): number {
    const entry = (this.#oldest + this.#used++) % this.#capacity;
    const at = entry * ENTRY_WORDS;
    const entries = this.#entries;
    entries[at + OFFSET_LOW] = offsetBytes; // modulo 2^32
    entries[at + OFFSET_HIGH] = offsetBytes / TWO_32;
    entries[at + LENGTH_LOW] = lengthBytes;
    entries[at + LENGTH_HIGH] = lengthBytes / TWO_32;
    entries[at + SECURE] = 0;
    Atomics.store(entries, at + STATE, IN_FLIGHT);
    this.#kept[entry] = keptBytes;
    this.#dataUsed += keptBytes;
    return entry;
  }

  #answered(entry: number, kind: number): void {
    const sequence = Atomics.add(this.#header, SEQUENCE_WORD, 1);
    Atomics.store(this.#entries, entry * ENTRY_WORDS + STATE, (sequence << KIND_BITS) | kind);
  }
}
