/**
 * The rings of a load: encodes the request of a slot as a direct, indirect or discard request, puts it on its ring, and
 * notifies the backend.
 */

import { PAGE_BYTES } from "../units.ts";
import { ABIS, OP_DISCARD } from "../blkif/abi.ts";
import { DiscardFields, FrontRing, IndirectFields, RequestFields, writeSegment } from "../blkif/front_ring.ts";
import type { EventChannels, Platform } from "../hypervisor.ts";
import type { LoadSlots } from "./load_slots.ts";
import type { LoadTarget } from "./load_types.ts";

const PAGE_WORDS = PAGE_BYTES / 4;
const PORTS_PER_TAKE = 64;

/** All rings of one connection. */
export class LoadRings {
  readonly rings: readonly FrontRing[];
  /** Pushes that the backend asked to be notified of, and the others. */
  notificationsSent = 0;
  notificationsSaved = 0;
  readonly #target: LoadTarget;
  readonly #events: EventChannels;
  /** All indirect pages: one per slot. */
  readonly #indirectWords: Uint32Array;
  readonly #fields = new RequestFields();
  readonly #indirectFields = new IndirectFields();
  readonly #discardFields = new DiscardFields();
  readonly #ports = new Uint32Array(PORTS_PER_TAKE);
  /** The ring to use next. */
  #next = 0;
  /** 1: the ring has requests that are not pushed yet. */
  readonly #filled: Uint8Array;

  constructor(target: LoadTarget, platform: Platform, events: EventChannels) {
    this.#target = target;
    this.#events = events;
    this.rings = target.rings.map(({ address, bytes }) =>
      new FrontRing(platform.memory.view(address, bytes), ABIS[target.abi])
    );
    const { indirectAddress, indirectRefs } = target;
    this.#indirectWords = indirectRefs.length === 0
      ? new Uint32Array(0)
      : wordsAt(platform, indirectAddress, indirectRefs.length);
    this.#filled = new Uint8Array(this.rings.length);
  }

  /** Slots of all rings. */
  get slots(): number {
    return this.rings.reduce((total, ring) => total + ring.slots, 0);
  }

  /** The connection has pages for indirect requests. */
  get canBeIndirect(): boolean {
    return this.#indirectWords.length > 0;
  }

  /** The next ring with a free slot, round robin; -1: all are full. */
  nextRing(): number {
    for (let tried = 0; tried < this.rings.length; tried++) {
      const ring = this.#next;
      this.#next = ring + 1 === this.rings.length ? 0 : ring + 1;
      if (this.rings[ring]!.free() > 0) return ring;
    }
    return -1;
  }

  /** Puts a slot's request on its ring. */
  put(slots: LoadSlots, slot: number, indirect: boolean): void {
    this.#filled[slots.ring[slot]!] = 1;
    if (slots.operation[slot] === OP_DISCARD) this.#putDiscard(slots, slot);
    else if (indirect) this.#putIndirect(slots, slot);
    else this.#putDirect(slots, slot);
  }

  /** Pushes the requests that were put, and notifies the backend where it asked for that. */
  push(): void {
    for (let number = 0; number < this.rings.length; number++) {
      if (this.#filled[number] === 0) continue;
      this.#filled[number] = 0;
      if (this.rings[number]!.push()) {
        this.notificationsSent++;
        this.#events.notify(this.#target.rings[number]!.port);
      } else {
        this.notificationsSaved++;
      }
    }
  }

  /** Before sleeping: asks to be notified, then looks again. True: there are responses. */
  prepareToSleep(): boolean {
    while (this.#events.take(this.#ports) === PORTS_PER_TAKE);
    for (const ring of this.rings) if (ring.finalCheck()) return true;
    return false;
  }

  #putDirect(slots: LoadSlots, slot: number): void {
    const fields = this.#fields;
    address(slots, slot, fields);
    fields.operation = slots.operation[slot]!;
    fields.segmentCount = slots.segmentCount[slot]!;
    const base = slot * slots.segments;
    for (let i = 0; i < fields.segmentCount; i++) {
      fields.grefs[i] = this.#target.dataRefs[base + i]!;
      fields.firstSectors[i] = slots.firstSector[base + i]!;
      fields.lastSectors[i] = slots.lastSector[base + i]!;
    }
    this.rings[slots.ring[slot]!]!.putRequest(fields);
  }

  #putIndirect(slots: LoadSlots, slot: number): void {
    const { dataRefs, indirectRefs } = this.#target;
    const fields = this.#indirectFields;
    address(slots, slot, fields);
    fields.innerOperation = slots.operation[slot]!;
    fields.segmentCount = slots.segmentCount[slot]!;
    fields.grefs[0] = indirectRefs[slot]!;
    const { firstSector, lastSector } = slots;
    let word = slot * PAGE_WORDS;
    const end = slot * slots.segments + fields.segmentCount;
    for (let i = slot * slots.segments; i < end; i++, word += 2) {
      writeSegment(this.#indirectWords, word, dataRefs[i]!, firstSector[i]!, lastSector[i]!);
    }
    this.rings[slots.ring[slot]!]!.putIndirect(fields);
  }

  #putDiscard(slots: LoadSlots, slot: number): void {
    const fields = this.#discardFields;
    address(slots, slot, fields);
    fields.sectorCountLow = slots.sectorCount[slot]!;
    this.rings[slots.ring[slot]!]!.putDiscard(fields);
  }
}

/** Fills in the fields that all forms of requests share. */
function address(slots: LoadSlots, slot: number, fields: RequestFields | IndirectFields | DiscardFields): void {
  const sector = slots.sector[slot]!;
  fields.idLow = slot;
  fields.idHigh = slots.serial[slot]!;
  fields.sectorLow = sector >>> 0;
  fields.sectorHigh = Math.floor(sector / 0x100000000);
}

/** Pages as 32-bit words. */
export function wordsAt(platform: Platform, address: number, pages: number): Uint32Array {
  const view = platform.memory.view(address, pages * PAGE_BYTES);
  return new Uint32Array(view.buffer, view.byteOffset, view.length / 4);
}
