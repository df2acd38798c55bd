/**
 * One connection to a vhost-user server: requests and their replies, each within a time limit, and the end of the
 * connection. No call here waits: the socket is read when it is readable.
 */

import { EAGAIN, EINTR } from "../../lib/errno.ts";
import { descriptorWatch } from "../linux/descriptor_watch.ts";
import { errnoText, libc } from "../linux/libc.ts";
import { MessageSender, receive } from "../linux/unix_socket.ts";
import { encodeMessage, NEED_REPLY, quadOf, type Reply, ReplyReader, REQUEST, type RequestName } from "./messages.ts";

const O_CLOEXEC = 0x80000;
const NO_FD = -1;

/** Reads of the socket in one turn of the event loop. */
const MOST_READS_PER_TURN = 4;
const READ_BYTES = 4096;

/** The server did not do what it was asked for. The message is the end of a sentence, such as `it closed the connection`. */
export class VhostUserError extends Error {
  override readonly name = "VhostUserError";
  /** `isFirst`: the connection ended before the first reply, so another try may succeed. */
  constructor(message: string, readonly isFirst = false) {
    super(message);
  }
}

/** A request that is not answered yet. */
interface Pending {
  readonly request: number;
  readonly answer: PromiseWithResolvers<Uint8Array>;
}

/** A connection. It owns its descriptor. */
export class VhostConnection implements Disposable {
  /** Resolves with the reason when the connection ends, unless it was disposed before. */
  readonly lost: Promise<string>;
  readonly #resolveLost: (reason: string) => void;
  readonly #limitMs: number;
  readonly #sender = new MessageSender();
  readonly #replies = new ReplyReader();
  /** In the order of the requests, which is that of the replies. */
  readonly #pending: Pending[] = [];
  readonly #buffer = new Uint8Array(READ_BYTES);
  #fd: number;
  #watch: Disposable;
  #end: string | undefined;
  #acknowledges = false;
  #hasAnswered = false;

  /** `limitMs`: how long a request waits for its reply. */
  constructor(fd: number, limitMs: number) {
    this.#fd = fd;
    this.#limitMs = limitMs;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.lost = promise;
    this.#resolveLost = resolve;
    this.#watch = descriptorWatch().watch(fd, () => this.#receive());
  }

  get fd(): number {
    return this.#fd;
  }

  /** Throws {@linkcode VhostUserError} if the connection has ended. */
  mustLive(): void {
    if (this.#end !== undefined) throw new VhostUserError(this.#end, !this.#hasAnswered);
  }

  /** The server replies to every request from now on, if that is requested (REPLY_ACK). */
  acknowledge(): void {
    this.#acknowledges = true;
  }

  /** Sends a request that has a reply of its own, and resolves with that. Rejects with {@linkcode VhostUserError}. */
  async request(name: RequestName, payload: Uint8Array = new Uint8Array(0)): Promise<Uint8Array> {
    this.#send(name, payload, [], 0);
    return await this.#reply(name);
  }

  /** Sends a request that has none; waits for the acknowledgement, if there are any. Rejects like {@linkcode request}. */
  async tell(name: RequestName, payload: Uint8Array = new Uint8Array(0), fds: readonly number[] = []): Promise<void> {
    this.#send(name, payload, fds, this.#acknowledges ? NEED_REPLY : 0);
    if (!this.#acknowledges) return;
    const status = readAs(name, await this.#reply(name), quadOf);
    if (status !== 0n) throw new VhostUserError(`it refused ${name} (${status})`);
  }

  /**
   * Goes on under the descriptor number of a connection that has ended, so that who knows that number reaches this one.
   */
  moveTo(fd: number): void {
    this.#watch[Symbol.dispose]();
    libc().dup3(this.#fd, fd, O_CLOEXEC);
    libc().close(this.#fd);
    this.#fd = fd;
    this.#watch = descriptorWatch().watch(fd, () => this.#receive());
  }

  /** Ends the connection for a reason; its descriptor stays open until it is disposed. */
  fail(reason: string): void {
    if (this.#end !== undefined) return;
    this.#end = reason;
    this.#watch[Symbol.dispose]();
    const error = new VhostUserError(reason, !this.#hasAnswered);
    for (const { answer } of this.#pending.splice(0)) answer.reject(error);
    this.#resolveLost(reason);
  }

  /** Gives its descriptor up, which stays open; for a connection that has ended. */
  surrender(): number {
    const fd = this.#fd;
    this.#watch[Symbol.dispose]();
    this.#fd = NO_FD;
    return fd;
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
    this.#end ??= "it was closed here";
    for (const { answer } of this.#pending.splice(0)) answer.reject(new VhostUserError(this.#end));
    this.#sender[Symbol.dispose]();
    if (this.#fd !== NO_FD) libc().close(this.#fd);
    this.#fd = NO_FD;
  }

  #send(name: RequestName, payload: Uint8Array, fds: readonly number[], flags: number): void {
    this.mustLive();
    const failure = -this.#sender.send(this.#fd, encodeMessage(REQUEST[name], payload, flags), fds);
    if (failure === 0) return;
    this.fail(failure === EAGAIN ? "it takes no messages" : `it closed the connection (${errnoText(failure)})`);
    throw new VhostUserError(this.#end!, !this.#hasAnswered);
  }

  /** A reply that comes after the limit is dropped: replies have the order of the requests. */
  async #reply(name: RequestName): Promise<Uint8Array> {
    const answer = Promise.withResolvers<Uint8Array>();
    this.#pending.push({ request: REQUEST[name], answer });
    const late = (): void =>
      answer.reject(new VhostUserError(`it has not answered ${name} for ${this.#limitMs / 1000} s`));
    const timer = setTimeout(late, this.#limitMs);
    try {
      return await answer.promise;
    } finally {
      clearTimeout(timer);
    }
  }

  #receive(): void {
    for (let reads = 0; reads < MOST_READS_PER_TURN && this.#end === undefined; reads++) {
      const count = receive(this.#fd, this.#buffer);
      if (count === -EAGAIN || count === -EINTR) return;
      if (count <= 0) return this.fail(count === 0 ? "it closed the connection" : `it is lost (${errnoText(-count)})`);
      try {
        this.#replies.push(this.#buffer.subarray(0, count));
        for (let reply; (reply = this.#replies.take()) !== undefined;) this.#answer(reply);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        this.fail(`it does not follow the protocol: ${error.message}`);
      }
    }
  }

  #answer({ request, payload }: Reply): void {
    this.#hasAnswered = true;
    const next = this.#pending.shift();
    if (next === undefined) throw new RangeError(`a reply to request ${request} that nobody sent`);
    if (next.request === request) return next.answer.resolve(payload);
    this.#pending.unshift(next);
    throw new RangeError(`a reply to request ${request} in place of ${next.request}`);
  }
}

/** Reads a reply's payload. Throws {@linkcode VhostUserError} if it cannot be what it should be. */
export function readAs<T>(name: RequestName, payload: Uint8Array, read: (payload: Uint8Array) => T): T {
  try {
    return read(payload);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new VhostUserError(`it answered ${name} with ${error.message}`);
  }
}
