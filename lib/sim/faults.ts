/**
 * Fault injection on the seam: a platform that fails chosen grant maps and copies, and reports event overflows, by a
 * plan. Wraps any platform, of this thread.
 */

import type {
  DomId,
  EventChannels,
  EvtchnPort,
  GrantCopyBatch,
  GrantRef,
  GrantTable,
  OwnedMemory,
  Platform,
} from "../hypervisor.ts";
import { EVENTS_OVERFLOWED, GrantError } from "../hypervisor.ts";

/** When to fail, and how. Each is asked before every call, with how many came before it; 0 or absent: do not fail. */
export interface FaultPlan {
  /** Negative errno for a whole map call ({@linkcode GrantTable.map} and `mapPages`). */
  readonly map?: (call: number) => number;
  /** Negative errno for an unmap call; the pages stay mapped. */
  readonly unmap?: (call: number) => number;
  /** Negative errno for a whole copy call: nothing is copied, statuses stay failures. */
  readonly copyCall?: (call: number) => number;
  /** Status of one segment of a copy, which is not copied then: a GNTST_* value, or any positive one (XSA-316). */
  readonly copySegment?: (segment: number) => number;
  /** True: the event queue overflowed; what was in it is not told, only that it overflowed. */
  readonly overflow?: (call: number) => boolean;
}

/** The same platform with the plan's faults. A handle counts its own calls. */
export function withFaults(platform: Platform, plan: FaultPlan): Platform {
  return {
    descriptor: platform.descriptor,
    memory: platform.memory,
    journals: platform.journals,
    openGrantTable: (guest) => new FaultyGrantTable(platform.openGrantTable(guest), plan),
    openEventChannels: (other) => new FaultyEventChannels(platform.openEventChannels(other), plan),
    openGrantShares: () => platform.openGrantShares(),
    createWakeToken: () => platform.createWakeToken(),
    openParker: (token, options) => platform.openParker(token, options),
    openWaker: (token) => platform.openWaker(token),
    now: () => platform.now(),
  };
}

class FaultyGrantTable implements GrantTable {
  readonly #table: GrantTable;
  readonly #plan: FaultPlan;
  #maps = 0;
  #unmaps = 0;

  constructor(table: GrantTable, plan: FaultPlan) {
    this.#table = table;
    this.#plan = plan;
  }

  setMaxGrants(count: number): void {
    this.#table.setMaxGrants(count);
  }

  mapPages(refs: readonly GrantRef[], writable: boolean): OwnedMemory {
    const status = this.#plan.map?.(this.#maps++) ?? 0;
    if (status !== 0) throw new GrantError(`Cannot map grants ${refs.join(", ")}: injected fault`, status);
    return this.#table.mapPages(refs, writable);
  }

  map(refs: Uint32Array, first: number, count: number, writable: boolean, addresses: Float64Array): number {
    const status = this.#plan.map?.(this.#maps++) ?? 0;
    return status !== 0 ? status : this.#table.map(refs, first, count, writable, addresses);
  }

  unmap(address: number, count: number): number {
    const status = this.#plan.unmap?.(this.#unmaps++) ?? 0;
    return status !== 0 ? status : this.#table.unmap(address, count);
  }

  createCopyBatch(capacity: number): GrantCopyBatch {
    return new FaultyCopyBatch(this.#table.createCopyBatch(capacity), this.#plan);
  }

  [Symbol.dispose](): void {
    this.#table[Symbol.dispose]();
  }
}

/** Where the segment is not given to the real batch. */
const NOT_COPIED = -1;
/** What a status is before any call. */
const NOT_RUN = -1;

class FaultyCopyBatch implements GrantCopyBatch {
  readonly #batch: GrantCopyBatch;
  readonly #plan: FaultPlan;
  /** Index in the real batch, or {@link NOT_COPIED}. */
  readonly #inner: Int32Array;
  readonly #statuses: Int32Array;
  #length = 0;
  #segments = 0;
  #calls = 0;
  #ran = false;

  constructor(batch: GrantCopyBatch, plan: FaultPlan) {
    this.#batch = batch;
    this.#plan = plan;
    this.#inner = new Int32Array(batch.capacity);
    this.#statuses = new Int32Array(batch.capacity);
  }

  get capacity(): number {
    return this.#batch.capacity;
  }

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
    this.#ran = false;
    this.#batch.clear();
  }

  addFromGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    if (this.#admit()) this.#batch.addFromGuest(ref, offsetBytes, localAddress, lengthBytes);
  }

  addToGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    if (this.#admit()) this.#batch.addToGuest(ref, offsetBytes, localAddress, lengthBytes);
  }

  run(): number {
    const status = this.#plan.copyCall?.(this.#calls++) ?? 0;
    if (status !== 0) return status;
    this.#ran = true;
    return this.#batch.run();
  }

  status(index: number): number {
    if (!this.#ran) return NOT_RUN;
    const inner = this.#inner[index]!;
    return inner === NOT_COPIED ? this.#statuses[index]! : this.#batch.status(inner);
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
  }

  /** Whether the next segment is for the real batch. */
  #admit(): boolean {
    const status = this.#plan.copySegment?.(this.#segments++) ?? 0;
    this.#statuses[this.#length] = status;
    this.#inner[this.#length++] = status === 0 ? this.#batch.length : NOT_COPIED;
    return status === 0;
  }
}

class FaultyEventChannels implements EventChannels {
  readonly #events: EventChannels;
  readonly #plan: FaultPlan;
  #looks = 0;

  constructor(events: EventChannels, plan: FaultPlan) {
    this.#events = events;
    this.#plan = plan;
  }

  get fd(): number {
    return this.#events.fd;
  }

  fired(): void {
    this.#events.fired();
  }

  bindInterdomain(remoteDomain: DomId, remotePort: EvtchnPort): EvtchnPort {
    return this.#events.bindInterdomain(remoteDomain, remotePort);
  }

  bindUnbound(remoteDomain: DomId): EvtchnPort {
    return this.#events.bindUnbound(remoteDomain);
  }

  notify(port: EvtchnPort): void {
    this.#events.notify(port);
  }

  unbind(port: EvtchnPort): void {
    this.#events.unbind(port);
  }

  take(ports: Uint32Array): number {
    if (this.#plan.overflow?.(this.#looks++) !== true) return this.#events.take(ports);
    // The reset empties the queue.
    while (this.#events.take(ports) === ports.length);
    return EVENTS_OVERFLOWED;
  }

  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
  }
}
