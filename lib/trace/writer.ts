/**
 * Writes a trace in a Worker of its own. The threads that serve the disk put records into shared memory and never wait
 * for the file; neither does the owner, except for a bounded time at the end.
 */

import { XenblkError } from "../errors.ts";
import { endsWithin } from "../within.ts";
import type { TraceSession } from "./format.ts";
import type { TraceReply, WriteTrace } from "./messages.ts";
import { createTraceMemory, stopTrace } from "./rings.ts";

/** How long the last records may take to reach the file. */
const CLOSE_LIMIT_MS = 2_000;

/** What is written, and where. */
export interface TraceOptions {
  readonly path: string;
  readonly session: TraceSession;
  /** The file grows no larger than this; absent: no limit. */
  readonly limitBytes?: number;
  /** Gets a line, at most one of each kind, if nothing more is recorded. */
  readonly warn: (message: string) => void;
}

/** A trace that is being written. Disposing it writes what is there and ends the Worker. */
export class TraceWriter implements AsyncDisposable {
  /** For {@linkcode TraceProducer.open}, in any thread. */
  readonly memory: SharedArrayBuffer = createTraceMemory();
  readonly #path: string;
  readonly #warn: (message: string) => void;
  readonly #worker: Worker;
  readonly #opened = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  #isOpen = false;

  private constructor({ path, session, limitBytes, warn }: TraceOptions) {
    this.#path = path;
    this.#warn = warn;
    this.#worker = new Worker(new URL("./writer_worker.ts", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }: MessageEvent<TraceReply>): void => this.#receive(data);
    this.#worker.onerror = (event): void => {
      event.preventDefault();
      this.#fail(new XenblkError(`Cannot write trace ${path}: its Worker died: ${event.message}`));
    };
    const message: WriteTrace = { path, session, memory: this.memory, ...(limitBytes && { limitBytes }) };
    this.#worker.postMessage(message);
  }

  /** Begins a session. Rejects with {@linkcode XenblkError} if the file cannot be written; see {@linkcode TraceFile}. */
  static async open(options: TraceOptions): Promise<TraceWriter> {
    const writer = new TraceWriter(options);
    try {
      await writer.#opened.promise;
      return writer;
    } catch (error) {
      writer.#worker.terminate();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    stopTrace(this.memory);
    if (!await endsWithin(this.#ended.promise, CLOSE_LIMIT_MS)) {
      this.#warn(`trace ${this.#path}: its storage does not answer; the last records may be missing`);
    }
    this.#worker.terminate();
  }

  #receive(reply: TraceReply): void {
    if (reply.type === "open") {
      this.#isOpen = true;
      this.#opened.resolve();
    } else if (reply.type === "closed") this.#ended.resolve();
    else if (reply.type === "warning") this.#warn(reply.message);
    else this.#fail(new XenblkError(reply.message, reply.remedy === undefined ? {} : { remedy: reply.remedy }));
  }

  /** Before the trace is open, that refuses it; after that, the disk goes on without. */
  #fail(error: XenblkError): void {
    if (this.#isOpen) this.#warn(`${error.line}; the disk goes on, and nothing more is recorded`);
    this.#opened.reject(error);
    this.#ended.resolve();
  }
}
