/**
 * A client of the control socket: calls with a time limit, and events.
 */

import { XenblkError } from "../errors.ts";
import { connectTo } from "./directory.ts";
import { fromErrorObject } from "./errors.ts";
import { LineWriter, readLines } from "./lines.ts";
import type { ClientMessage, ControlEvent, Method, Methods, ServerMessage } from "./protocol.ts";

/** How long a method may take that reads or changes something at once: one may look at images, on a busy machine. */
const ANSWER_MS = 60_000;
/** A process that says nothing for so long is asked whether it still answers at all, and has as long again for that. */
const SILENCE_MS = 5_000;
/** The longest line of a server: the status of some thousand devices. */
const MOST_ANSWER_BYTES = 16 * 1024 * 1024;
const MOST_QUEUED_BYTES = 1024 * 1024;

/** How a method is called. */
export interface CallOptions {
  /**
   * How long the answer may take, in milliseconds. Default: 60 s, and 10 s if the process does not even answer `ping`,
   * as one that is stopped.
   */
  readonly timeoutMs?: number;
  /** Aborting it ends the wait with the signal's reason, and the connection. */
  readonly signal?: AbortSignal;
  /** Gets what the process says about its progress. */
  readonly progress?: (text: string) => void;
}

/** The process has not answered: what it was asked to do may be done, or not. */
export class NoAnswerError extends XenblkError {}

/** The process ended, or closed the connection, before it answered. */
export class ConnectionLostError extends NoAnswerError {}

/** A call that waits for its answer. */
interface Waiting {
  readonly settle: PromiseWithResolvers<unknown>;
  readonly progress: ((text: string) => void) | undefined;
}

/** A connection to one serving process. */
export class ControlClient implements Disposable {
  /** Of the socket. */
  readonly path: string;
  readonly #silenceMs: number;
  readonly #stream: Deno.Conn;
  readonly #writer: LineWriter;
  readonly #waiting = new Map<number, Waiting>();
  readonly #closed = Promise.withResolvers<string>();
  #listener: ((event: ControlEvent) => void) | undefined;
  #lastId = 0;
  #isClosed = false;

  private constructor(path: string, stream: Deno.Conn, silenceMs: number) {
    this.path = path;
    this.#silenceMs = silenceMs;
    this.#stream = stream;
    this.#writer = new LineWriter(stream, MOST_QUEUED_BYTES);
    void this.#read();
  }

  /** Connects. Undefined if nobody listens there any more. Rejects with Deno's errors. */
  static async connect(path: string, silenceMs: number = SILENCE_MS): Promise<ControlClient | undefined> {
    const stream = await connectTo(path);
    return stream === undefined ? undefined : new ControlClient(path, stream, silenceMs);
  }

  /** Resolves with the reason when the connection is closed, by whomever. */
  get closed(): Promise<string> {
    return this.#closed.promise;
  }

  /**
   * Calls a method. Rejects with {@linkcode XenblkError}: that of the process, `timeout` if it does not answer in time,
   * {@linkcode ConnectionLostError} if it ends before.
   */
  async call<M extends Method>(
    method: M,
    params: Methods[M]["params"],
    { timeoutMs, signal, progress }: CallOptions = {},
  ): Promise<Methods[M]["result"]> {
    signal?.throwIfAborted();
    if (this.#isClosed) throw this.#lost(method);
    const id = ++this.#lastId;
    const settle = Promise.withResolvers<unknown>();
    this.#waiting.set(id, { settle, progress });
    const late = (afterMs: number): void => settle.reject(this.#late(method, afterMs));
    using _watch = timeoutMs === undefined ? this.#watch(late) : undefined;
    const timer = setTimeout(late, timeoutMs ?? ANSWER_MS, timeoutMs ?? ANSWER_MS);
    const abort = (): void => settle.reject(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const message: ClientMessage = { jsonrpc: "2.0", id, method, params: { ...params } };
      this.#writer.add(JSON.stringify(message));
      return await settle.promise as Methods[M]["result"];
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      this.#waiting.delete(id);
    }
  }

  /** Calls the listener with each event from now on. Resolves with the devices as they are now. */
  async subscribe(
    params: Methods["subscribe"]["params"],
    listener: (event: ControlEvent) => void,
  ): Promise<Methods["subscribe"]["result"]> {
    this.#listener = listener;
    return await this.call("subscribe", params);
  }

  /** Closes the connection. */
  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#stream.close();
  }

  /** Tells `late` when the process no longer answers, until it is disposed. */
  #watch(late: (afterMs: number) => void): Disposable {
    const silenceMs = this.#silenceMs;
    let timer: ReturnType<typeof setTimeout>;
    let isOver = false;
    const wait = (): void => void (timer = setTimeout(ask, silenceMs));
    const ask = (): void => {
      const answered = (): void => {
        if (!isOver) wait();
      };
      this.call("ping", {}, { timeoutMs: silenceMs }).then(answered, () => late(2 * silenceMs));
    };
    wait();
    return {
      [Symbol.dispose]: () => {
        isOver = true;
        clearTimeout(timer);
      },
    };
  }

  async #read(): Promise<void> {
    let reason = "the process has closed the connection";
    try {
      for await (const line of readLines(this.#stream, MOST_ANSWER_BYTES)) {
        const message = JSON.parse(line) as ServerMessage;
        if ("method" in message && message.method === "event" && message.params.event === "end") {
          reason = message.params.reason;
        }
        this.#take(message);
      }
    } catch { /* closed, here or there, or no process of ours */ }
    this[Symbol.dispose]();
    for (const { settle } of this.#waiting.values()) settle.reject(this.#lost("the request", reason));
    this.#closed.resolve(reason);
  }

  #take(message: ServerMessage): void {
    if ("method" in message) {
      if (message.method === "event") this.#listener?.(message.params);
      else this.#waiting.get(Number(message.params.id))?.progress?.(message.params.text);
      return;
    }
    const waiting = this.#waiting.get(Number(message.id));
    if ("error" in message) waiting?.settle.reject(fromErrorObject(message.error));
    else waiting?.settle.resolve(message.result);
  }

  #late(method: string, timeoutMs: number): NoAnswerError {
    return new NoAnswerError(`Cannot run ${method} on ${this.path}: no answer for ${timeoutMs / 1000} s`, {
      kind: "timeout",
      remedy: "check that the process is not stopped (ps, state T)",
    });
  }

  #lost(method: string, reason = "the connection is closed"): ConnectionLostError {
    return new ConnectionLostError(`Cannot complete ${method} on ${this.path}: ${reason}`, {
      remedy: "see `xenblk list` for what has become of the disk",
    });
  }
}
