/**
 * One connection to xenstored: requests and their replies in bounded time, watch events, and the loss of the connection.
 *
 * A request blocks the calling thread until its reply is there, for 1.5 s at most. What takes longer loses the
 * connection, so that a stopped xenstored cannot keep a thread from its signals and timers.
 */

import { EAGAIN, EINTR, EPIPE, errnoName, errnoValue } from "../../lib/errno.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import { errno, errnoText, libc } from "../linux/libc.ts";
import { PollSet } from "../linux/poll.ts";
import { openXenstored } from "./xenstore_place.ts";
import {
  decodeFields,
  decodeText,
  encodeFields,
  encodeRequest,
  MessageBuffer,
  PAYLOAD_MAX_BYTES,
  type StoreMessage,
  XS,
} from "./xenstore_wire.ts";

/** How long a request waits for its reply. Longer than a busy host takes, and short enough for a signal to wait. */
const PATIENCE_MS = 1_500;
/** The same while xenstored is known to be silent: no connection of this thread has had an answer since. */
const SILENT_PATIENCE_MS = 200;
/** Reads of the descriptor in one turn of the event loop: a flood of events must not stop timers and signals. */
const MOST_READS_PER_TURN = 4;

/** What an operation's errno means beyond its name. Others are shown as the C library words them. */
const REASONS: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EINVAL: "not a valid xenstore path or value",
  ENOENT: "there is no such node or domain",
  ENOSPC: "xenstored's quota for this domain is used up",
  E2BIG: "too long for xenstore",
};

/** Errors of a write after which the connection cannot be used. */
const LOSSES = new Set(["EBADF", "EPIPE", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "ETIMEDOUT"]);
/** Request ids are 1 to this; 0 stands for none. */
const LARGEST_ID = 0xFFFF_FFFF;

/** Requests that are sent before their replies are waited for: both fit into the buffers of the socket. */
const MOST_AT_ONCE = 64;

/** Whether xenstored has let a request of this thread wait for too long, and has not answered any since. */
let silent = false;

/** A request: its type, what it does for which path (for errors), and its payload. */
export interface StoreRequest {
  /** One of {@linkcode XS}. */
  readonly type: number;
  /** As in `Cannot read /a`. */
  readonly action: string;
  /** The node that it is about. */
  readonly path: string;
  /** The fields before the last one, each of which ends with a NUL. */
  readonly fields: readonly string[];
  /** What follows them. */
  readonly rest?: string;
}

/** A request, and its number. */
interface SentRequest {
  readonly id: number;
  readonly request: StoreRequest;
}

/** A connection to xenstored. Requests throw {@linkcode XenstoreError}, and TypeError once it is closed. */
export class XenstoreConnection implements Disposable {
  /** Resolves with the reason when the connection is lost; not when it is closed here. */
  readonly lost: Promise<string>;
  readonly #resolveLost: (reason: string) => void;
  readonly #polled: PollSet;
  readonly #received = new MessageBuffer();
  /** Who waits for a reply without blocking, by the number of the request. */
  readonly #awaited = new Map<number, () => void>();
  /** Requests that were posted, and whose replies nobody has waited for. */
  #posted: SentRequest[] = [];
  #onEvent: (path: string, token: string) => void = () => {};
  #fd: number | undefined;
  #lossReason: string | undefined;
  #requestId = 0;

  /** Throws XenblkError of kind `hypervisor` if xenstored cannot be reached. */
  constructor() {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.lost = promise;
    this.#resolveLost = resolve;
    this.#fd = openXenstored(silent ? 0 : PATIENCE_MS);
    // Not before: where xenstored cannot be reached, nothing is left behind.
    this.#polled = new PollSet();
    this.#polled.add(this.#fd);
  }

  /** Neither closed nor lost. */
  get isUsable(): boolean {
    return this.#fd !== undefined && this.#lossReason === undefined;
  }

  /** The descriptor: readable when there is something to {@linkcode drain}. */
  get fd(): number {
    return this.#descriptor("poll", "watches");
  }

  /** Watch events go to `listener`, also those that arrive before the reply to a request. */
  onEvent(listener: (path: string, token: string) => void): void {
    this.#onEvent = listener;
  }

  /** Sends a request and waits for its reply's payload. Throws XenstoreError, also with the errno that xenstored said. */
  request(request: StoreRequest, transaction = 0): Uint8Array {
    this.settle();
    const [reply] = this.#repliesTo([{ id: this.#send(request, transaction), request }]);
    if (reply instanceof XenstoreError) throw reply;
    return reply!;
  }

  /**
   * Sends all requests before it waits, so that xenstored and this thread need not wait for each other each time. Returns
   * the payloads of their replies; in place of one, what {@linkcode request} would throw because xenstored refused it.
   */
  requestAll(requests: readonly StoreRequest[], transaction = 0): (Uint8Array | XenstoreError)[] {
    this.settle();
    const replies: (Uint8Array | XenstoreError)[] = [];
    for (let next = 0; next < requests.length; next += MOST_AT_ONCE) {
      const sent = requests.slice(next, next + MOST_AT_ONCE)
        .map((request) => ({ id: this.#send(request, transaction), request }));
      replies.push(...this.#repliesTo(sent));
    }
    return replies;
  }

  /** Sends a request; the next request, or {@linkcode settle}, throws what xenstored refused it with. */
  post(request: StoreRequest, transaction = 0): void {
    if (this.#posted.length === MOST_AT_ONCE) this.settle();
    this.#posted.push({ id: this.#send(request, transaction), request });
  }

  /** Waits for the replies to what was posted. Throws XenstoreError for the first of them that xenstored refused. */
  settle(): void {
    if (this.#posted.length === 0) return;
    const refusal = this.#repliesTo(this.#posted.splice(0)).find((reply) => reply instanceof XenstoreError);
    if (refusal !== undefined) throw refusal;
  }

  /** What was posted does not matter any more. */
  forgetPosted(): void {
    this.#posted = [];
  }

  /** Sends a request whose reply does not matter, and does not wait for it. Does nothing without a connection. */
  notify(request: StoreRequest, transaction = 0): void {
    if (!this.isUsable) return;
    try {
      this.#send(request, transaction);
    } catch (error) {
      if (!(error instanceof XenstoreError)) throw error;
    }
  }

  /**
   * Resolves when xenstored has answered a harmless question, however long that takes, if somebody drains meanwhile.
   * Never resolves if the connection is lost first.
   */
  answers(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const question = { type: XS.GET_DOMAIN_PATH, action: "reach", path: "xenstored", fields: ["0"] };
    this.#awaited.set(this.#send(question, 0), resolve);
    return promise;
  }

  /** Takes what has arrived, without waiting, a bounded amount at a time. */
  drain(): void {
    for (let reads = 0; reads < MOST_READS_PER_TURN && this.isUsable; reads++) {
      if (!this.#receive()) return;
      this.#takeAll();
    }
  }

  /** Marks the connection as lost, once. Its descriptor stays open until disposal. */
  declareLost(reason: string): void {
    if (!this.isUsable) return;
    this.#lossReason = reason;
    this.#resolveLost(reason);
  }

  [Symbol.dispose](): void {
    if (this.#fd === undefined) return;
    libc().close(this.#fd);
    this.#fd = undefined;
    this.#polled[Symbol.dispose]();
  }

  /** xenstored replies in the order of the requests. */
  #repliesTo(sent: readonly SentRequest[]): (Uint8Array | XenstoreError)[] {
    const patienceMs = silent ? SILENT_PATIENCE_MS : PATIENCE_MS;
    const deadlineMs = performance.now() + patienceMs;
    const replies = sent.map(({ id, request }) => {
      const { type, payload } = this.#replyTo(id, request, patienceMs, deadlineMs);
      return type === XS.ERROR ? this.#refusal(request, decodeText(payload)) : payload;
    });
    this.#takeAll(); // the events behind the last reply
    return replies;
  }

  #replyTo(requestId: number, request: StoreRequest, patienceMs: number, deadlineMs: number): StoreMessage {
    for (;;) {
      const reply = this.#takeAll(requestId, request.type);
      if (reply !== undefined) return reply;
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0) {
        silent = true;
        this.declareLost(`xenstored has not answered for ${patienceMs / 1000} s`);
      }
      if (!this.isUsable) throw this.#disconnected(request);
      this.#polled.wait(leftMs);
      if (this.#polled.isReady(0)) this.#receive();
    }
  }

  /** Returns the number of the request. Throws XenstoreError. */
  #send(request: StoreRequest, transaction: number): number {
    const fd = this.#descriptor(request.action, request.path);
    const { type, fields, rest } = request;
    const payload = encodeFields(fields, rest);
    if (payload.length > PAYLOAD_MAX_BYTES) throw this.#refusal(request, "E2BIG");
    const requestId = this.#requestId = this.#requestId % LARGEST_ID + 1;
    const bytes = encodeRequest(type, requestId, transaction, payload);
    for (let sent = 0; sent < bytes.length;) {
      const count = libc().writeBytes(fd, bytes.subarray(sent), BigInt(bytes.length - sent));
      if (count > 0) sent += count;
      else this.#sendFailed(request, errno());
    }
    return requestId;
  }

  /** Reads once. False if nothing is there or the connection is lost. */
  #receive(): boolean {
    const room = this.#received.room;
    const count = libc().readBytes(this.#fd!, room, BigInt(room.length));
    if (count > 0) {
      silent = false;
      this.#received.filled(count);
      return true;
    }
    const reason = count === 0 ? EPIPE : errno();
    if (reason !== EAGAIN && reason !== EINTR) this.#declareBroken(reason);
    return false;
  }

  /**
   * Takes all messages that are complete, or those up to the reply to `requestId`, which is returned: events go to their
   * watches. The kernel's device answers requests for watches itself, with the number 0.
   */
  #takeAll(requestId?: number, type?: number): StoreMessage | undefined {
    try {
      for (let message; (message = this.#received.take()) !== undefined;) {
        if (message.type === XS.WATCH_EVENT) {
          const [path = "", token = ""] = decodeFields(message.payload);
          this.#onEvent(path, token);
        } else if (message.requestId === requestId || (message.requestId === 0 && message.type === type)) {
          return message;
        } else this.#answered(message.requestId);
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.declareLost(`xenstored does not follow its protocol: ${error.message}`);
    }
    return undefined;
  }

  #answered(requestId: number): void {
    this.#awaited.get(requestId)?.();
    this.#awaited.delete(requestId);
  }

  /**
   * A write failed: tries again after EINTR. Throws XenstoreError: the connection is lost, or the kernel's device has
   * refused the request.
   */
  #sendFailed(request: StoreRequest, reason: number): void {
    if (reason === EINTR) return;
    const name = errnoName(reason);
    if (reason === EAGAIN) this.declareLost("xenstored takes no more requests");
    else if (LOSSES.has(name)) this.#declareBroken(reason);
    else throw this.#refusal(request, name);
    throw this.#disconnected(request);
  }

  #declareBroken(reason: number): void {
    const name = errnoName(reason);
    const closed = name === "EPIPE" || name === "ECONNRESET";
    this.declareLost(closed ? "xenstored closed the connection" : `the connection to xenstored is lost (${name})`);
  }

  #descriptor(action: string, path: string): number {
    if (this.#lossReason !== undefined) throw this.#disconnected({ action, path });
    if (this.#fd === undefined) throw new TypeError(`Cannot ${action} ${path}: the connection is closed`);
    return this.#fd;
  }

  #disconnected({ action, path }: Pick<StoreRequest, "action" | "path">): XenstoreError {
    return new XenstoreError(`Cannot ${action} ${path}: ${this.#lossReason}`, "EDISCONNECTED", path);
  }

  /** xenstored refused the request with an errno, by its name. */
  #refusal({ type, action, path }: StoreRequest, name: string): XenstoreError {
    const value = errnoValue(name);
    const watches = type === XS.WATCH && name === "E2BIG";
    const reason = watches ? "xenstored allows this domain no more watches" : REASONS[name];
    const text = reason ?? (value === undefined ? name : errnoText(value));
    return new XenstoreError(`Cannot ${action} ${path}: ${text}`, name, path);
  }
}
