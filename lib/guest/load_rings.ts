/**
 * The rings of a load: puts the requests of its slots on them in the form that each needs, direct, indirect or discard,
 * and tells the backend. Which requests there are, and what came of them, is the driver's business.
 */

import { PAGE_BYTES } from "../units.ts";
import { ABIS, OP_DISCARD } from "../blkif/abi.ts";
import { DiscardFields, FrontRing, IndirectFields, RequestFields, writeSegment } from "../blkif/front_ring.ts";
import type { EventChannels, Platform } from "../hypervisor.ts";
import type { LoadSlots } from "./load_slots.ts";
import type { LoadTarget } from "./load_types.ts";

const PAGE_WORDS = PAGE_BYTES / 4;
const PORTS_PER_TAKE = 64;

/** See the file's first lines. */
export class LoadRings {
  readonly rings: readonly FrontRing[];
  /** Pushes of which the backend asked to be told, and the others. */
  notificationsSent = 0;
  notificationsSaved = 0;
  readonly #target: LoadTarget;
  readonly #events: EventChannels;
  /** All indirect pages: one a slot. */
  readonly #indirectWords: Uint32Array;
  readonly #fields = new RequestFields();
  readonly #indirectFields = new IndirectFields();
  readonly #discardFields = new DiscardFields();
  readonly #ports = new Uint32Array(PORTS_PER_TAKE);
  /** The ring that is used next, and rings with requests that are not pushed yet. */
  #next = 0;
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

  /** There are pages for indirect requests. */
  get canBeIndirect(): boolean {
    return this.#indirectWords.length > 0;
  }

  /** The next ring in turn with a free slot, or -1. */
  takeTurn(): number {
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

  /** Publishes what was put, and notifies where the backend asked for it. */
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

  /** Before sleeping: asks to be notified, and looks again. True: there are responses. */
  rest(): boolean {
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

/** Fills in what all forms of requests have. */
function address(slots: LoadSlots, slot: number, fields: RequestFields | IndirectFields | DiscardFields): void {
  const sector = slots.sector[slot]!;
  fields.idLow = slot;
  fields.idHigh = slots.serial[slot]!;
  fields.sectorLow = sector >>> 0;
  fields.sectorHigh = Math.floor(sector / 0x100000000);
}

/** Pages as words. */
export function wordsAt(platform: Platform, address: number, pages: number): Uint32Array {
  const view = platform.memory.view(address, pages * PAGE_BYTES);
  return new Uint32Array(view.buffer, view.byteOffset, view.length / 4);
}
