/**
 * A vhost-user-blk server that a test plays: it answers as a storage daemon would, except where the test says otherwise,
 * and touches no memory. No test is in here.
 */

import { FEATURES, WCE_AT } from "../../../ffi/vhost/config.ts";
import { quads, REQUEST, type RequestName, words } from "../../../ffi/vhost/messages.ts";

/** What is sent in reply to a request: a payload, or the bytes of a whole message; `close` ends the connection. */
export type Answer = { readonly payload: Uint8Array } | { readonly bytes: Uint8Array } | "close" | "nothing";

/** How some requests are answered. */
export type Answers = Readonly<Partial<Record<RequestName, (payload: Uint8Array) => Answer>>>;

const HEADER_BYTES = 12;
const REPLY = 5;
const NEED_REPLY = 8;
const SECTORS = 2048n;

/** The config space of a disk of 1 MiB. */
export function plainConfig(change: (view: DataView) => void = () => {}): Uint8Array {
  const config = new Uint8Array(60);
  const view = new DataView(config.buffer);
  view.setBigUint64(0, SECTORS, true);
  view.setUint32(12, 126, true); // seg_max
  view.setUint32(20, 512, true); // blk_size
  view.setUint8(WCE_AT, 1);
  view.setUint32(36, 32_768, true); // max_discard_sectors
  view.setUint32(44, 1, true); // discard_sector_alignment
  change(view);
  return config;
}

/** A reply's payload for a config space. */
export function configReply(config: Uint8Array): Answer {
  return { payload: Uint8Array.from([...words(0, config.length, 0), ...config]) };
}

/** Serves any number of clients, one after the other, until it is disposed. */
export class FakeServer implements AsyncDisposable {
  /** The requests that have arrived. */
  readonly requests: string[] = [];
  readonly #listener: Deno.UnixListener;
  readonly #answers: Answers;
  readonly #connections = new Set<Deno.Conn>();
  readonly #served: Promise<void>;

  constructor(readonly socket: string, answers: Answers = {}) {
    this.#answers = answers;
    this.#listener = Deno.listen({ transport: "unix", path: socket });
    this.#served = this.#serve();
  }

  /** Sends bytes that nobody has asked for to all clients. */
  async say(bytes: Uint8Array): Promise<void> {
    for (const connection of this.#connections) await connection.write(bytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
    await this.#served;
  }

  async #serve(): Promise<void> {
    const clients: Promise<void>[] = [];
    for await (const connection of this.#listener) {
      this.#connections.add(connection);
      clients.push(this.#converse(connection).catch(() => {}));
    }
    await Promise.all(clients);
  }

  async #converse(connection: Deno.Conn): Promise<void> {
    for (;;) {
      const header = await readExactly(connection, HEADER_BYTES);
      if (header === undefined) break;
      const [request, flags, size] = [...new Uint32Array(header.buffer)] as [number, number, number];
      const payload = await readExactly(connection, size) ?? new Uint8Array(0);
      const name = Object.entries(REQUEST).find(([, number]) => number === request)![0] as RequestName;
      this.requests.push(name);
      const answer = this.#answers[name]?.(payload) ?? ordinary(name, payload, (flags & NEED_REPLY) !== 0);
      if (answer === "close") break;
      if (answer === "nothing") continue;
      await connection.write("bytes" in answer ? answer.bytes : message(request, answer.payload));
    }
    if (this.#connections.delete(connection)) connection.close();
  }
}

/** A reply message. */
export function message(request: number, payload: Uint8Array, flags = REPLY): Uint8Array {
  return Uint8Array.from([...words(request, flags, payload.length), ...payload]);
}

function ordinary(name: RequestName, payload: Uint8Array, needsReply: boolean): Answer {
  switch (name) {
    case "getFeatures":
      return { payload: quads(FEATURES & ~(1n << 5n)) };
    case "getProtocolFeatures":
      return { payload: quads(0b10_0010_1001n) };
    case "getQueueNum":
      return { payload: quads(4n) };
    case "getConfig":
      return configReply(plainConfig());
    case "getVringBase":
      return { payload };
    default:
      return needsReply ? { payload: quads(0n) } : "nothing";
  }
}

async function readExactly(connection: Deno.Conn, lengthBytes: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const bytes = new Uint8Array(lengthBytes);
  for (let filled = 0; filled < lengthBytes;) {
    const count = await connection.read(bytes.subarray(filled));
    if (count === null) return undefined;
    filled += count;
  }
  return bytes;
}
