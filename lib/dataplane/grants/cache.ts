/**
 * Which grants of one ring are mapped, and where. A grant is found by its reference, and is pinned while requests use it.
 * While no request uses it, it is in a list that is sorted by last use. Everything is in typed arrays of a fixed size:
 * nothing is allocated after construction. persistent.ts maps and unmaps the pages.
 */

/** In place of an entry: there is none. */
export const NO_ENTRY = -1;

/** Spreads neighbouring references over the table (2^32 divided by the golden ratio). */
const SPREAD = 0x9E3779B1;

/**
 * A cache of mapped grants. Entries are numbers below the capacity, valid from {@linkcode insert} to {@linkcode
 * remove}. An entry that is pinned is in use; the others are idle.
 */
export class GrantCache {
  readonly #grefs: Uint32Array;
  readonly #addresses: Float64Array;
  readonly #pins: Uint32Array;
  /** By entry: the time when it became idle. */
  readonly #idleSince: Uint32Array;
  /** The idle entries as a list, beginning with the one that was used longest ago. `#newer` also links free entries. */
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  #oldest = NO_ENTRY;
  #newest = NO_ENTRY;
  #free = NO_ENTRY;
  /** Open addressing with linear probing: entry + 1, or 0. At most half full. */
  readonly #table: Int32Array;
  readonly #tableMask: number;
  readonly #hashShift: number;
  #size = 0;
  #time = 0;

  constructor(readonly capacity: number) {
    this.#grefs = new Uint32Array(capacity);
    this.#addresses = new Float64Array(capacity);
    this.#pins = new Uint32Array(capacity);
    this.#idleSince = new Uint32Array(capacity);
    this.#older = new Int32Array(capacity);
    this.#newer = new Int32Array(capacity);
    for (let entry = capacity - 1; entry >= 0; entry--) this.#giveFree(entry);
    const bits = Math.max(1, 33 - Math.clz32(capacity - 1));
    this.#table = new Int32Array(2 ** bits);
    this.#tableMask = this.#table.length - 1;
    this.#hashShift = 32 - bits;
  }

  /** How many entries there are. */
  get size(): number {
    return this.#size;
  }

  /** The idle entry that was used longest ago, or {@linkcode NO_ENTRY} if all are pinned. */
  get oldest(): number {
    return this.#oldest;
  }

  /** Whether an idle entry was last used before the latest {@linkcode tick}. */
  isStale(entry: number): boolean {
    return this.#idleSince[entry] !== this.#time;
  }

  /** All entries that are idle now become stale. */
  tick(): void {
    this.#time = (this.#time + 1) >>> 0;
  }

  /** Where the page of an entry is mapped; 0 for a number that is not an entry now. */
  address(entry: number): number {
    return this.#addresses[entry]!;
  }

  /** The entry of a reference, or {@linkcode NO_ENTRY}. */
  find(gref: number): number {
    for (let place = this.#home(gref);; place = (place + 1) & this.#tableMask) {
      const entry = this.#table[place]! - 1;
      if (entry === NO_ENTRY || this.#grefs[entry] === gref) return entry;
    }
  }

  /** Makes an entry, pinned once. The reference must not have one. Throws RangeError if all entries are taken. */
  insert(gref: number, address: number): number {
    const entry = this.#free;
    if (entry === NO_ENTRY) throw new RangeError(`Cannot keep another grant: all ${this.capacity} entries are taken`);
    this.#free = this.#newer[entry]!;
    this.#grefs[entry] = gref;
    this.#addresses[entry] = address;
    this.#pins[entry] = 1;
    let place = this.#home(gref);
    while (this.#table[place] !== 0) place = (place + 1) & this.#tableMask;
    this.#table[place] = entry + 1;
    this.#size++;
    return entry;
  }

  /** One more request uses the entry. */
  pin(entry: number): void {
    if (this.#pins[entry]!++ === 0) this.#unlink(entry);
  }

  /** One request fewer uses the entry. The last one makes it idle. */
  unpin(entry: number): void {
    if (--this.#pins[entry]! !== 0) return;
    this.#idleSince[entry] = this.#time;
    this.#older[entry] = this.#newest;
    this.#newer[entry] = NO_ENTRY;
    if (this.#newest === NO_ENTRY) this.#oldest = entry;
    else this.#newer[this.#newest] = entry;
    this.#newest = entry;
  }

  /** Removes an entry, pinned or not. */
  remove(entry: number): void {
    if (this.#pins[entry] === 0) this.#unlink(entry);
    this.#vacate(this.#placeOf(entry));
    this.#pins[entry] = 0;
    this.#addresses[entry] = 0;
    this.#giveFree(entry);
    this.#size--;
  }

  #giveFree(entry: number): void {
    this.#newer[entry] = this.#free;
    this.#free = entry;
  }

  #unlink(entry: number): void {
    const older = this.#older[entry]!;
    const newer = this.#newer[entry]!;
    if (older === NO_ENTRY) this.#oldest = newer;
    else this.#newer[older] = newer;
    if (newer === NO_ENTRY) this.#newest = older;
    else this.#older[newer] = older;
  }

  /** The place in the table where the search for a reference begins. */
  #home(gref: number): number {
    return Math.imul(gref, SPREAD) >>> this.#hashShift;
  }

  #placeOf(entry: number): number {
    let place = this.#home(this.#grefs[entry]!);
    while (this.#table[place] !== entry + 1) place = (place + 1) & this.#tableMask;
    return place;
  }

  /** Empties a place, and moves entries behind it forward if a search for them would now stop at the gap. */
  #vacate(gap: number): void {
    const mask = this.#tableMask;
    for (let place = (gap + 1) & mask; this.#table[place] !== 0; place = (place + 1) & mask) {
      const home = this.#home(this.#grefs[this.#table[place]! - 1]!);
      if (((place - home) & mask) < ((place - gap) & mask)) continue;
      this.#table[gap] = this.#table[place]!;
      gap = place;
    }
    this.#table[gap] = 0;
  }
}
