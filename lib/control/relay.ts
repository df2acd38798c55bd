/**
 * A socket for readers of an export: in a Worker, so that its end, by whatever signal, ends their connections with this
 * process.
 */

import { XenblkError } from "../errors.ts";
import { connectTo } from "./directory.ts";
import type { RelayAddress, RelayAnswer, RelayOrder } from "./relay_order.ts";

/** A relay that listens. Disposing it closes all connections, and removes its socket. */
export class Relay implements AsyncDisposable {
  /** Where it listens. */
  readonly address: RelayAddress;
  /** Resolves, never rejects, with the reason if it ends by itself. */
  readonly failed: Promise<string>;
  readonly #worker: Worker;

  private constructor(address: RelayAddress, worker: Worker, failed: Promise<string>) {
    this.address = address;
    this.#worker = worker;
    this.failed = failed;
  }

  /** Rejects with {@linkcode XenblkError} if it cannot listen; `what` is the beginning of the sentence. */
  static async start(order: RelayOrder, what: string): Promise<Relay> {
    const { listen } = order;
    if ("path" in listen) await removeStale(listen.path);
    const worker = new Worker(new URL("./relay_worker.ts", import.meta.url), { type: "module", name: "relay" });
    const began = Promise.withResolvers<RelayAnswer>();
    const failed = Promise.withResolvers<string>();
    worker.onmessage = ({ data }: MessageEvent<RelayAnswer>): void => {
      began.resolve(data);
      if ("failure" in data) failed.resolve(data.failure);
    };
    worker.onerror = (event): void => {
      event.preventDefault();
      began.resolve({ failure: event.message });
      failed.resolve(event.message);
    };
    worker.postMessage(order);
    const answer = await began.promise;
    if ("port" in answer) {
      return new Relay("path" in listen ? listen : { ...listen, port: answer.port }, worker, failed.promise);
    }
    worker.terminate();
    const where = "path" in listen ? listen.path : `${listen.hostname}:${listen.port}`;
    throw new XenblkError(`${what}: nobody can listen at ${where}: ${answer.failure}`, {
      remedy: "name another place with --socket or --listen",
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#worker.terminate();
    if ("path" in this.address) await Deno.remove(this.address.path).catch(() => {});
  }
}

/** A process that was killed leaves its socket. */
async function removeStale(path: string): Promise<void> {
  const known = await Deno.lstat(path).catch(() => undefined);
  if (known?.isSocket !== true) return;
  using listening = await connectTo(path).catch(() => undefined);
  if (listening === undefined) await Deno.remove(path).catch(() => {});
}
