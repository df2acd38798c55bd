/**
 * The backend's end of a shared ring: takes requests, puts responses. It follows the rules of ring.h (free-running u32
 * indices, one copy per request, when to notify, the final check) and trusts nothing that the frontend can write.
 */

import {
  type AbiLayout,
  indexDifference,
  OP_FLUSH_DISKCACHE,
  REQ_EVENT_WORD,
  REQ_PROD_WORD,
  RING_BROKEN,
  RING_HEADER_BYTES,
  RingError,
  RSP_EVENT_WORD,
  RSP_PROD_WORD,
  SEGMENT_WORDS,
  slotsOfMemory,
} from "./abi.ts";

/**
 * The backend's end of a ring, for one thread. Nothing is allocated after construction. Private indices are i32,
 * because V8 keeps those as small integers; all arithmetic wraps at 2^32.
 */
export class BackRing {
  /** Slots of the ring, a power of two. */
  readonly slots: number;

  readonly #header: Int32Array;
  readonly #words: Int32Array;
  readonly #halves: Int16Array;
  readonly #bytes: Uint8Array;
  readonly #mask: number;
  readonly #strideBytes: number;
  readonly #requestWords: number;
  readonly #headWords: number;
  readonly #operationOffset: number;
  readonly #statusOffset: number;
  /** req_cons */
  #requestConsumer: number;
  /** rsp_prod_pvt */
  #responseProducer: number;
  /** The rsp_prod that was published last. The frontend can overwrite the shared one. */
  #published: number;

  /**
   * Attaches to a ring that the frontend has initialised, at its `rsp_prod`. `memory` is the whole ring: 1, 2, 4, 8 or
   * 16 pages. Throws {@linkcode RingError} if more requests are outstanding than the ring has slots.
   */
  constructor(memory: Uint8Array, abi: AbiLayout) {
    this.slots = slotsOfMemory(memory, abi);
    this.#mask = this.slots - 1;
    this.#strideBytes = abi.requestSizeBytes;
    this.#requestWords = abi.requestSizeBytes >>> 2;
    this.#headWords = abi.segmentsOffset >>> 2;
    this.#operationOffset = abi.responseOperationOffset;
    this.#statusOffset = abi.responseStatusOffset;
    const { buffer, byteOffset, length } = memory;
    this.#header = new Int32Array(buffer, byteOffset, 4);
    this.#words = new Int32Array(buffer, byteOffset, length / 4);
    this.#halves = new Int16Array(buffer, byteOffset, length / 2);
    this.#bytes = memory;
    const responses = Atomics.load(this.#header, RSP_PROD_WORD);
    const requests = Atomics.load(this.#header, REQ_PROD_WORD);
    if (indexDifference(requests, responses) > this.slots) {
      throw new RingError(
        `Cannot attach to the ring: req_prod ${requests >>> 0} is more than ${this.slots} slots ahead of rsp_prod ${
          responses >>> 0
        }`,
      );
    }
    this.#requestConsumer = responses;
    this.#responseProducer = responses;
    this.#published = responses;
  }

  /** Continues at `requestConsumer` after a crash: the last process took the requests before it. */
  resume(requestConsumer: number): void {
    this.#requestConsumer = requestConsumer | 0;
  }

  /**
   * Requests that can be taken, or {@linkcode RING_BROKEN} if the frontend's index is impossible: more than a ring
   * ahead, or behind what was taken. A broken ring must not be used any more.
   */
  unconsumed(): number {
    const available = indexDifference(Atomics.load(this.#header, REQ_PROD_WORD), this.#requestConsumer);
    return available > this.slots - this.outstanding() ? RING_BROKEN : available;
  }

  /** Requests taken and not yet answered. */
  outstanding(): number {
    return indexDifference(this.#requestConsumer, this.#responseProducer);
  }

  /**
   * Copies the next request, once, into private memory: as many of its words as it has, from `word` on. Decode only the
   * copy (XSA-155). Call it only if {@linkcode unconsumed} is positive. It is a loop, as a call of a built-in function costs
   * more than the loop, and makes the compiler forget all that it knows of other objects.
   */
  take(snapshot: Uint32Array, word: number): void {
    const words = this.#words;
    const begin = (RING_HEADER_BYTES + (this.#requestConsumer & this.#mask) * this.#strideBytes) >>> 2;
    const first = words[begin]!; // the only look at what says how long the request is
    snapshot[word] = first;
    const count = this.#wordsOf(first);
    for (let i = 1; i < count; i++) snapshot[word + i] = words[begin + i]!;
    this.#requestConsumer = (this.#requestConsumer + 1) | 0;
  }

  /** Of a request with this first word. */
  #wordsOf(first: number): number {
    if ((first & 0xFF) > OP_FLUSH_DISKCACHE) return this.#requestWords;
    const words = this.#headWords + SEGMENT_WORDS * ((first >>> 8) & 0xFF);
    return words < this.#requestWords ? words : this.#requestWords;
  }

  /**
   * Puts the next response: writes id, operation and status, and no other byte of the slot (XSA-216). Call it at most
   * once for each request taken; the frontend sees it after {@linkcode push}.
   */
  putResponse(idLow: number, idHigh: number, operation: number, status: number): void {
    const begin = RING_HEADER_BYTES + (this.#responseProducer & this.#mask) * this.#strideBytes;
    const word = begin >>> 2;
    this.#words[word] = idLow;
    this.#words[word + 1] = idHigh;
    this.#bytes[begin + this.#operationOffset] = operation;
    this.#halves[(begin + this.#statusOffset) >>> 1] = status;
    this.#responseProducer = (this.#responseProducer + 1) | 0;
  }

  /** Publishes the responses put so far. True: notify the frontend, it asked for that. */
  push(): boolean {
    const previous = this.#published;
    const current = this.#responseProducer;
    if (current === previous) return false;
    this.#published = current;
    // Sequentially consistent: responses are visible before rsp_prod, and rsp_prod before rsp_event is read.
    Atomics.store(this.#header, RSP_PROD_WORD, current);
    const event = Atomics.load(this.#header, RSP_EVENT_WORD);
    return indexDifference(current, event) < indexDifference(current, previous);
  }

  /**
   * Before sleeping: asks the frontend to notify us of its next request, and checks again. True: do not sleep, there
   * are requests (or the ring is broken).
   */
  finalCheck(): boolean {
    if (this.unconsumed() !== 0) return true;
    Atomics.store(this.#header, REQ_EVENT_WORD, (this.#requestConsumer + 1) | 0);
    return this.unconsumed() !== 0;
  }

  /** Index of the next request to take (req_cons), a u32. */
  get requestConsumer(): number {
    return this.#requestConsumer >>> 0;
  }

  /** Index of the next response to put (rsp_prod_pvt), a u32. */
  get responseProducer(): number {
    return this.#responseProducer >>> 0;
  }
}
