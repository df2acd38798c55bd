/**
 * The frontend's end of a shared ring: puts requests in, takes responses out. It is what drives a BackRing in the
 * simulation and in tests, and can write any request a guest could, sensible or not. It must not know what backs the
 * memory or how notifications travel.
 */

import {
  type AbiLayout,
  indexDifference,
  MAX_SEGMENTS_PER_REQUEST,
  REQ_EVENT_WORD,
  REQ_PROD_WORD,
  RING_BROKEN,
  RING_HEADER_BYTES,
  RSP_EVENT_WORD,
  RSP_PROD_WORD,
  SEGMENT_FIRST_SECTOR_OFFSET,
  SEGMENT_LAST_SECTOR_OFFSET,
  SEGMENT_SIZE_BYTES,
  slotsOfMemory,
} from "./abi.ts";

/** A direct request to be put into a ring. One object is filled and put again and again. */
export class RequestFields {
  operation = 0;
  handle = 0;
  idLow = 0;
  idHigh = 0;
  sectorLow = 0;
  sectorHigh = 0;
  /** Goes to the wire as it is, 0 to 255; at most 11 segments are written. */
  segmentCount = 0;
  readonly grefs: Uint32Array<ArrayBuffer> = new Uint32Array(MAX_SEGMENTS_PER_REQUEST);
  readonly firstSectors: Uint8Array<ArrayBuffer> = new Uint8Array(MAX_SEGMENTS_PER_REQUEST);
  readonly lastSectors: Uint8Array<ArrayBuffer> = new Uint8Array(MAX_SEGMENTS_PER_REQUEST);
}

/** A response taken out of a ring. */
export class ResponseFields {
  idLow = 0;
  idHigh = 0;
  operation = 0;
  /** STATUS_OKAY, or negative. */
  status = 0;
}

/** The front end of a ring. One thread's. Nothing is allocated after construction. */
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
  /** The value of req_prod that was published last. */
  #published: number;

  /** Attaches to an initialised ring with nothing outstanding of ours: at its `req_prod` and `rsp_prod`. */
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

  /** Makes an empty ring of the memory (ring.h: SHARED_RING_INIT) and attaches to it. */
  static initialise(memory: Uint8Array, abi: AbiLayout): FrontRing {
    memory.fill(0, 0, RING_HEADER_BYTES);
    const header = new Int32Array(memory.buffer, memory.byteOffset, 4);
    Atomics.store(header, REQ_EVENT_WORD, 1);
    Atomics.store(header, RSP_EVENT_WORD, 1);
    return new FrontRing(memory, abi);
  }

  /** Requests that can be put before responses must be taken. */
  free(): number {
    return this.slots - indexDifference(this.#requestProducer, this.#responseConsumer);
  }

  /** Puts the next request, in the layout of a direct one. Only if {@linkcode free}; seen after {@linkcode push}. */
  putRequest(fields: RequestFields): void {
    const abi = this.#abi;
    const begin = RING_HEADER_BYTES + (this.#requestProducer & this.#mask) * abi.requestSizeBytes;
    this.#bytes[begin + abi.operationOffset] = fields.operation;
    this.#bytes[begin + abi.segmentCountOffset] = fields.segmentCount;
    this.#halves[(begin + abi.handleOffset) >>> 1] = fields.handle;
    const id = (begin + abi.idOffset) >>> 2;
    this.#words[id] = fields.idLow;
    this.#words[id + 1] = fields.idHigh;
    const sector = (begin + abi.sectorOffset) >>> 2;
    this.#words[sector] = fields.sectorLow;
    this.#words[sector + 1] = fields.sectorHigh;
    const count = Math.min(fields.segmentCount, MAX_SEGMENTS_PER_REQUEST);
    let segment = begin + abi.segmentsOffset;
    for (let i = 0; i < count; i++, segment += SEGMENT_SIZE_BYTES) {
      this.#words[segment >>> 2] = fields.grefs[i]!;
      this.#bytes[segment + SEGMENT_FIRST_SECTOR_OFFSET] = fields.firstSectors[i]!;
      this.#bytes[segment + SEGMENT_LAST_SECTOR_OFFSET] = fields.lastSectors[i]!;
    }
    this.#requestProducer = (this.#requestProducer + 1) | 0;
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

  /** Responses that are there and not yet taken, or {@linkcode RING_BROKEN} if there are more than requests pushed. */
  unconsumedResponses(): number {
    const available = indexDifference(Atomics.load(this.#header, RSP_PROD_WORD), this.#responseConsumer);
    return available > indexDifference(this.#published, this.#responseConsumer) ? RING_BROKEN : available;
  }

  /** Takes the next response. Only after {@linkcode unconsumedResponses} said that there is one. */
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
   * Before going to sleep: asks the backend to notify of its next response, and looks again. True: there are responses
   * (or the ring is broken), do not sleep.
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
