/**
 * Random requests on an open disk, and the twin in memory that says what each must find: reads, writes of data and of
 * zeroes, discards and flushes of mixed sizes, many in flight, also where they overlap.
 */

import type { EngineDisk } from "./engine_rig.ts";

const SECTOR = 512;
const LONGEST = 1 << 20;
/** Longest discard: more than the daemon takes at a time. */
const LONGEST_DISCARD = 20 << 20;
const POOL_BYTES = 4 << 20;
/** The share of requests that lie across the end that the disk had before. */
const OVER_OLD_END = 0.03;

/** What was done. */
export interface Counts {
  requests: number;
  reads: number;
  /** Of the reads: those whose bytes were compared; the others met a write in flight. */
  compares: number;
  /** Of the reads: those across the end that the disk had before it grew last. */
  readsOverOldEnd: number;
  writes: number;
  zeroWrites: number;
  discards: number;
  flushes: number;
  bytesRead: number;
  bytesWritten: number;
}

/** Which tags there are; the first ones have the smaller buffers. */
export interface TagCounts {
  readonly tags: number;
  readonly smallTags: number;
}

const READ = 0;
const WRITE = 1;
const DISCARD = 2;
const FLUSH = 3;
/** A read that finds out what a discard has left. */
const LOOK = 4;

/** A request in flight. */
interface Request {
  kind: number;
  offset: number;
  length: number;
  /** Of a read: nothing has been written to its range since before it started. */
  isSure: boolean;
}

/** A range whose content is not known until it was read: a discard frees what it likes of it. */
interface Unsure {
  readonly offset: number;
  readonly length: number;
  /** Begin of what is not looked at yet. */
  next: number;
  /** The discard has completed. */
  isDone: boolean;
}

/** Makes requests. */
export class Exerciser {
  readonly counts: Counts = {
    requests: 0,
    reads: 0,
    compares: 0,
    readsOverOldEnd: 0,
    writes: 0,
    zeroWrites: 0,
    discards: 0,
    flushes: 0,
    bytesRead: 0,
    bytesWritten: 0,
  };
  readonly #twin: Uint8Array;
  readonly #words: Int32Array;
  readonly #random: () => number;
  readonly #pool = new Uint32Array(POOL_BYTES / 4);
  readonly #requests: Request[];
  readonly #smallFree: number[] = [];
  readonly #largeFree: number[] = [];
  readonly #smallTags: number;
  #unsure: Unsure | undefined;
  #sizeBytes: number;
  #oldEnd = 0;

  /** The twin's bytes are the disk's now. It has room for what the disk grows to, too. */
  constructor(twin: Uint8Array, random: () => number, { tags, smallTags }: TagCounts) {
    this.#twin = twin;
    this.#words = new Int32Array(twin.buffer);
    this.#random = random;
    this.#smallTags = smallTags;
    this.#sizeBytes = twin.length;
    this.#requests = Array.from({ length: tags }, () => ({ kind: FLUSH, offset: 0, length: 0, isSure: false }));
    for (let tag = 0; tag < tags; tag++) this.#release(tag);
    for (let i = 0; i < this.#pool.length; i++) this.#pool[i] = random() * 2 ** 32;
  }

  /** How large the disk is: at first as large as the twin. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  set sizeBytes(sizeBytes: number) {
    this.#oldEnd = sizeBytes > this.#sizeBytes ? this.#sizeBytes : 0;
    this.#sizeBytes = sizeBytes;
  }

  /** Fills whole sectors with data that differs from all that was written before. */
  fill(bytes: Uint8Array): void {
    const pool = new Uint8Array(this.#pool.buffer);
    for (let done = 0; done < bytes.length; done += LONGEST) {
      const piece = bytes.subarray(done, done + LONGEST);
      const from = 4 * Math.floor(this.#random() * (POOL_BYTES - piece.length) / 4);
      piece.set(pool.subarray(from, from + piece.length));
      const words = new Uint32Array(piece.buffer, piece.byteOffset, piece.length / 4);
      for (let at = 0; at < words.length; at += SECTOR / 4) words[at] = this.counts.requests;
    }
  }

  /** Starts requests until all tags are in use or that many were started ever, and deals with what has completed. */
  async turn(disk: EngineDisk, until: number): Promise<void> {
    while (this.counts.requests < until && this.#start(disk)) this.counts.requests++;
    await this.#reap(disk);
  }

  /** Waits for everything in flight. */
  async finish(disk: EngineDisk): Promise<void> {
    while (disk.inFlight > 0 || this.#unsure !== undefined) await this.#reap(disk);
  }

  async #reap(disk: EngineDisk): Promise<void> {
    this.#look(disk);
    if (disk.inFlight > 0) await disk.reap((tag, result) => this.#completed(disk, tag, result));
  }

  /** False: there is no room for the request that was drawn. */
  #start(disk: EngineDisk): boolean {
    const draw = this.#random();
    if (draw < 0.02) return this.#startFlush(disk);
    if (draw < 0.07) return this.#startDiscard(disk);
    const length = this.#length();
    const offset = this.#offset(length);
    const tag = this.#take(length);
    if (tag === undefined) return false;
    if (this.#touchesUnsure(offset, length)) {
      this.#release(tag);
      return false;
    }
    if (draw < 0.45) this.#startRead(disk, tag, offset, length);
    else this.#startWrite(disk, tag, offset, length, draw < 0.52);
    return true;
  }

  #startFlush(disk: EngineDisk): boolean {
    const tag = this.#take(SECTOR);
    if (tag === undefined) return false;
    this.#set(tag, FLUSH, 0, 0);
    this.counts.flushes++;
    disk.startFlush(tag);
    return true;
  }

  /** One at a time: until it was read what it has left, nothing else touches its range. */
  #startDiscard(disk: EngineDisk): boolean {
    if (this.#unsure !== undefined) return false;
    const length = this.#random() < 0.1
      ? SECTOR * Math.ceil(this.#random() * Math.min(LONGEST_DISCARD, this.#sizeBytes / 4) / SECTOR)
      : this.#length();
    const offset = this.#offset(length);
    const tag = this.#take(SECTOR);
    if (tag === undefined) return false;
    this.#disturb(offset, length);
    this.#unsure = { offset, length, next: offset, isDone: false };
    this.#set(tag, DISCARD, offset, length);
    this.counts.discards++;
    disk.startDiscard(tag, offset, length);
    return true;
  }

  #startRead(disk: EngineDisk, tag: number, offset: number, length: number): void {
    const isSure = !this.#requests.some((other) => other.kind === WRITE && overlap(other, offset, length));
    this.#set(tag, READ, offset, length, isSure);
    this.counts.reads++;
    if (offset < this.#oldEnd && this.#oldEnd < offset + length) this.counts.readsOverOldEnd++;
    this.counts.bytesRead += length;
    disk.startRead(tag, offset, length);
  }

  /** Writes that overlap are carried out in the order in which they start, by the write log's rule. */
  #startWrite(disk: EngineDisk, tag: number, offset: number, length: number, zeroes: boolean): void {
    const data = disk.buffer(tag).subarray(0, length);
    if (zeroes) data.fill(0);
    else this.fill(data);
    this.#twin.set(data, offset);
    this.#disturb(offset, length);
    this.#set(tag, WRITE, offset, length);
    if (zeroes) this.counts.zeroWrites++;
    else this.counts.writes++;
    this.counts.bytesWritten += length;
    disk.startWrite(tag, offset, length);
  }

  /** Reads in flight there may find the old bytes or the new ones. */
  #disturb(offset: number, length: number): void {
    for (const other of this.#requests) if (overlap(other, offset, length)) other.isSure = false;
  }

  #completed(disk: EngineDisk, tag: number, result: number): void {
    const { kind, offset, length, isSure } = this.#requests[tag]!;
    const what = `${["read", "write", "discard", "flush", "read"][kind]} of ${length} bytes at ${offset}`;
    if (result !== 0) throw new Error(`request ${this.counts.requests}: ${what}: errno ${result}`);
    const data = disk.buffer(tag);
    if (kind === DISCARD) this.#unsure!.isDone = true;
    if (kind === LOOK) this.#learn(data, offset, length, what);
    if (kind === READ && isSure) {
      this.counts.compares++;
      const wrong = this.#difference(data, offset, length);
      if (wrong >= 0) {
        throw new Error(`request ${this.counts.requests}: ${what}: byte ${wrong} differs from the twin's`);
      }
    }
    this.#release(tag);
  }

  /** Reads what a discard has left. */
  #look(disk: EngineDisk): void {
    const unsure = this.#unsure;
    if (unsure?.isDone !== true) return;
    for (const end = unsure.offset + unsure.length; unsure.next < end;) {
      const length = Math.min(LONGEST, end - unsure.next);
      const tag = this.#take(length);
      if (tag === undefined) return;
      this.#set(tag, LOOK, unsure.next, length);
      disk.startRead(tag, unsure.next, length);
      unsure.next += length;
    }
    if (!this.#requests.some(({ kind }) => kind === LOOK)) this.#unsure = undefined;
  }

  /** Each sector of a discarded range has its old bytes, or zeroes. */
  #learn(data: Uint8Array, offset: number, length: number, what: string): void {
    for (let at = 0; at < length; at += SECTOR) {
      const sector = data.subarray(at, at + SECTOR);
      if (this.#difference(sector, offset + at, SECTOR) < 0) continue;
      if (sector.some((byte) => byte !== 0)) {
        throw new Error(
          `request ${this.counts.requests}: after a discard, ${what}: byte ${at} is neither old nor zero`,
        );
      }
      this.#twin.fill(0, offset + at, offset + at + SECTOR);
    }
  }

  /** The first byte that differs from the twin's; -1: none. */
  #difference(data: Uint8Array, offset: number, length: number): number {
    const words = new Int32Array(data.buffer, data.byteOffset, length / 4);
    const [twin, first] = [this.#words, offset / 4];
    let bits = 0;
    for (let i = 0; i < words.length; i++) bits |= words[i]! ^ twin[first + i]!;
    return bits === 0 ? -1 : 4 * words.findIndex((word, i) => word !== twin[first + i]);
  }

  #touchesUnsure(offset: number, length: number): boolean {
    const unsure = this.#unsure;
    return unsure !== undefined && offset < unsure.offset + unsure.length && unsure.offset < offset + length;
  }

  /** Each power of two is as likely as any other; half are multiples of a page. */
  #length(): number {
    const length = SECTOR * Math.floor(2 ** (this.#random() * Math.log2(LONGEST / SECTOR)) + this.#random());
    return this.#random() < 0.5 && length > 4096 ? length - length % 4096 : Math.min(length, LONGEST);
  }

  #offset(length: number): number {
    const last = this.#sizeBytes - length;
    if (this.#oldEnd > 0 && this.#random() < OVER_OLD_END) {
      const before = SECTOR * Math.floor(this.#random() * length / SECTOR);
      return Math.min(last, Math.max(0, this.#oldEnd - before));
    }
    const unit = this.#random() < 0.5 ? 4096 : SECTOR;
    return unit * Math.floor(this.#random() * (Math.floor(last / unit) + 1));
  }

  #set(tag: number, kind: number, offset: number, length: number, isSure = false): void {
    Object.assign(this.#requests[tag]!, { kind, offset, length, isSure });
  }

  #take(length: number): number | undefined {
    return length <= LONGEST / 16 ? this.#smallFree.pop() ?? this.#largeFree.pop() : this.#largeFree.pop();
  }

  #release(tag: number): void {
    this.#set(tag, FLUSH, 0, 0);
    (tag < this.#smallTags ? this.#smallFree : this.#largeFree).push(tag);
  }
}

function overlap(request: Request, offset: number, length: number): boolean {
  return offset < request.offset + request.length && request.offset < offset + length;
}
