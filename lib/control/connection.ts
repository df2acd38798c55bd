/**
 * One client of the control socket: takes its requests, a bounded number at a time, and gives it answers and events. A
 * client that sends junk or does not read only loses its own connection.
 */

import { errorText } from "../errors.ts";
import type { LogLevel } from "../log.ts";
import { endsWithin } from "../within.ts";
import { errorObject, ProtocolError } from "./errors.ts";
import { LineTooLongError, LineWriter, readLines } from "./lines.ts";
import { type ControlEvent, MOST_REQUEST_BYTES, type RequestId, type ServerMessage } from "./protocol.ts";

/** Requests of one client that are carried out at the same time. */
const MOST_CALLS = 16;
/** A client that has not read so much gets no more events, and no answer that would come on top. */
const MOST_QUEUED_BYTES = 4 * 1024 * 1024;
/** How long a client may take to read the last line. */
const LAST_WORDS_MS = 1_000;

/** What a method gets beside its parameters. */
export interface Call {
  /** Aborts when the client has closed its connection, or the process ends. */
  readonly signal: AbortSignal;
  /** Tells the client how far its request is. */
  progress(text: string): void;
  /** The client wants events, and log lines from this level on. */
  subscribe(log: LogLevel | undefined): void;
}

/** Carries out a method and resolves with its result. */
export type Handler = (params: Readonly<Record<string, unknown>>, call: Call) => unknown;

/** What a connection needs of its server. */
export interface ConnectionParts {
  readonly stream: Deno.Conn;
  /** Undefined: there is no such method. */
  readonly handler: (method: string) => Handler | undefined;
  /** The client has subscribed. Disposing the result ends that. */
  readonly subscribed: (log: LogLevel | undefined, send: (event: ControlEvent) => void) => Disposable;
}

/** A connection, from its first line to its end. */
export class ControlConnection {
  readonly #parts: ConnectionParts;
  readonly #writer: LineWriter;
  readonly #over = new AbortController();
  readonly #calls = new Set<Promise<void>>();
  #subscription: Disposable | undefined;

  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    this.#writer = new LineWriter(parts.stream, MOST_QUEUED_BYTES);
    void this.#writer.broken.then(() => this.#hangUp());
  }

  /** Resolves when the connection is closed. Never rejects. */
  async run(): Promise<void> {
    try {
      for await (const line of readLines(this.#parts.stream, MOST_REQUEST_BYTES)) {
        if (this.#over.signal.aborted) break;
        await this.#take(line);
      }
    } catch (error) {
      if (error instanceof LineTooLongError) this.#refuse(`the line is longer than ${MOST_REQUEST_BYTES} bytes`);
      // Otherwise it was closed, here or there.
    }
    this.#stop("the client has closed the connection");
    await Promise.all(this.#calls);
    await this.#finish();
  }

  /** Says why, once what is being answered is, and closes. */
  async close(reason: string): Promise<void> {
    this.#stop(reason);
    await Promise.all(this.#calls);
    this.#bye(reason);
    await this.#finish();
  }

  /** Closes the stream once it has the last line. */
  async #finish(): Promise<void> {
    await endsWithin(this.#writer.drained, LAST_WORDS_MS);
    this.#writer.end();
    this.#hangUp();
  }

  #stop(reason: string): void {
    this.#subscription?.[Symbol.dispose]();
    this.#subscription = undefined;
    if (!this.#over.signal.aborted) this.#over.abort(new DOMException(reason, "AbortError"));
  }

  #bye(reason: string): void {
    const end = { event: "end", time: new Date().toISOString(), reason } as const;
    this.#writer.end(lineOf({ jsonrpc: "2.0", method: "event", params: end }));
  }

  #hangUp(): void {
    this.#stop("the connection is lost");
    try {
      this.#parts.stream.close();
    } catch { /* it is closed already */ }
  }

  /** Begins one request. Resolves when the next one may be read: the client has to read its answers. */
  async #take(line: string): Promise<void> {
    if (line.trim() === "") return;
    const call = this.#answer(line).finally(() => this.#calls.delete(call));
    this.#calls.add(call);
    await this.#writer.drained;
    while (this.#calls.size >= MOST_CALLS && !this.#over.signal.aborted) await Promise.race(this.#calls);
  }

  async #answer(line: string): Promise<void> {
    let id: RequestId = null;
    try {
      const request = parseRequest(line);
      id = request.id ?? null;
      const handler = this.#parts.handler(request.method);
      if (handler === undefined) throw new ProtocolError("method", `Cannot run ${request.method}: no such method`);
      const result = await handler(request.params, this.#callOf(id));
      // A notification, which has no id, gets no answer.
      if (request.id !== undefined) this.#send({ jsonrpc: "2.0", id, result });
    } catch (error) {
      this.#send({ jsonrpc: "2.0", id: error instanceof BadRequest ? error.id : id, error: errorObject(error) });
    }
  }

  #callOf(id: RequestId): Call {
    return {
      signal: this.#over.signal,
      progress: (text) => this.#send({ jsonrpc: "2.0", method: "progress", params: { id, text } }),
      subscribe: (log) => {
        this.#subscription?.[Symbol.dispose]();
        const send = (params: ControlEvent): void => this.#send({ jsonrpc: "2.0", method: "event", params });
        this.#subscription = this.#over.signal.aborted ? undefined : this.#parts.subscribed(log, send);
      },
    };
  }

  #send(message: ServerMessage): void {
    if (this.#writer.add(lineOf(message))) return;
    this.#stop("the client does not read");
    this.#bye("the client does not read");
    void this.#finish();
  }

  #refuse(why: string): void {
    const error = errorObject(new ProtocolError("request", `Cannot read the request: ${why}`));
    this.#send({ jsonrpc: "2.0", id: null, error });
  }
}

/** A request that is one, but not valid. */
class BadRequest extends ProtocolError {
  constructor(readonly id: RequestId, message: string) {
    super("request", message);
  }
}

/** A request. A notification has no id. */
interface Request {
  readonly id: RequestId | undefined;
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** Throws {@linkcode ProtocolError}. */
function parseRequest(line: string): Request {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch (error) {
    throw new ProtocolError("parse", `Cannot read the request: ${errorText(error)}`);
  }
  if (!isRecord(message)) throw new ProtocolError("request", "Cannot read the request: it is not one JSON object");
  const { jsonrpc, id, method, params = {} } = message;
  if (id !== undefined && id !== null && typeof id !== "string" && typeof id !== "number") {
    throw new ProtocolError("request", "Cannot read the request: its id is neither a text nor a number");
  }
  if (jsonrpc !== "2.0") throw new BadRequest(id ?? null, 'Cannot read the request: it has no "jsonrpc":"2.0"');
  if (typeof method !== "string") throw new BadRequest(id ?? null, "Cannot read the request: it names no method");
  if (!isRecord(params)) throw new BadRequest(id ?? null, "Cannot read the request: its params are not an object");
  return { id, method, params };
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function lineOf(message: ServerMessage): string {
  return JSON.stringify(message);
}
