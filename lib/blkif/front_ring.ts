/**
 * The frontend's end of a shared ring: puts requests, takes responses. It drives a BackRing in the simulation and in
 * tests, and can put any request that a guest could, valid or not.
 */

import {
  type AbiLayout,
  indexDifference,
  MAX_INDIRECT_PAGES_PER_REQUEST,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_INDIRECT,
  REQ_EVENT_WORD,
  REQ_PROD_WORD,
  RING_BROKEN,
  RING_HEADER_BYTES,
  RSP_EVENT_WORD,
  RSP_PROD_WORD,
  SEGMENT_WORDS,
  slotsOfMemory,
} from "./abi.ts";

/** Fields of every request. Callers reuse one object for many requests. */
class CommonFields {
  handle = 0;
  idLow = 0;
  idHigh = 0;
  sectorLow = 0;
  sectorHigh = 0;
}

/** A direct request to be put into a ring. */
export class RequestFields extends CommonFields {
  operation = 0;
  /** Written as it is, 0 to 255; at most 11 segments are written. */
  segmentCount = 0;
  readonly grefs: Uint32Array<ArrayBuffer> = new Uint32Array(MAX_SEGMENTS_PER_REQUEST);
  readonly firstSectors: Uint8Array<ArrayBuffer> = new Uint8Array(MAX_SEGMENTS_PER_REQUEST);
  readonly lastSectors: Uint8Array<ArrayBuffer> = new Uint8Array(MAX_SEGMENTS_PER_REQUEST);
}

/** An indirect request to be put into a ring. {@linkcode writeSegment} writes its segments. */
export class IndirectFields extends CommonFields {
  innerOperation = 0;
  /** Written as it is, 0 to 65535. */
  segmentCount = 0;
  readonly grefs: Uint32Array<ArrayBuffer> = new Uint32Array(MAX_INDIRECT_PAGES_PER_REQUEST);
}

/** A discard to be put into a ring. */
export class DiscardFields extends CommonFields {
  flag = 0;
  sectorCountLow = 0;
  sectorCountHigh = 0;
}

/** Writes a segment at index `word` of a ring or an indirect page, seen as 32-bit words. */
export function writeSegment(words: Uint32Array, word: number, gref: number, first: number, last: number): void {
  words[word] = gref;
  words[word + 1] = first | (last << 8);
}

/** A response taken out of a ring. */
export class ResponseFields {
  idLow = 0;
  idHigh = 0;
  operation = 0;
  /** STATUS_OKAY, or negative. */
  status = 0;
}

/** The frontend's end of a ring, for one thread. Nothing is allocated after construction. */
export class FrontRing {
  /** Slots of the ring, a power of two. */
  readonly slots: number;

  readonly #abi: AbiLayout;
  readonly #header: Int32Array;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #signedHalves: Int16Array;
  readonly #bytes: Uint8Array;
  readonly #mask: number;
  /** req_prod_pvt, as an i32 */
  #requestProducer: number;
  /** rsp_cons, as an i32 */
  #responseConsumer: number;
  /** The req_prod that was published last. */
  #published: number;

  /** Attaches to an initialised ring at its `req_prod` and `rsp_prod`; we must have no request outstanding. */
  constructor(memory: Uint8Array, abi: AbiLayout) {
    this.slots = slotsOfMemory(memory, abi);
    this.#mask = this.slots - 1;
    this.#abi = abi;
    const { buffer, byteOffset, length } = memory;
    this.#header = new Int32Array(buffer, byteOffset, 4);
    this.#words = new Uint32Array(buffer, byteOffset, length / 4);
    this.#halves = new Uint16Array(buffer, byteOffset, length / 2);
    this.#signedHalves = new Int16Array(buffer, byteOffset, length / 2);
    this.#bytes = memory;
    this.#requestProducer = Atomics.load(this.#header, REQ_PROD_WORD);
    this.#published = this.#requestProducer;
    this.#responseConsumer = Atomics.load(this.#header, RSP_PROD_WORD);
  }

  /** Initialises the memory as an empty ring (ring.h: SHARED_RING_INIT) and attaches to it. */
  static initialise(memory: Uint8Array, abi: AbiLayout): FrontRing {
    memory.fill(0, 0, RING_HEADER_BYTES);
    const header = new Int32Array(memory.buffer, memory.byteOffset, 4);
    Atomics.store(header, REQ_EVENT_WORD, 1);
    Atomics.store(header, RSP_EVENT_WORD, 1);
    return new FrontRing(memory, abi);
  }

  /** How many requests can be put before responses must be taken. */
  free(): number {
    return this.slots - indexDifference(this.#requestProducer, this.#responseConsumer);
  }

  /** Puts a direct request. Call it only if {@linkcode free} is not 0; the backend sees it after {@linkcode push}. */
  putRequest(fields: RequestFields): void {
    const abi = this.#abi;
    const begin = this.#begin(fields.operation, fields);
    this.#bytes[begin + abi.segmentCountOffset] = fields.segmentCount;
    this.#halves[(begin + abi.handleOffset) >>> 1] = fields.handle;
    const count = Math.min(fields.segmentCount, MAX_SEGMENTS_PER_REQUEST);
    let word = (begin + abi.segmentsOffset) >>> 2;
    for (let i = 0; i < count; i++, word += SEGMENT_WORDS) {
      writeSegment(this.#words, word, fields.grefs[i]!, fields.firstSectors[i]!, fields.lastSectors[i]!);
    }
    this.#requestProducer = (this.#requestProducer + 1) | 0;
  }

  /** Like {@linkcode putRequest}, for an indirect request. */
  putIndirect(fields: IndirectFields): void {
    const abi = this.#abi;
    const begin = this.#begin(OP_INDIRECT, fields);
    this.#bytes[begin + abi.indirectOperationOffset] = fields.innerOperation;
    this.#halves[(begin + abi.indirectSegmentCountOffset) >>> 1] = fields.segmentCount;
    this.#halves[(begin + abi.indirectHandleOffset) >>> 1] = fields.handle;
    this.#words.set(fields.grefs, (begin + abi.indirectGrefsOffset) >>> 2);
    this.#requestProducer = (this.#requestProducer + 1) | 0;
  }

  /** Like {@linkcode putRequest}, for a discard. */
  putDiscard(fields: DiscardFields): void {
    const abi = this.#abi;
    const begin = this.#begin(OP_DISCARD, fields);
    this.#bytes[begin + abi.discardFlagOffset] = fields.flag;
    this.#halves[(begin + abi.handleOffset) >>> 1] = fields.handle;
    const count = (begin + abi.discardSectorCountOffset) >>> 2;
    this.#words[count] = fields.sectorCountLow;
    this.#words[count + 1] = fields.sectorCountHigh;
    this.#requestProducer = (this.#requestProducer + 1) | 0;
  }

  /** Writes the fields that all requests have at the same place; returns the offset of the slot. */
  #begin(operation: number, fields: CommonFields): number {
    const abi = this.#abi;
    const begin = RING_HEADER_BYTES + (this.#requestProducer & this.#mask) * abi.requestSizeBytes;
    this.#bytes[begin + abi.operationOffset] = operation;
    const id = (begin + abi.idOffset) >>> 2;
    this.#words[id] = fields.idLow;
    this.#words[id + 1] = fields.idHigh;
    const sector = (begin + abi.sectorOffset) >>> 2;
    this.#words[sector] = fields.sectorLow;
    this.#words[sector + 1] = fields.sectorHigh;
    return begin;
  }

  /** Publishes the requests put so far. True: the backend asked to be notified of one of them. */
  push(): boolean {
    const previous = this.#published;
    const current = this.#requestProducer;
    if (current === previous) return false;
    this.#published = current;
    Atomics.store(this.#header, REQ_PROD_WORD, current);
    const event = Atomics.load(this.#header, REQ_EVENT_WORD);
    return indexDifference(current, event) < indexDifference(current, previous);
  }

  /** Responses that can be taken, or {@linkcode RING_BROKEN} if there are more than requests were pushed. */
  unconsumedResponses(): number {
    const available = indexDifference(Atomics.load(this.#header, RSP_PROD_WORD), this.#responseConsumer);
    return available > indexDifference(this.#published, this.#responseConsumer) ? RING_BROKEN : available;
  }

  /** Takes the next response. Call it only if {@linkcode unconsumedResponses} is positive. */
  takeResponse(out: ResponseFields): void {
    const abi = this.#abi;
    const begin = RING_HEADER_BYTES + (this.#responseConsumer & this.#mask) * abi.requestSizeBytes;
    const id = (begin + abi.responseIdOffset) >>> 2;
    out.idLow = this.#words[id]!;
    out.idHigh = this.#words[id + 1]!;
    out.operation = this.#bytes[begin + abi.responseOperationOffset]!;
    out.status = this.#signedHalves[(begin + abi.responseStatusOffset) >>> 1]!;
    this.#responseConsumer = (this.#responseConsumer + 1) | 0;
  }

  /**
   * Before sleeping: asks the backend to notify us of its next response, and checks again. True: do not sleep, there
   * are responses (or the ring is broken).
   */
  finalCheck(): boolean {
    if (this.unconsumedResponses() !== 0) return true;
    Atomics.store(this.#header, RSP_EVENT_WORD, (this.#responseConsumer + 1) | 0);
    return this.unconsumedResponses() !== 0;
  }

  /** Index of the next request to put (req_prod_pvt), a u32. */
  get requestProducer(): number {
    return this.#requestProducer >>> 0;
  }

  /** Index of the next response to take (rsp_cons), a u32. */
  get responseConsumer(): number {
    return this.#responseConsumer >>> 0;
  }
}
