/**
 * The messages of the vhost-user protocol (QEMU: docs/interop/vhost-user.rst; structures of Linux's vhost_types.h): a
 * header of three 32-bit words (request, flags, size), then the payload. Everything is in the machine's byte order, which
 * is little-endian on all machines that this project runs on.
 */

/** The requests that are used here, by their numbers. */
export const REQUEST = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  setMemTable: 5,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  setBackendReqFd: 21,
  getConfig: 24,
  setConfig: 25,
} as const;

/** A request's name, for people. */
export type RequestName = keyof typeof REQUEST;

/** Bits of the protocol features. */
export const PROTOCOL_F = { mq: 1n << 0n, replyAck: 1n << 3n, backendReq: 1n << 5n, config: 1n << 9n } as const;

const HEADER_BYTES = 12;
/** A header's flags: the version of the protocol, a reply, and a reply requested where there would be none. */
const VERSION = 1;
const VERSION_MASK = 3;
const REPLY = 4;
export const NEED_REPLY = 8;
/** No message that is expected here is larger. */
const MOST_PAYLOAD_BYTES = 512;

/** A reply. */
export interface Reply {
  readonly request: number;
  readonly payload: Uint8Array;
}

/** A message with that payload. */
export function encodeMessage(request: number, payload: Uint8Array, flags = 0): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  message.set(words(request, VERSION | flags, payload.length));
  message.set(payload, HEADER_BYTES);
  return message;
}

/** A payload of 32-bit words. */
export function words(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** A payload of 64-bit words. */
export function quads(...values: readonly bigint[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values).buffer);
}

/** A payload of both. */
export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Reads a 64-bit payload. Throws RangeError if it has another size. */
export function quadOf({ length, buffer, byteOffset }: Uint8Array): bigint {
  if (length !== 8) throw new RangeError(`a number of ${length} bytes in place of 8`);
  return new DataView(buffer, byteOffset).getBigUint64(0, true);
}

/** Puts replies together as their bytes arrive. */
export class ReplyReader {
  #bytes = new Uint8Array(0);

  /** More bytes. */
  push(bytes: Uint8Array): void {
    this.#bytes = new Uint8Array([...this.#bytes, ...bytes]);
  }

  /** The next reply that is complete. Throws RangeError if what has arrived is none. */
  take(): Reply | undefined {
    if (this.#bytes.length < HEADER_BYTES) return undefined;
    const view = new DataView(this.#bytes.buffer);
    const [request, flags, size] = [0, 4, 8].map((at) => view.getUint32(at, true)) as [number, number, number];
    if ((flags & VERSION_MASK) !== VERSION || (flags & REPLY) === 0) {
      throw new RangeError(`a message with flags 0x${flags.toString(16)} in place of a reply`);
    }
    if (size > MOST_PAYLOAD_BYTES) throw new RangeError(`a reply of ${size} bytes`);
    if (this.#bytes.length < HEADER_BYTES + size) return undefined;
    const payload = this.#bytes.slice(HEADER_BYTES, HEADER_BYTES + size);
    this.#bytes = this.#bytes.slice(HEADER_BYTES + size);
    return { request, payload };
  }
}
