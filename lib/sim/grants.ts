/**
 * Grants of the simulated machine: the granting side (GrantShares), the mapping side (GrantTable) and grant copies.
 * Errors are those of gntdev (a negative errno) and of the hypervisor's copy (a GNTST_* status). Mapping, unmapping and
 * copying take no lock. A page that is mapped when its grant is revoked is freed by the last unmap.
 */

import { PAGE_BYTES } from "../units.ts";
import {
  type DomId,
  type GrantCopyBatch,
  GrantError,
  type GrantRef,
  type GrantShares,
  type GrantTable,
  type OwnedMemory,
  type SharedPages,
} from "../hypervisor.ts";
import { FIRST_GRANT, type Machine } from "./machine.ts";
import { MappingTable } from "./mapping_table.ts";

/** Words of a grant entry. Word 0 holds the bits below and, from bit 8 up, the number of live mappings. */
const STATE = 0;
const TO_DOMAIN = 1;
const FRAME = 2;
/** The entry is allocated, until its frame is freed. */
const IN_USE = 1;
const GRANTED = 2;
const READ_ONLY = 4;
const ONE_MAPPING = 256;

const EINVAL = -22;
const EFAULT = -14;

const GNTST_GENERAL_ERROR = -1;
const GNTST_BAD_GNTREF = -3;
const GNTST_BAD_COPY_ARG = -10;

/** Why an entry cannot be used, in words: the error code is always the same. */
function refusal(machine: Machine, granter: DomId, ref: number, grantee: number, writable: boolean): string {
  if (ref >= machine.grantsPerDomain) return "there is no such reference";
  const entry = machine.grantEntry(granter, ref);
  const state = Atomics.load(machine.words, entry + STATE);
  if ((state & GRANTED) === 0) return "it is not granted, or no longer";
  if (machine.words[entry + TO_DOMAIN] !== grantee) return "it is granted to another domain";
  return writable && (state & READ_ONLY) !== 0 ? "it is read-only" : "it changed meanwhile";
}

/** The granting side: see {@linkcode GrantShares}. */
export class SimulatedGrantShares implements GrantShares {
  readonly #machine: Machine;
  readonly #domain: DomId;
  readonly #live = new Set<SharedPages>();

  constructor(machine: Machine, domain: DomId) {
    this.#machine = machine;
    this.#domain = domain;
  }

  /** Throws RangeError if too few pages or references are free. */
  share(toDomain: DomId, count: number, writable: boolean): SharedPages {
    const machine = this.#machine;
    const frame = machine.takeFrames(count);
    let refs: GrantRef[];
    try {
      refs = this.#grant(frame, count, toDomain, writable);
    } catch (error) {
      machine.freeFrames(frame, count);
      throw error;
    }
    const address = frame * PAGE_BYTES;
    const pages: SharedPages = {
      address,
      refs,
      view: machine.bytes.subarray(address, address + count * PAGE_BYTES),
      [Symbol.dispose]: () => {
        if (this.#live.delete(pages)) endGrants(machine, this.#domain, refs);
      },
    };
    this.#live.add(pages);
    return pages;
  }

  [Symbol.dispose](): void {
    for (const pages of this.#live) pages[Symbol.dispose]();
  }

  #grant(frame: number, count: number, toDomain: DomId, writable: boolean): GrantRef[] {
    const machine = this.#machine;
    return machine.exclusively(() => {
      const refs: GrantRef[] = [];
      for (let ref = FIRST_GRANT; ref < machine.grantsPerDomain && refs.length < count; ref++) {
        if (machine.words[machine.grantEntry(this.#domain, ref) + STATE] === 0) refs.push(ref as GrantRef);
      }
      if (refs.length < count) throw new RangeError(`domain ${this.#domain} has not ${count} free grant references`);
      refs.forEach((ref, i) => {
        const entry = machine.grantEntry(this.#domain, ref);
        machine.words[entry + TO_DOMAIN] = toDomain;
        machine.words[entry + FRAME] = frame + i;
        Atomics.store(machine.words, entry + STATE, IN_USE | GRANTED | (writable ? 0 : READ_ONLY));
      });
      return refs;
    });
  }
}

/** Revokes grants: no further map or copy succeeds; unmapped frames are freed at once. */
function endGrants(machine: Machine, domain: DomId, refs: Iterable<number>): void {
  machine.exclusively(() => {
    for (const ref of refs) {
      const entry = machine.grantEntry(domain, ref);
      Atomics.and(machine.words, entry + STATE, ~GRANTED);
      reclaimLocked(machine, entry);
    }
  });
}

/** Frees frame and entry of a grant that is revoked and not mapped. */
function reclaimLocked(machine: Machine, entry: number): void {
  const state = Atomics.load(machine.words, entry + STATE);
  if ((state & IN_USE) === 0 || (state & GRANTED) !== 0 || state >= ONE_MAPPING) return;
  machine.freeFramesLocked(machine.words[entry + FRAME]!, 1);
  Atomics.store(machine.words, entry + STATE, 0);
}

/** Revokes all grants of a destroyed domain, and undoes all its mappings. */
export function endDomainGrants(machine: Machine, domain: DomId): void {
  endGrants(machine, domain, Array(machine.grantsPerDomain).keys());
  machine.exclusively(() => {
    for (let granter = 0; granter < machine.domains; granter++) {
      for (let ref = FIRST_GRANT; ref < machine.grantsPerDomain; ref++) {
        const entry = machine.grantEntry(granter, ref);
        const state = Atomics.load(machine.words, entry + STATE);
        if (state < ONE_MAPPING || machine.words[entry + TO_DOMAIN] !== domain) continue;
        machine.countMapped(-(state >> 8));
        Atomics.and(machine.words, entry + STATE, ONE_MAPPING - 1);
        reclaimLocked(machine, entry);
      }
    }
  });
}

/** The mapping side: see {@linkcode GrantTable}. The pages of one {@linkcode map} need not be adjacent. */
export class SimulatedGrantTable implements GrantTable {
  readonly #machine: Machine;
  readonly #domain: DomId;
  readonly #guest: DomId;
  readonly #mappings = new MappingTable();

  constructor(machine: Machine, domain: DomId, guest: DomId) {
    this.#machine = machine;
    this.#domain = domain;
    this.#guest = guest;
  }

  /** Pages that this handle has mapped; a page that is mapped twice counts twice. */
  get mappedPages(): number {
    return this.#mappings.pages;
  }

  setMaxGrants(_count: number): void {}

  mapPages(refs: readonly GrantRef[], writable: boolean): OwnedMemory {
    const addresses = new Float64Array(refs.length);
    const status = this.map(Uint32Array.from(refs), 0, refs.length, writable, addresses);
    if (status !== 0) throw this.#mapError(refs, writable, status);
    const address = addresses[0]!;
    const unmap = (): void => void this.unmap(address, refs.length);
    if (addresses.some((each, i) => each !== address + i * PAGE_BYTES)) {
      unmap();
      throw new GrantError(`Cannot map grants ${refs.join(", ")}: their simulated pages are not adjacent`, EINVAL);
    }
    const view = this.#machine.bytes.subarray(address, address + refs.length * PAGE_BYTES);
    let mapped = true;
    return {
      address,
      view,
      [Symbol.dispose]: () => {
        if (mapped) unmap();
        mapped = false;
      },
    };
  }

  map(refs: Uint32Array, first: number, count: number, writable: boolean, addresses: Float64Array): number {
    if (count < 1) return EINVAL;
    for (let i = first; i < first + count; i++) {
      const frame = this.#pin(refs[i]!, writable);
      if (frame < 0) {
        while (--i >= first) this.#unpin(refs[i]!);
        return EINVAL;
      }
      addresses[i] = frame * PAGE_BYTES;
    }
    this.#mappings.add(addresses[first]!, refs, first, count);
    this.#machine.countMapped(count);
    return 0;
  }

  unmap(address: number, count: number): number {
    return this.#mappings.remove(address, count, this.#release) ? 0 : EINVAL;
  }

  createCopyBatch(capacity: number): GrantCopyBatch {
    return new SimulatedCopyBatch(this.#machine, this.#domain, this.#guest, capacity);
  }

  [Symbol.dispose](): void {
    this.#mappings.removeAll(this.#release);
  }

  readonly #release = (ref: number): void => {
    this.#machine.countMapped(-1);
    this.#unpin(ref);
  };

  /** Counts a mapping of the entry and returns its frame, or -1. */
  #pin(ref: number, writable: boolean): number {
    const { words, grantsPerDomain } = this.#machine;
    if (ref >= grantsPerDomain) return -1;
    const entry = this.#machine.grantEntry(this.#guest, ref);
    let state = Atomics.load(words, entry + STATE);
    while (true) {
      if ((state & GRANTED) === 0 || (writable && (state & READ_ONLY) !== 0)) return -1;
      if (words[entry + TO_DOMAIN] !== this.#domain) return -1;
      const before = Atomics.compareExchange(words, entry + STATE, state, state + ONE_MAPPING);
      if (before === state) return words[entry + FRAME]!;
      state = before;
    }
  }

  #unpin(ref: number): void {
    const machine = this.#machine;
    const entry = machine.grantEntry(this.#guest, ref);
    const state = Atomics.sub(machine.words, entry + STATE, ONE_MAPPING) - ONE_MAPPING;
    if (state < ONE_MAPPING && (state & GRANTED) === 0) machine.exclusively(() => reclaimLocked(machine, entry));
  }

  #mapError(refs: readonly GrantRef[], writable: boolean, status: number): GrantError {
    const [domain, guest] = [this.#domain, this.#guest];
    for (const ref of refs) {
      const frame = this.#pin(ref, writable);
      if (frame >= 0) this.#unpin(ref);
      else {
        const why = refusal(this.#machine, guest, ref, domain, writable);
        return new GrantError(`Cannot map grant ${ref} of domain ${guest}: ${why}`, status);
      }
    }
    return new GrantError(`Cannot map grants ${refs.join(", ")} of domain ${guest}`, status);
  }
}

/** Grant copies: see {@linkcode GrantCopyBatch}. */
class SimulatedCopyBatch implements GrantCopyBatch {
  readonly capacity: number;
  readonly #machine: Machine;
  readonly #domain: DomId;
  readonly #guest: DomId;
  readonly #refs: Uint32Array;
  readonly #offsets: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #locals: Float64Array;
  readonly #toGuest: Uint8Array;
  readonly #statuses: Int16Array;
  #length = 0;

  constructor(machine: Machine, domain: DomId, guest: DomId, capacity: number) {
    this.capacity = capacity;
    this.#machine = machine;
    this.#domain = domain;
    this.#guest = guest;
    this.#refs = new Uint32Array(capacity);
    this.#offsets = new Uint32Array(capacity);
    this.#lengths = new Uint32Array(capacity);
    this.#locals = new Float64Array(capacity);
    this.#toGuest = new Uint8Array(capacity);
    this.#statuses = new Int16Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  addFromGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    this.#add(ref, offsetBytes, localAddress, lengthBytes, 0);
  }

  addToGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    this.#add(ref, offsetBytes, localAddress, lengthBytes, 1);
  }

  #add(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number, toGuest: number): void {
    const i = this.#length;
    if (i >= this.capacity) throw new RangeError(`the copy batch holds ${this.capacity} segments`);
    this.#refs[i] = ref;
    this.#offsets[i] = offsetBytes;
    this.#lengths[i] = lengthBytes;
    this.#locals[i] = localAddress;
    this.#toGuest[i] = toGuest;
    this.#statuses[i] = GNTST_GENERAL_ERROR;
    this.#length = i + 1;
  }

  run(): number {
    const end = this.#machine.bytes.length;
    for (let i = 0; i < this.#length; i++) {
      const local = this.#locals[i]!;
      // The driver pins all buffers before the hypercall: one bad address fails the whole call.
      if (local < PAGE_BYTES || local + this.#lengths[i]! > end) return EFAULT;
    }
    for (let i = 0; i < this.#length; i++) this.#statuses[i] = this.#copy(i);
    return 0;
  }

  status(index: number): number {
    return this.#statuses[index]!;
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  #copy(i: number): number {
    const { words, bytes, grantsPerDomain } = this.#machine;
    const ref = this.#refs[i]!;
    const offset = this.#offsets[i]!;
    const length = this.#lengths[i]!;
    if (offset + length > PAGE_BYTES) return GNTST_BAD_COPY_ARG;
    if (ref >= grantsPerDomain) return GNTST_BAD_GNTREF;
    const entry = this.#machine.grantEntry(this.#guest, ref);
    const state = Atomics.load(words, entry + STATE);
    const toGuest = this.#toGuest[i] !== 0;
    if ((state & GRANTED) === 0 || words[entry + TO_DOMAIN] !== this.#domain) return GNTST_GENERAL_ERROR;
    if (toGuest && (state & READ_ONLY) !== 0) return GNTST_GENERAL_ERROR;
    const guest = words[entry + FRAME]! * PAGE_BYTES + offset;
    const local = this.#locals[i]!;
    if (toGuest) bytes.copyWithin(guest, local, local + length);
    else bytes.copyWithin(local, guest, guest + length);
    return 0;
  }
}
