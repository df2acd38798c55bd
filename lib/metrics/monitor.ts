/**
 * The metrics of a serving process, as the main thread has them: starts the Worker that gives them out, and sends it a
 * view when it asks.
 */

import { errorText } from "../errors.ts";
import { endsWithin } from "../within.ts";
import type { MonitorCommand, MonitorEvent, MonitorOptions } from "./messages.ts";
import type { View } from "./view.ts";

/** How long the Worker may take to remove its file at the end. */
const END_MS = 1_000;

/** A Worker that gives out metrics. Disposing it ends the Worker. */
export class Monitor implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #ended = Promise.withResolvers<void>();
  readonly #listening = Promise.withResolvers<string>();
  readonly #warn: (line: string) => void;
  #look: (() => View) | undefined;

  /**
   * Starts the Worker. Its server, if one is asked for, answers 503 until {@linkcode observe} is called. `warn` gets what
   * cannot be done, such as to use the address; that is tried again.
   */
  constructor(options: MonitorOptions, warn: (line: string) => void) {
    this.#warn = warn;
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "metrics" });
    this.#worker = worker;
    worker.onmessage = ({ data }: MessageEvent<MonitorEvent>) => {
      if (data.kind === "want") this.#answer();
      else if (data.kind === "warn") warn(data.line);
      else if (data.kind === "ended") this.#ended.resolve();
      else this.#listening.resolve(url(options.address?.hostname ?? "", data.port));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      warn(`there are no metrics any more: ${event.message}; start xenblk again and report this defect`);
      this.#ended.resolve();
    };
    this.#send({ kind: "start", options });
  }

  /** Resolves with the address of the status page once the server listens. */
  get listening(): Promise<string> {
    return this.#listening.promise;
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

function url(hostname: string, port: number): string {
  return `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}/`;
}
