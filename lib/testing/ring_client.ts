/**
 * A guest's end of the rings of one connected disk, for a program in the event loop: any number of requests at a time,
 * valid or not, each a promise of its response.
 */

import {
  ABIS,
  DISCARD_SECURE,
  MAX_INDIRECT_PAGES_PER_REQUEST,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_INDIRECT,
  OP_READ,
  REQ_PROD_WORD,
  SEGMENTS_PER_INDIRECT_PAGE,
} from "../blkif/abi.ts";
import {
  DiscardFields,
  FrontRing,
  IndirectFields,
  RequestFields,
  ResponseFields,
  writeSegment,
} from "../blkif/front_ring.ts";
import type { FrontendConnection } from "../guest/frontend.ts";
import type { EventChannels } from "../hypervisor.ts";
import { eventLoopTurn } from "../modules.ts";
import { EventLoopParker } from "../sim/park.ts";
import { PAGE_BYTES, SECTOR_BYTES } from "../units.ts";

/** How often responses may be there at once before the event loop has a turn. */
const PASSES_PER_TURN = 64;

/** One segment of a {@linkcode RawRequest}: sectors of one page. */
export interface RawSegment {
  /** First 512-byte sector of the page, written as it is: 0 to 255. */
  readonly first: number;
  /** Last 512-byte sector of the page, written as it is: 0 to 255. */
  readonly last: number;
  /** The grant reference, written as it is. Default: that of the request's next own page. */
  readonly ref?: number;
}

/** A request as it is written to the ring, valid or not. What is absent is 0, or follows from the rest. */
export interface RawRequest {
  /** The operation, 0 to 255; `OPERATIONS` has their names. */
  readonly operation: number;
  /** First 512-byte sector of the disk. */
  readonly sector?: number | bigint;
  /** The segments; a discard has none. At most as many as a request of the connection can hold. */
  readonly segments?: readonly RawSegment[];
  /** The number of segments that the request claims to have. Default: that of `segments`. */
  readonly segmentCount?: number;
  /** The operation inside of an indirect request; then `operation` is `OPERATIONS.indirect`. */
  readonly innerOperation?: number;
  /** The grant reference of the page with the segments of an indirect request. Default: an own page. */
  readonly indirectRef?: number;
  /** For a discard: 512-byte sectors. */
  readonly discardSectors?: number | bigint;
  /** For a discard: the data must be unrecoverable. */
  readonly secure?: boolean;
  /** The bytes that the segments name, in their order. What is absent is left as it was. */
  readonly data?: Uint8Array;
  /** The id. Default: one that no request in flight has. */
  readonly id?: bigint;
}

/** The response to a {@linkcode RawRequest}. */
export interface RawResponse {
  /** The operation that it answers, as the backend wrote it. */
  readonly operation: number;
  /** 0 for success; -1 an error; -2 not supported. */
  readonly status: number;
  /** The bytes in the segments that have own pages, in their order: what a read has delivered. */
  readonly data: Uint8Array;
}

/** Why no response comes any more. */
export class RingEndedError extends Error {}

/** A request that was put on a ring. */
interface Pending {
  readonly slot: number;
  readonly ring: number;
  readonly request: RawRequest;
  readonly answer: PromiseWithResolvers<RawResponse>;
}

/** Requests on the rings of one connection. Disposing it rejects those that are not answered. */
export class RingClient implements Disposable {
  /** Responses that break the protocol, in words. */
  readonly protocolErrors: string[] = [];
  readonly #connection: FrontendConnection;
  readonly #events: EventChannels;
  readonly #rings: readonly FrontRing[];
  readonly #parker: EventLoopParker;
  readonly #free: number[];
  readonly #pending = new Map<bigint, Pending[]>();
  readonly #waiting: PromiseWithResolvers<number>[] = [];
  readonly #idle: (() => void)[] = [];
  readonly #ports = new Uint32Array(64);
  #inFlight = 0;
  #nextRing = 0;
  #lastId = 0n;
  #ended: string | undefined;

  constructor(connection: FrontendConnection, events: EventChannels, machine: SharedArrayBuffer) {
    this.#connection = connection;
    this.#events = events;
    this.#rings = connection.rings.map(({ pages }) => new FrontRing(pages.view, ABIS[connection.abi]));
    this.#free = Array.from({ length: connection.requests }, (_, slot) => connection.requests - 1 - slot);
    this.#parker = new EventLoopParker(machine);
    this.#parker.watch(events);
    void this.#follow();
  }

  /** Requests that are not answered. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Puts a request on a ring as soon as there is room. Rejects with {@linkcode RingEndedError}. */
  async request(request: RawRequest): Promise<RawResponse> {
    const slot = await this.#takeSlot();
    const ring = this.#chooseRing();
    const id = request.id ?? ++this.#lastId;
    const answer = Promise.withResolvers<RawResponse>();
    const pending = { slot, ring, request, answer };
    this.#pending.set(id, [...this.#pending.get(id) ?? [], pending]);
    this.#inFlight++;
    this.#put(id, pending);
    if (this.#rings[ring]!.push()) this.#events.notify(this.#connection.rings[ring]!.port);
    this.#parker.wake();
    return await answer.promise;
  }

  /** Writes a producer index to the first ring that no guest can reach, and notifies the backend. */
  breakRing(ahead: number): void {
    const { view } = this.#connection.ringPages;
    const ring = this.#rings[0]!;
    const header = new Int32Array(view.buffer, view.byteOffset, 4);
    Atomics.store(header, REQ_PROD_WORD, (ring.requestProducer + ahead) | 0);
    this.#events.notify(this.#connection.port);
  }

  /** Resolves when nothing is in flight. */
  async idle(): Promise<void> {
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** No request is put any more, and those in flight are rejected with this reason. */
  end(reason: string): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    const error = new RingEndedError(reason);
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error);
    for (const { answer } of [...this.#pending.values()].flat()) answer.reject(error);
    this.#pending.clear();
    this.#inFlight = 0;
    for (const idle of this.#idle.splice(0)) idle();
    this.#parker[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.end("the drive was disconnected");
  }

  /** Takes responses as they come, until the end. */
  async #follow(): Promise<void> {
    for (let passes = 0; this.#ended === undefined; passes++) {
      while (this.#events.take(this.#ports) === this.#ports.length);
      let more = false;
      for (let ring = 0; ring < this.#rings.length; ring++) {
        this.#takeResponses(ring);
        if (this.#rings[ring]!.finalCheck()) more = true;
      }
      if (more && passes < PASSES_PER_TURN) {
        await Promise.resolve();
      } else {
        await (more ? eventLoopTurn() : this.#parker.park());
        passes = 0;
      }
    }
  }

  #takeResponses(number: number): void {
    const ring = this.#rings[number]!;
    const count = ring.unconsumedResponses();
    if (count < 0) {
      this.protocolErrors.push("rsp_prod is ahead of all requests");
      return this.end("the backend broke the ring: rsp_prod is ahead of all requests");
    }
    const response = new ResponseFields();
    for (let i = 0; i < count; i++) {
      ring.takeResponse(response);
      this.#answer(number, response);
    }
  }

  #answer(ring: number, { idLow, idHigh, operation, status }: ResponseFields): void {
    const id = BigInt(idHigh) << 32n | BigInt(idLow);
    const alike = this.#pending.get(id);
    const pending = alike?.shift();
    if (pending === undefined || pending.ring !== ring) {
      return void this.protocolErrors.push(`a response on ring ${ring} has id ${id}, which is not in flight there`);
    }
    if (alike!.length === 0) this.#pending.delete(id);
    const { request, slot, answer } = pending;
    // The response to an indirect request names the operation inside.
    if (operation !== request.operation && operation !== request.innerOperation) {
      this.protocolErrors.push(`operation ${request.operation} was answered as operation ${operation}`);
    }
    answer.resolve({ operation, status, data: this.#gather(slot, request) });
    this.#inFlight--;
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#free.push(slot);
    else waiting.resolve(slot);
    if (this.#inFlight === 0) { for (const idle of this.#idle.splice(0)) idle(); }
  }

  /** The next ring with room, in turns: there are no more slots than all rings have room for. */
  #chooseRing(): number {
    const { length } = this.#rings;
    while (this.#rings[this.#nextRing]!.free() === 0) this.#nextRing = (this.#nextRing + 1) % length;
    const ring = this.#nextRing;
    this.#nextRing = (ring + 1) % length;
    return ring;
  }

  async #takeSlot(): Promise<number> {
    if (this.#ended !== undefined) throw new RingEndedError(this.#ended);
    const free = this.#free.pop();
    if (free !== undefined) return free;
    const waiting = Promise.withResolvers<number>();
    this.#waiting.push(waiting);
    return await waiting.promise;
  }

  #put(id: bigint, { ring, slot, request }: Pending): void {
    const to = this.#rings[ring]!;
    const [idLow, idHigh] = split(id);
    const [sectorLow, sectorHigh] = split(BigInt(request.sector ?? 0));
    const common = { idLow, idHigh, sectorLow, sectorHigh };
    if (request.operation === OP_DISCARD) {
      const [sectorCountLow, sectorCountHigh] = split(BigInt(request.discardSectors ?? 0));
      const flag = request.secure === true ? DISCARD_SECURE : 0;
      return to.putDiscard(Object.assign(new DiscardFields(), common, { flag, sectorCountLow, sectorCountHigh }));
    }
    this.#fill(slot, request);
    if (request.operation === OP_INDIRECT) to.putIndirect(Object.assign(this.#indirect(slot, request), common));
    else to.putRequest(Object.assign(this.#direct(slot, request), common));
  }

  #direct(slot: number, { operation, segments = [], segmentCount = segments.length }: RawRequest): RequestFields {
    const fields = Object.assign(new RequestFields(), { operation, segmentCount });
    segments.slice(0, MAX_SEGMENTS_PER_REQUEST).forEach((segment, i) => {
      fields.grefs[i] = this.#refOf(slot, i, segment);
      fields.firstSectors[i] = segment.first;
      fields.lastSectors[i] = segment.last;
    });
    return fields;
  }

  #indirect(slot: number, request: RawRequest): IndirectFields {
    const { segments = [], segmentCount = segments.length, innerOperation = OP_READ, indirectRef } = request;
    const fields = Object.assign(new IndirectFields(), { innerOperation, segmentCount });
    const { indirectPages } = this.#connection;
    fields.grefs.fill(indirectRef ?? indirectPages?.refs[slot] ?? 0, 0, MAX_INDIRECT_PAGES_PER_REQUEST);
    if (indirectPages === undefined) return fields;
    const { view } = indirectPages;
    const words = new Uint32Array(view.buffer, view.byteOffset + slot * PAGE_BYTES, PAGE_BYTES / 4);
    segments.slice(0, SEGMENTS_PER_INDIRECT_PAGE).forEach((segment, i) => {
      writeSegment(words, 2 * i, this.#refOf(slot, i, segment), segment.first, segment.last);
    });
    return fields;
  }

  #refOf(slot: number, index: number, { ref }: RawSegment): number {
    return ref ?? this.#connection.dataPages.refs[slot * this.#connection.segments + index] ?? 0;
  }

  #fill(slot: number, { segments = [], data }: RawRequest): void {
    if (data === undefined) return;
    let at = 0;
    for (const bytes of this.#places(slot, segments)) {
      bytes.set(data.subarray(at, at + bytes.length));
      at += bytes.length;
    }
  }

  #gather(slot: number, { segments = [] }: RawRequest): Uint8Array {
    const places = this.#places(slot, segments);
    const data = new Uint8Array(places.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const bytes of places) {
      data.set(bytes, at);
      at += bytes.length;
    }
    return data;
  }

  /** The bytes of the segments that lie in own pages and make sense. */
  #places(slot: number, segments: readonly RawSegment[]): Uint8Array[] {
    const { dataPages, segments: most } = this.#connection;
    return segments.slice(0, most).flatMap(({ first, last, ref }, i) => {
      if (ref !== undefined || first > last || last >= PAGE_BYTES / SECTOR_BYTES) return [];
      const page = (slot * most + i) * PAGE_BYTES;
      return [dataPages.view.subarray(page + first * SECTOR_BYTES, page + (last + 1) * SECTOR_BYTES)];
    });
  }
}

/** The lower and upper half of a u64. */
function split(value: bigint): readonly [number, number] {
  return [Number(value & 0xFFFFFFFFn), Number(value >> 32n & 0xFFFFFFFFn)];
}
