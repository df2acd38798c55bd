/**
 * The write cache of a disk that loses its content without power, in memory that the channels of all threads share: a log
 * of the writes that no flush has made durable, in order.
 */

import { Random } from "../guest/random.ts";
import { SECTOR_BYTES } from "../units.ts";

/** What a power failure did to the writes that no flush had made durable. */
export interface PowerCut {
  /** Writes that are on the disk nevertheless, whole. */
  readonly kept: number;
  /** Writes of which the disk has some sectors. */
  readonly torn: number;
  /** Writes that the disk does not have. */
  readonly lost: number;
  /** Where they were: what is there now must be what was flushed, or any write since. All else must be as it was. */
  readonly unflushed: readonly SectorRange[];
}

/** Sectors of 512 bytes. */
export interface SectorRange {
  /** The first one. */
  readonly sector: number;
  /** How many. */
  readonly count: number;
}

/** Writes that are being made durable. */
export interface DestageBatch {
  /** All entries with a lower number are in it. */
  readonly mark: number;
  /** Power failures so far: after another one, the batch makes nothing durable. */
  readonly cuts: number;
  /** In order. */
  readonly writes: readonly { readonly offsetBytes: number; readonly bytes: Uint8Array }[];
}

/** What a read finds in the cache: bytes, and for each sector whether it is there. */
export interface CachedBytes {
  readonly bytes: Uint8Array;
  readonly isCached: Uint8Array;
}

/** Words of the header. */
const LOCK = 0;
const COUNT = 1;
const USED = 2;
const NEXT = 3;
const DESTAGING = 4;
const CUTS = 5;
const UNIT = 6;
const HEADER_BYTES = 64;

/** Writes that the cache holds at most. */
const MOST_ENTRIES = 4096;
/** Float64s of an entry: where on the disk, its length, its number, whether it has survived a power failure. */
const OFFSET = 0;
const LENGTH = 1;
const NUMBER = 2;
const SURVIVED = 3;
const ENTRY_FLOATS = 4;
const DATA_AT = HEADER_BYTES + MOST_ENTRIES * ENTRY_FLOATS * 8;

/** The cache as one thread sees it. */
export class VolatileCache {
  readonly #words: Int32Array;
  readonly #entries: Float64Array;
  readonly #data: Uint8Array;

  constructor(readonly buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#entries = new Float64Array(buffer, HEADER_BYTES, MOST_ENTRIES * ENTRY_FLOATS);
    this.#data = new Uint8Array(buffer, DATA_AT);
  }

  /** An empty cache for so many bytes of writes. */
  static create(dataBytes: number): VolatileCache {
    const cache = new VolatileCache(new SharedArrayBuffer(DATA_AT + dataBytes));
    cache.#words[UNIT] = SECTOR_BYTES;
    return cache;
  }

  /** Before channels are opened: threads that ended while they used it are forgotten. */
  reopen(logicalSectorBytes: number): void {
    this.#words[UNIT] = logicalSectorBytes;
    this.#words[DESTAGING] = 0;
    Atomics.store(this.#words, LOCK, 0);
  }

  /** The most bytes of writes. */
  get dataBytes(): number {
    return this.#data.length;
  }

  /** The number of the next write. */
  get mark(): number {
    return Atomics.load(this.#words, NEXT);
  }

  /** Adds a write, whose bytes `copy` puts in place. False: there is no room. */
  add(offsetBytes: number, lengthBytes: number, copy: (into: Uint8Array) => void): boolean {
    using _lock = this.#lock();
    const [words, entries] = [this.#words, this.#entries];
    const [count, used] = [words[COUNT]!, words[USED]!];
    if (count === MOST_ENTRIES || used + lengthBytes > this.#data.length) return false;
    copy(this.#data.subarray(used, used + lengthBytes));
    entries.set([offsetBytes, lengthBytes, words[NEXT]!, 0], count * ENTRY_FLOATS);
    words[COUNT] = count + 1;
    words[USED] = used + lengthBytes;
    Atomics.add(words, NEXT, 1);
    return true;
  }

  /** What of a range of the disk is in the cache; undefined: nothing. */
  read(offsetBytes: number, lengthBytes: number): CachedBytes | undefined {
    using _lock = this.#lock();
    let found: CachedBytes | undefined;
    for (const { offset, bytes } of this.#all()) {
      const begin = Math.max(offset, offsetBytes);
      const end = Math.min(offset + bytes.length, offsetBytes + lengthBytes);
      if (begin >= end) continue;
      found ??= { bytes: new Uint8Array(lengthBytes), isCached: new Uint8Array(lengthBytes / SECTOR_BYTES) };
      found.bytes.set(bytes.subarray(begin - offset, end - offset), begin - offsetBytes);
      found.isCached.fill(1, (begin - offsetBytes) / SECTOR_BYTES, (end - offsetBytes) / SECTOR_BYTES);
    }
    return found;
  }

  /** All that is in the cache, to be made durable; undefined: another channel is doing that. */
  beginDestage(): DestageBatch | undefined {
    using _lock = this.#lock();
    if (this.#words[DESTAGING] === 1) return undefined;
    this.#words[DESTAGING] = 1;
    const writes = [...this.#all()].map(({ offset, bytes }) => ({ offsetBytes: offset, bytes: bytes.slice() }));
    return { mark: this.#words[NEXT]!, cuts: this.#words[CUTS]!, writes };
  }

  /** Whether the power failed since the batch began. */
  isCut({ cuts }: DestageBatch): boolean {
    return Atomics.load(this.#words, CUTS) !== cuts;
  }

  /** Ends a batch; if it `isDurable` and the power has not failed meanwhile, its writes leave the cache. */
  endDestage(batch: DestageBatch, isDurable: boolean): void {
    using _lock = this.#lock();
    if (this.isCut(batch)) return;
    this.#words[DESTAGING] = 0;
    if (isDurable) this.#keep(({ number }) => number >= batch.mark, false);
  }

  get isDestaging(): boolean {
    return Atomics.load(this.#words, DESTAGING) === 1;
  }

  /** The power fails and is back: each write that was not durable stays, is torn, or is lost. */
  cut(random: Random): PowerCut {
    using _lock = this.#lock();
    const tally = { kept: 0, torn: 0, lost: 0 };
    const unflushed: SectorRange[] = [];
    this.#keep((entry) => {
      const { offset, bytes, survived } = entry;
      if (survived) return true;
      unflushed.push({ sector: offset / SECTOR_BYTES, count: bytes.length / SECTOR_BYTES });
      const units = bytes.length / this.#words[UNIT]!;
      const fate = random.pick<keyof typeof tally>(units > 1 ? ["kept", "torn", "lost"] : ["kept", "lost"]);
      tally[fate]++;
      if (fate !== "torn") return fate === "kept";
      const whole = random.below(units - 1) + 1;
      return random.chance(0.5) ? { begin: 0, end: whole } : { begin: whole, end: units };
    }, true);
    this.#words[DESTAGING] = 0;
    Atomics.add(this.#words, CUTS, 1);
    return { ...tally, unflushed };
  }

  /** Each entry, in order. */
  *#all(): Generator<CacheEntry> {
    const entries = this.#entries;
    for (let i = 0, place = 0; i < this.#words[COUNT]!; i++) {
      const at = i * ENTRY_FLOATS;
      const length = entries[at + LENGTH]!;
      const bytes = this.#data.subarray(place, place + length);
      yield {
        offset: entries[at + OFFSET]!,
        bytes,
        number: entries[at + NUMBER]!,
        survived: entries[at + SURVIVED] === 1,
      };
      place += length;
    }
  }

  /** Removes entries, or keeps them in part; `isCut`: those that are kept have survived a power failure. */
  #keep(judge: (entry: CacheEntry) => boolean | UnitRange, isCut: boolean): void {
    const before = [...this.#all()].map((entry) => ({ ...entry, bytes: entry.bytes.slice() }));
    const unit = this.#words[UNIT]!;
    let [count, used] = [0, 0];
    for (const entry of before) {
      const judgement = judge(entry);
      if (judgement === false) continue;
      const { begin, end } = judgement === true ? { begin: 0, end: entry.bytes.length / unit } : judgement;
      const bytes = entry.bytes.subarray(begin * unit, end * unit);
      this.#data.set(bytes, used);
      this.#entries.set(
        [entry.offset + begin * unit, bytes.length, entry.number, +(isCut || entry.survived)],
        ENTRY_FLOATS * count++,
      );
      used += bytes.length;
    }
    this.#words[COUNT] = count;
    this.#words[USED] = used;
  }

  #lock(): Disposable {
    while (Atomics.compareExchange(this.#words, LOCK, 0, 1) !== 0); // it is held for a few copies at most
    return { [Symbol.dispose]: () => void Atomics.store(this.#words, LOCK, 0) };
  }
}

/** Logical sectors of a write, from `begin` to before `end`. */
interface UnitRange {
  readonly begin: number;
  readonly end: number;
}

/** One write in the cache. */
interface CacheEntry {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly number: number;
  readonly survived: boolean;
}
