/**
 * A connection to a vhost-user-blk export after its handshake: what the export offers, and the steps that share memory
 * with it and start and stop its virtqueues.
 */

import { unlessAborted } from "../../lib/abort.ts";
import { EAGAIN, ERRNO } from "../../lib/errno.ts";
import { descriptorWatch } from "../linux/descriptor_watch.ts";
import { createEventfd } from "../linux/eventfd.ts";
import { errnoText, libc } from "../linux/libc.ts";
import type { SharedMemory } from "../linux/shared_memory.ts";
import { connectUnixItself, receive, unixPair } from "../linux/unix_socket.ts";
import { CONFIG_BYTES, type ExportFacts, FEATURE, FEATURES, readConfig, WCE_AT } from "./config.ts";
import { readAs, VhostConnection, VhostUserError } from "./connection.ts";
import { AVAIL_AT, BASE_ADDRESS, DESCRIPTORS_AT, QUEUE_SIZE, USED_AT } from "./layout.ts";
import { joined, PROTOCOL_F, quadOf, quads, words } from "./messages.ts";

/** How long the client waits. */
export interface VhostPatience {
  /** For the reply to one request. */
  readonly answerMs: number;
  /** For an export that has another client, or has just lost one, to accept a connection. */
  readonly busyMs: number;
}

/** Between two tries to connect. */
const RETRY_MS = 20;

/** The config field `wce` (virtio_blk.h): whether writes are cached until a flush. */
const WCE = { writeThrough: 0, writeBack: 1 } as const;
/** The flags of SET_CONFIG: a writable field (VHOST_SET_CONFIG_TYPE_FRONTEND). */
const SET_BY_FRONTEND = 0;

/** What is asked for. */
export interface SessionOptions {
  readonly socket: string;
  readonly readOnly: boolean;
  readonly queues: number;
  /** A completed write is durable; an export without CONFIG_WCE does as it was made. */
  readonly writeThrough?: boolean;
  readonly signal?: AbortSignal;
}

/** A connection whose handshake is over. Disposing it ends the connection. */
export class VhostSession implements Disposable {
  readonly connection: VhostConnection;
  readonly #options: SessionOptions;
  readonly #features: bigint;
  readonly #owned: DisposableStack;
  readonly #errorFd: number;

  /** Connects, again and again for a while if the export has another client. Rejects with {@linkcode VhostUserError}. */
  static async open(options: SessionOptions, patience: VhostPatience): Promise<VhostSession> {
    const deadlineMs = performance.now() + patience.busyMs;
    for (;;) {
      options.signal?.throwIfAborted();
      try {
        return await openOnce(options, patience);
      } catch (error) {
        if (!(error instanceof VhostUserError && error.isFirst) || performance.now() >= deadlineMs) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** `owned` has the connection. */
  constructor(connection: VhostConnection, options: SessionOptions, features: bigint, owned: DisposableStack) {
    this.connection = connection;
    this.#options = options;
    this.#features = features;
    this.#errorFd = createEventfd();
    owned.defer(() => void libc().close(this.#errorFd));
    owned.use(
      descriptorWatch().watch(this.#errorFd, () => connection.fail("it reports an error of a virtqueue")),
    );
    this.#owned = owned;
  }

  /** Reads the config space. Rejects with {@linkcode VhostUserError}. */
  async readConfig(): Promise<ExportFacts> {
    const asked = joined(words(0, CONFIG_BYTES, SET_BY_FRONTEND), new Uint8Array(CONFIG_BYTES));
    const payload = await this.connection.request("getConfig", asked);
    const header = asked.length - CONFIG_BYTES;
    return readAs(
      "getConfig",
      payload,
      () => readConfig(payload.subarray(header), this.#features, this.#options.readOnly),
    );
  }

  /** The server maps all of the memory. Rejects with {@linkcode VhostUserError}. */
  async share({ fd, lengthBytes }: SharedMemory): Promise<void> {
    const base = BigInt(BASE_ADDRESS);
    const region = quads(base, BigInt(lengthBytes), base, 0n);
    await this.connection.tell("setMemTable", joined(words(1, 0), region), [fd]);
  }

  /** Starts a virtqueue whose zeroed rings lie at that offset of the memory. Rejects with {@linkcode VhostUserError}. */
  async startQueue(queue: number, offset: number, kickFd: number, callFd: number): Promise<void> {
    const { connection } = this;
    const at = (part: number): bigint => BigInt(BASE_ADDRESS + offset + part);
    await connection.tell("setVringNum", words(queue, QUEUE_SIZE));
    await connection.tell("setVringBase", words(queue, 0));
    const addresses = quads(at(DESCRIPTORS_AT), at(USED_AT), at(AVAIL_AT), 0n);
    await connection.tell("setVringAddr", joined(words(queue, 0), addresses));
    await connection.tell("setVringErr", quads(BigInt(queue)), [this.#errorFd]);
    await connection.tell("setVringCall", quads(BigInt(queue)), [callFd]);
    await connection.tell("setVringKick", quads(BigInt(queue)), [kickFd]);
    await connection.tell("setVringEnable", words(queue, 1));
  }

  /** Stops a virtqueue that has nothing in flight: the server then does not touch its rings. Rejects like the others. */
  async stopQueue(queue: number): Promise<void> {
    const payload = await this.connection.request("getVringBase", words(queue, 0));
    if (payload.length !== 8) throw new VhostUserError(`it answered getVringBase with ${payload.length} bytes`);
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

async function openOnce(options: SessionOptions, patience: VhostPatience): Promise<VhostSession> {
  const { socket, signal } = options;
  const opening = connectUnixItself(socket);
  if ("errno" in opening) {
    const isBusy = opening.errno === EAGAIN || opening.errno === ERRNO.ECONNREFUSED;
    throw new VhostUserError(`${socket}: ${errnoText(opening.errno)}`, isBusy);
  }
  using undo = new DisposableStack();
  const connection = undo.use(new VhostConnection(opening.fd, patience.answerMs));
  const features = await unlessAborted(shakeHands(connection, options, undo), signal);
  return new VhostSession(connection, options, features, undo.move());
}

/** Negotiates features. Resolves with those that the server offers. */
async function shakeHands(
  connection: VhostConnection,
  { queues, writeThrough }: SessionOptions,
  owned: DisposableStack,
): Promise<bigint> {
  const ask = async (name: "getFeatures" | "getProtocolFeatures" | "getQueueNum"): Promise<bigint> =>
    readAs(name, await connection.request(name), quadOf);
  const features = await ask("getFeatures");
  demand(features, { version1: FEATURE.version1, eventIdx: FEATURE.eventIdx, protocol: FEATURE.protocolFeatures });
  const offered = await ask("getProtocolFeatures");
  demand(offered, { config: PROTOCOL_F.config });
  const chosen = offered & Object.values(PROTOCOL_F).reduce((all, bit) => all | bit, 0n);
  await connection.tell("setProtocolFeatures", quads(chosen));
  if ((chosen & PROTOCOL_F.replyAck) !== 0n) connection.acknowledge();
  await connection.tell("setOwner");
  await connection.tell("setFeatures", quads(features & FEATURES));
  const most = (chosen & PROTOCOL_F.mq) === 0n ? 1n : await ask("getQueueNum");
  if (most < queues) throw new VhostUserError(`it has ${most} virtqueues, and ${queues} are needed`);
  if ((chosen & PROTOCOL_F.backendReq) !== 0n) await openBackendChannel(connection, owned);
  if ((features & FEATURE.configWce) !== 0n) {
    const wce = writeThrough === true ? WCE.writeThrough : WCE.writeBack;
    await connection.tell("setConfig", joined(words(WCE_AT, 1, SET_BY_FRONTEND), Uint8Array.of(wce)));
  }
  return features;
}

function demand(offered: bigint, needed: Readonly<Record<string, bigint>>): void {
  const missing = Object.entries(needed).filter(([, bit]) => (offered & bit) === 0n).map(([name]) => name);
  if (missing.length > 0) throw new VhostUserError(`it lacks the features ${missing.join(", ")}`);
}

/**
 * The server's way to report changes of the config space: newer versions of QEMU do so when the disk is resized, and give
 * the connection up if they cannot. What they report is dropped: who resizes a disk reads the config space again.
 */
async function openBackendChannel(connection: VhostConnection, owned: DisposableStack): Promise<void> {
  const pair = unixPair();
  if ("errno" in pair) throw new VhostUserError(`no socket can be made: ${errnoText(pair.errno)}`);
  const [ours, theirs] = pair.fds;
  using _theirs = { [Symbol.dispose]: (): void => void libc().close(theirs) };
  owned.defer(() => void libc().close(ours));
  const dropped = new Uint8Array(1024);
  const watch = owned.use(
    descriptorWatch().watch(ours, () => {
      if (receive(ours, dropped) === 0) watch[Symbol.dispose]();
    }),
  );
  await connection.tell("setBackendReqFd", new Uint8Array(0), [theirs]);
}
