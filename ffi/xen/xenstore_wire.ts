/**
 * The messages between xenstored and its clients, by xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt of Xen
 * 4.17: a header of four 32-bit words (type, request id, transaction id, length), then at most 4096 bytes.
 */

/** The message types of enum xsd_sockmsg_type that are used here. */
export const XS = {
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  TRANSACTION_START: 6,
  TRANSACTION_END: 7,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  WATCH_EVENT: 15,
  ERROR: 16,
  IS_DOMAIN_INTRODUCED: 17,
  DIRECTORY_PART: 22,
} as const;

/** sizeof(struct xsd_sockmsg). */
const HEADER_BYTES = 16;
/** XENSTORE_PAYLOAD_MAX: bytes after the header. */
export const PAYLOAD_MAX_BYTES = 4096;

/** A message from xenstored. */
export interface StoreMessage {
  /** One of {@linkcode XS}, or a type that is not used here. */
  readonly type: number;
  /** The number of the request that it answers; means nothing in an event. */
  readonly requestId: number;
  /** A copy. */
  readonly payload: Uint8Array;
}

const encoder = new TextEncoder();
/** Bytes that are not UTF-8 (a guest can write any) become U+FFFD. */
const decoder = new TextDecoder();

/** A request's message. Throws RangeError if the payload is too long for one. */
export function encodeRequest(
  type: number,
  requestId: number,
  transaction: number,
  payload: Uint8Array,
): Uint8Array<ArrayBuffer> {
  if (payload.length > PAYLOAD_MAX_BYTES) throw new RangeError("Cannot send a request: it is longer than a message");
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  new Uint32Array(bytes.buffer, 0, 4).set([type, requestId, transaction, payload.length]);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Each text followed by a NUL, then bytes without one. */
export function encodeFields(texts: readonly string[], rest = ""): Uint8Array {
  return encoder.encode(texts.map((text) => `${text}\0`).join("") + rest);
}

/** The text of a reply, without the NUL at its end if there is one. */
export function decodeText(payload: Uint8Array): string {
  const end = payload.at(-1) === 0 ? payload.length - 1 : payload.length;
  return decoder.decode(payload.subarray(0, end));
}

/** The texts of a reply in which each is followed by a NUL. */
export function decodeFields(payload: Uint8Array): string[] {
  return payload.length === 0 ? [] : decodeText(payload).split("\0");
}

/** What xenstored has sent and nobody has taken: bytes come in pieces, messages go out whole. */
export class MessageBuffer {
  readonly #bytes = new Uint8Array(4 * (HEADER_BYTES + PAYLOAD_MAX_BYTES));
  readonly #words = new DataView(this.#bytes.buffer);
  #start = 0;
  #end = 0;

  /** Where the next bytes go; never empty after {@linkcode take} has returned undefined. */
  get room(): Uint8Array<ArrayBuffer> {
    if (this.#start > 0) {
      this.#bytes.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    return this.#bytes.subarray(this.#end);
  }

  /** So many bytes were put into {@linkcode room}. */
  filled(count: number): void {
    this.#end += count;
  }

  /** The next message, or undefined if it has not arrived completely. Throws RangeError if its length is impossible. */
  take(): StoreMessage | undefined {
    if (this.#end - this.#start < HEADER_BYTES) return undefined;
    const word = (index: number): number => this.#words.getUint32(this.#start + 4 * index, true);
    const [type, requestId, length] = [word(0), word(1), word(3)];
    if (length > PAYLOAD_MAX_BYTES) throw new RangeError(`a message of ${length} bytes`);
    const first = this.#start + HEADER_BYTES;
    if (this.#end < first + length) return undefined;
    this.#start = first + length;
    return { type, requestId, payload: this.#bytes.slice(first, first + length) };
  }
}
