/**
 * The grant mode `persistent`: a frontend that reuses its grants leaves them granted, so their pages stay mapped and
 * most requests need no hypercall at all. A bounded number is kept; a request whose pages cannot all be had that way
 * (too many in use, granted read-only, no grants at all) is left to another strategy. The ring is unknown here.
 *
 * Pages are mapped one by one, because a mapping can only be undone as it was made, and each has a life of its own.
 * They are mapped writable: the next request may use the same page in the other direction.
 */

import { SECTOR_BYTES } from "../units.ts";
import type { RequestSlots } from "../blkif/request.ts";
import { GrantError, type GrantTable, type Memory } from "../hypervisor.ts";
import type { IoVectors } from "../storage/disk.ts";
import { GrantCache, NO_ENTRY } from "./grant_cache.ts";
import type { GrantStrategy, KeptGrants } from "./grants.ts";
import { STAT } from "./stats.ts";

/** Mappings given back by one call of {@linkcode KeptGrants.releaseIdle}: each is a system call or three. */
const RELEASES_PER_CALL = 64;

/** What the strategy is made of; it owns `fallback`. */
export interface PersistentParts {
  readonly slots: RequestSlots;
  readonly grants: GrantTable;
  /** Serves the requests that this strategy cannot; their vectors are shared. */
  readonly fallback: GrantStrategy;
  /** Most mappings kept. */
  readonly maxGrants: number;
  /** The queue's counters; see stats.ts. */
  readonly stats: Float64Array;
}

/** See the file's first lines. */
export class PersistentStrategy implements GrantStrategy, KeptGrants {
  readonly vectors: IoVectors;
  readonly vectorCount: Uint16Array;
  readonly failed: Uint8Array;
  readonly #slots: RequestSlots;
  readonly #grants: GrantTable;
  readonly #fallback: GrantStrategy;
  readonly #stats: Float64Array;
  readonly #cache: GrantCache;
  /** By segment: the cache's entry, as long as its request is in flight. */
  readonly #entries: Int32Array;
  /** By segment: where the map call writes the page's address. */
  readonly #pages: Float64Array;
  /** By slot: 1 if the fallback serves it. */
  readonly #left: Uint8Array;
  /** Of the request that is being acquired: pages that were found, and that were not. */
  #hits = 0;
  #misses = 0;
  /** Mappings that the hypervisor would not undo, and the last reason. */
  #lost = 0;
  #lostStatus = 0;

  constructor(parts: PersistentParts) {
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#fallback = parts.fallback;
    this.#stats = parts.stats;
    this.vectors = parts.fallback.vectors;
    this.vectorCount = parts.fallback.vectorCount;
    this.failed = parts.fallback.failed;
    this.#cache = new GrantCache(parts.maxGrants);
    const segments = parts.slots.slots * parts.slots.maxSegments;
    this.#entries = new Int32Array(segments);
    this.#pages = new Float64Array(segments);
    this.#left = new Uint8Array(parts.slots.slots);
    this.#stats[STAT.persistentGrants] = 0;
  }

  get buffers(): Memory | undefined {
    return this.#fallback.buffers;
  }

  get kept(): KeptGrants {
    return this;
  }

  get count(): number {
    return this.#cache.size;
  }

  acquire(slot: number): boolean {
    const first = slot * this.#slots.maxSegments;
    const count = this.#slots.segmentCount[slot]!;
    const whole = this.#pinAll(first, count);
    this.#left[slot] = whole ? 0 : 1;
    if (!whole && !this.#fallback.acquire(slot)) return false;
    this.#stats[STAT.persistentHits]! += this.#hits;
    this.#stats[STAT.persistentMisses]! += this.#misses;
    if (!whole) {
      this.#stats[STAT.persistentCopied]!++;
      return true;
    }
    this.failed[slot] = 0;
    this.vectorCount[slot] = count;
    const { firstSector, lastSector } = this.#slots;
    for (let i = first; i < first + count; i++) {
      const address = this.#cache.address(this.#entries[i]!);
      this.vectors.addresses[i] = address + firstSector[i]! * SECTOR_BYTES;
      this.vectors.lengths[i] = (lastSector[i]! - firstSector[i]! + 1) * SECTOR_BYTES;
    }
    return true;
  }

  release(slot: number, deliver: boolean): void {
    if (this.#left[slot] === 1) return this.#fallback.release(slot, deliver);
    this.#unpin(slot * this.#slots.maxSegments, this.#slots.segmentCount[slot]!);
  }

  transfer(): void {
    this.#fallback.transfer();
  }

  releaseIdle(): boolean {
    for (let released = 0; released < RELEASES_PER_CALL; released++) {
      if (!this.#dropStale()) {
        this.#cache.tick();
        return false;
      }
    }
    return true;
  }

  /** Unmaps everything. Throws {@linkcode GrantError} if the hypervisor did not take some mapping back. */
  [Symbol.dispose](): void {
    for (let entry = 0; entry < this.#cache.capacity; entry++) if (this.#cache.address(entry) !== 0) this.#drop(entry);
    this.#fallback[Symbol.dispose]();
    if (this.#lost === 0) return;
    const message = `Cannot unmap ${this.#lost} of the guest's persistent grants: status ${this.#lostStatus}`;
    throw new GrantError(message, this.#lostStatus);
  }

  /** Pins the pages of segments, mapping those that are not. All or none; false: none. */
  #pinAll(first: number, count: number): boolean {
    this.#hits = this.#misses = 0;
    for (let i = first; i < first + count; i++) {
      const entry = this.#pin(i);
      if (entry === NO_ENTRY) {
        this.#unpin(first, i - first);
        return false;
      }
      this.#entries[i] = entry;
    }
    return true;
  }

  #pin(segment: number): number {
    const gref = this.#slots.grefs[segment]!;
    const known = this.#cache.find(gref);
    if (known !== NO_ENTRY) {
      this.#hits++;
      this.#cache.pin(known);
      return known;
    }
    this.#misses++;
    if (this.#cache.size === this.#cache.capacity && !this.#dropStale()) return NO_ENTRY;
    if (this.#grants.map(this.#slots.grefs, segment, 1, true, this.#pages) !== 0) return NO_ENTRY;
    this.#stats[STAT.persistentGrants]!++;
    return this.#cache.insert(gref, this.#pages[segment]!);
  }

  #unpin(first: number, count: number): void {
    for (let i = first; i < first + count; i++) this.#cache.unpin(this.#entries[i]!);
  }

  /**
   * Gives back the mapping that was used longest ago, unless it was used since the last tick: a guest that uses more
   * pages in turn than are kept would else have one unmapped and one mapped for every page, at many times a copy's cost.
   */
  #dropStale(): boolean {
    const oldest = this.#cache.oldest;
    if (oldest === NO_ENTRY || !this.#cache.isStale(oldest)) return false;
    this.#drop(oldest);
    return true;
  }

  #drop(entry: number): void {
    const status = this.#grants.unmap(this.#cache.address(entry), 1);
    this.#cache.remove(entry);
    this.#stats[STAT.persistentGrants]!--;
    if (status === 0) return;
    this.#lost++;
    this.#lostStatus = status;
  }
}
