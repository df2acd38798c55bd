/**
 * Grant mode `persistent`: a frontend that reuses its grants does not revoke them, so their pages stay mapped and most
 * requests need no hypercall at all. The number of mappings is bounded. A request is copied instead if one of its pages
 * cannot be mapped: too many are in use, or it is granted read-only or not at all.
 *
 * Pages are mapped one by one, because a mapping can only be undone as it was made, and each is unmapped at its own
 * time. They are mapped writable, because the next request may use the same page in the other direction.
 */

import { GrantError, type GrantTable, type Memory } from "../../hypervisor.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { SlotTable } from "../slot_table.ts";
import { STAT } from "../stats.ts";
import { GrantCache, NO_ENTRY } from "./cache.ts";
import type { GrantStrategy, KeptGrants } from "./strategy.ts";

/**
 * Mappings that one call of {@linkcode KeptGrants.releaseIdle} undoes at most: each costs one to three system calls.
 */
const RELEASES_PER_CALL = 64;

/** What the strategy is made of; it owns `fallback`. */
export interface PersistentParts {
  readonly slots: SlotTable;
  readonly grants: GrantTable;
  /** Serves the requests that this strategy cannot. */
  readonly fallback: GrantStrategy;
  /** The most mappings that are kept. */
  readonly maxGrants: number;
  /** The queue's counters; see stats.ts. */
  readonly stats: Float64Array;
}

/** Serves requests from pages that stay mapped. Disposing unmaps them and disposes the fallback. */
export class PersistentStrategy implements GrantStrategy, KeptGrants {
  readonly #slots: SlotTable;
  readonly #grants: GrantTable;
  readonly #fallback: GrantStrategy;
  readonly #stats: Float64Array;
  readonly #cache: GrantCache;
  /** By segment: its page's entry in the cache, while its request is in flight. */
  readonly #entries: Int32Array;
  /** By segment: where the map call writes the page's address. */
  readonly #pages: Float64Array;
  /** By slot: 1 if the fallback serves its request. */
  readonly #copied: Uint8Array;
  /** Pages of the request being acquired that were mapped already, and that were not. */
  #hits = 0;
  #misses = 0;
  /** Mappings that the hypervisor refused to undo, and its last reason. */
  #lost = 0;
  #lostStatus = 0;

  constructor(parts: PersistentParts) {
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#fallback = parts.fallback;
    this.#stats = parts.stats;
    this.#cache = new GrantCache(parts.maxGrants);
    const segments = parts.slots.segmentEntries;
    this.#entries = new Int32Array(segments);
    this.#pages = new Float64Array(segments);
    this.#copied = new Uint8Array(parts.slots.slots);
    this.#stats[STAT.persistentGrants] = 0;
  }

  get buffers(): Memory | undefined {
    return this.#fallback.buffers;
  }

  get bufferedBytes(): number {
    return this.#fallback.bufferedBytes ?? 0;
  }

  releaseBuffers(): void {
    this.#fallback.releaseBuffers?.();
  }

  get kept(): KeptGrants {
    return this;
  }

  get count(): number {
    return this.#cache.size;
  }

  acquire(slot: number): boolean {
    const first = this.#slots.firstSegment[slot]!;
    const count = this.#slots.segmentCount[slot]!;
    const pinned = this.#pinAll(first, count);
    if (!pinned && !this.#fallback.acquire(slot)) return false;
    this.#copied[slot] = pinned ? 0 : 1;
    this.#stats[STAT.persistentHits]! += this.#hits;
    this.#stats[STAT.persistentMisses]! += this.#misses;
    if (!pinned) {
      this.#stats[STAT.persistentCopied]!++;
      return true;
    }
    const { firstSector, lastSector, vectors, vectorCount } = this.#slots;
    vectorCount[slot] = count;
    for (let i = first; i < first + count; i++) {
      const address = this.#cache.address(this.#entries[i]!);
      vectors.addresses[i] = address + firstSector[i]! * SECTOR_BYTES;
      vectors.lengths[i] = (lastSector[i]! - firstSector[i]! + 1) * SECTOR_BYTES;
    }
    return true;
  }

  release(slot: number, deliver: boolean): void {
    if (this.#copied[slot] === 1) return this.#fallback.release(slot, deliver);
    const { firstSegment, segmentCount, vectorCount } = this.#slots;
    vectorCount[slot] = 0;
    this.#unpin(firstSegment[slot]!, segmentCount[slot]!);
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

  /** Unmaps everything. Throws {@linkcode GrantError} if the hypervisor refused to undo a mapping. */
  [Symbol.dispose](): void {
    for (let entry = 0; entry < this.#cache.capacity; entry++) if (this.#cache.address(entry) !== 0) this.#drop(entry);
    this.#fallback[Symbol.dispose]();
    if (this.#lost === 0) return;
    const message = `Cannot unmap ${this.#lost} of the guest's persistent grants: status ${this.#lostStatus}`;
    throw new GrantError(message, this.#lostStatus);
  }

  /** Pins the pages of all segments, and maps those that are not mapped yet. False: one failed, and none is pinned. */
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
   * Unmaps the page that has been idle for longest, unless it was used since the last tick. A guest that cycles through
   * more pages than are kept would otherwise cause an unmap and a map for every page, at many times the cost of a copy.
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
