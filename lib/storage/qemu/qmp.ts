/**
 * A client of QMP, QEMU's monitor protocol (QEMU: docs/interop/qmp-spec.txt): one JSON object a line, over a Unix socket.
 * Nothing here waits without a limit: a daemon that is stopped costs its callers an error, and no other.
 */

import { XenblkError } from "../../errors.ts";
import { QmpAbsentError, QmpSilentError } from "./silence.ts";
import { printable } from "../../log.ts";

/** How long a daemon may take to answer a request. */
const REQUEST_MS = 10_000;
/** The longest line that is accepted, in bytes. A list of a thousand nodes is below it. */
const LONGEST_LINE = 4 << 20;
/** Most of a line that a message quotes. */
const QUOTED_CHARACTERS = 80;

/** What a request returns, or an event carries: the schema is QEMU's qapi. */
export type QmpObject = Readonly<Record<string, unknown>>;

/** A daemon refused a request. */
export class QmpError extends XenblkError {
  /**
   * `errorClass` and `description` are QEMU's: `GenericError`, `Failed to get "write" lock`. `subject` is the node,
   * export or object that the request was about.
   */
  constructor(
    readonly command: string,
    readonly subject: string | undefined,
    readonly errorClass: string,
    readonly description: string,
  ) {
    super(`${command}${subject === undefined ? "" : ` of ${subject}`}: ${description}`);
  }
}

/** How to connect. */
export interface QmpOptions {
  /** For messages: `the storage daemon of domain 5 (process 812)`. */
  readonly name: string;
  /** For each request that names no other limit. Default 10 s. */
  readonly requestMs?: number;
  /** Gets each event: its name, as in QEMU's qapi, and its data. Must not throw. */
  readonly event?: (name: string, data: QmpObject) => void;
}

/** A request that was sent. */
interface Pending {
  readonly command: string;
  readonly subject: string | undefined;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: XenblkError) => void;
}

/** One connection to a daemon, after its greeting. Requests can be in flight at the same time. */
export class QmpConnection implements Disposable {
  /** Resolves, never rejects, with the reason when the connection ends. */
  readonly closed: Promise<string>;
  readonly #connection: Deno.UnixConn;
  readonly #options: QmpOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #ended = Promise.withResolvers<string>();
  readonly #greeted = Promise.withResolvers<void>();
  #writing: Promise<unknown> = Promise.resolve();
  #nextId = 1;
  #over: string | undefined;

  private constructor(connection: Deno.UnixConn, options: QmpOptions) {
    this.#connection = connection;
    this.#options = options;
    this.closed = this.#ended.promise;
    this.#greeted.promise.catch(() => {});
    void this.#read();
  }

  /**
   * Connects, waits for the greeting and negotiates capabilities. Rejects with {@linkcode QmpSilentError}, and with
   * {@linkcode QmpAbsentError} if nothing listens at the path.
   */
  static async open(
    path: string,
    options: QmpOptions,
    timeoutMs: number = options.requestMs ?? REQUEST_MS,
  ): Promise<QmpConnection> {
    const connecting = connectItself(path);
    const connected = await within(connecting, timeoutMs).catch((error) => {
      throw new QmpAbsentError(`Cannot reach ${options.name}: its socket ${path}: ${error.message}`, {
        cause: error,
        remedy: "find out what has removed the socket; killing the process loses what the guest has not flushed",
      });
    });
    if (connected === undefined) {
      connecting.then((late) => late.close(), () => {});
      throw silent(options.name, `it has not accepted a connection for ${timeoutMs / 1000} s`);
    }
    const qmp = new QmpConnection(connected, options);
    try {
      if (await within(qmp.#greeted.promise.then(() => true), timeoutMs) === undefined) {
        throw silent(options.name, `it has not greeted for ${timeoutMs / 1000} s`);
      }
      await qmp.execute("qmp_capabilities", undefined, timeoutMs);
    } catch (error) {
      qmp[Symbol.dispose]();
      throw error;
    }
    return qmp;
  }

  /**
   * Sends a request and resolves with what it returns. Rejects with {@linkcode QmpError} if the daemon refuses, and with
   * {@linkcode QmpSilentError} if it does not answer; the daemon may then still carry the request out.
   */
  async execute(command: string, args?: QmpObject, timeoutMs?: number): Promise<unknown> {
    const { name, requestMs = REQUEST_MS } = this.#options;
    if (this.#over !== undefined) throw silent(name, this.#over);
    const limitMs = timeoutMs ?? requestMs;
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(
      () => reject(silent(name, `it has not answered ${command} for ${limitMs / 1000} s`)),
      limitMs,
    );
    const subject = args?.["node-name"] ?? args?.id;
    this.#pending.set(id, { command, subject: subject === undefined ? subject : `${subject}`, resolve, reject });
    this.#send({ execute: command, ...(args === undefined ? {} : { arguments: args }), id });
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#pending.delete(id);
    }
  }

  /** Ends the connection; requests in flight fail. */
  [Symbol.dispose](): void {
    this.#end("this process closed the connection");
  }

  /** Requests go out whole and in order, also when the socket takes only a part. */
  #send(request: QmpObject): void {
    const bytes = new TextEncoder().encode(`${JSON.stringify(request)}\n`);
    this.#writing = this.#writing.then(async () => {
      for (let sent = 0; sent < bytes.length && this.#over === undefined;) {
        sent += await this.#connection.write(bytes.subarray(sent));
      }
    }).catch((error) => this.#end(`the connection to it broke: ${(error as Error).message}`));
  }

  async #read(): Promise<void> {
    const bytes = new Uint8Array(64 << 10);
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for (;;) {
        const length = await this.#connection.read(bytes);
        if (length === null) return this.#end("it ended the connection");
        const lines = (rest + decoder.decode(bytes.subarray(0, length), { stream: true })).split("\n");
        rest = lines.pop()!;
        for (const line of lines) this.#take(line);
        if (rest.length > LONGEST_LINE) return this.#end(`it sent a line of more than ${LONGEST_LINE} characters`);
      }
    } catch (error) {
      this.#end(`the connection to it broke: ${(error as Error).message}`);
    }
  }

  #take(line: string): void {
    if (line.trim() === "" || this.#over !== undefined) return;
    const message = parseObject(line);
    if (message === undefined) {
      return this.#end(`it sent something else than QMP: ${printable(line.slice(0, QUOTED_CHARACTERS))}`);
    }
    if ("QMP" in message) return this.#greeted.resolve();
    if (typeof message.event === "string") {
      return this.#options.event?.(message.event, (message.data ?? {}) as QmpObject);
    }
    const pending = this.#pending.get(message.id as number);
    if (pending === undefined) return; // an answer that came too late
    if (!("error" in message)) return pending.resolve(message.return);
    const { class: errorClass, desc } = (message.error ?? {}) as QmpObject;
    pending.reject(new QmpError(pending.command, pending.subject, `${errorClass}`, `${desc}`));
  }

  #end(reason: string): void {
    if (this.#over !== undefined) return;
    this.#over = reason;
    this.#connection.close();
    const error = silent(this.#options.name, reason);
    this.#greeted.reject(error);
    for (const { reject } of this.#pending.values()) reject(error);
    this.#ended.resolve(reason);
  }
}

/** Not by a link, which a daemon could put in place of its socket, to another daemon's. */
async function connectItself(path: string): Promise<Deno.UnixConn> {
  if ((await Deno.lstat(path)).isSymlink) throw new Error("it is a link");
  return await Deno.connect({ transport: "unix", path });
}

function parseObject(line: string): QmpObject | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value as QmpObject : undefined;
  } catch {
    return undefined;
  }
}

/** The promise's value, or undefined if it takes too long; rejects as it does. */
async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) => timer = setTimeout(() => resolve(undefined), timeoutMs));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function silent(name: string, reason: string): QmpSilentError {
  return new QmpSilentError(`Cannot reach ${name}: ${reason}`, {
    remedy: "look at the process: stopped (`kill -CONT`), or waiting for a disk that is dead; killing it loses what " +
      "the guest has not flushed",
  });
}
