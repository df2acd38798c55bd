/**
 * The metrics of a serving process, as the main thread has them: starts the Worker that gives them out, and sends it a
 * view when it asks.
 */

import { errorText, XenblkError } from "../errors.ts";
import { endsWithin } from "../within.ts";
import type { HttpAddress, MonitorCommand, MonitorEvent, MonitorOptions } from "./messages.ts";
import type { View } from "./view.ts";

/** How long the Worker may take to remove its file at the end. */
const END_MS = 1_000;

/** A Worker that gives out metrics. Disposing it ends the Worker. */
export class Monitor implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #ended = Promise.withResolvers<void>();
  readonly #warn: (line: string) => void;
  #look: (() => View) | undefined;
  /** Where the status page is; absent without a server. */
  readonly url: string | undefined;

  private constructor(worker: Worker, url: string | undefined, warn: (line: string) => void) {
    this.#worker = worker;
    this.#warn = warn;
    this.url = url;
    worker.onmessage = ({ data }: MessageEvent<MonitorEvent>) => {
      if (data.kind === "want") this.#answer();
      else if (data.kind === "warn") warn(data.line);
      else if (data.kind === "ended") this.#ended.resolve();
    };
    worker.onerror = (event) => {
      event.preventDefault();
      warn(`there are no metrics any more: ${event.message}; start xenblk again and report this defect`);
      this.#ended.resolve();
    };
  }

  /**
   * Starts the Worker, and its server if one is asked for, which answers 503 until {@linkcode observe} is called.
   * Rejects with {@linkcode XenblkError} if the address cannot be used.
   */
  static async start(options: MonitorOptions, warn: (line: string) => void): Promise<Monitor> {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "metrics" });
    try {
      const port = await ready(worker, options);
      const { address } = options;
      const url = address === undefined || port === undefined ? undefined : `http://${shown({ ...address, port })}/`;
      return new Monitor(worker, url, warn);
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  /** From now on the metrics are those of the views that `look` takes. */
  observe(look: () => View): void {
    this.#look = look;
    this.#answer();
  }

  /** A defect in a view must not end the process that serves disks. */
  #answer(): void {
    let view: View | undefined;
    try {
      view = this.#look?.();
    } catch (error) {
      this.#warn(`cannot take the figures of the disks: ${errorText(error)}; report this defect`);
    }
    this.#send({ kind: "view", view });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#send({ kind: "end" });
    await endsWithin(this.#ended.promise, END_MS);
    this.#worker.terminate();
  }

  #send(command: MonitorCommand): void {
    this.#worker.postMessage(command);
  }
}

/** Resolves to the port of the server, if there is one. */
async function ready(worker: Worker, options: MonitorOptions): Promise<number | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<number | undefined>();
  worker.onmessage = ({ data }: MessageEvent<MonitorEvent>) => {
    if (data.kind === "ready") resolve(data.port);
    else if (data.kind === "refused") reject(refusal(options.address, data.reason));
  };
  worker.onerror = (event) => {
    event.preventDefault();
    reject(refusal(options.address, event.message));
  };
  worker.postMessage({ kind: "start", options } satisfies MonitorCommand);
  return await promise;
}

function refusal(address: HttpAddress | undefined, reason: string): XenblkError {
  const where = address === undefined ? "" : ` on ${shown(address)}`;
  return new XenblkError(`Cannot serve metrics${where}: ${reason}`, {
    remedy: "choose a free port and an address of this machine (`ss -ltn` lists the ports in use)",
  });
}

function shown({ hostname, port }: HttpAddress): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}
