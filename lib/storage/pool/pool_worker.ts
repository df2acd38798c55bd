/**
 * One I/O Worker as the control plane sees it: its messages, what it was asked and has not answered, and for how long it
 * has been in one call.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { errnoOf } from "../errno.ts";
import { outOfResource } from "../image/explain.ts";
import type { Activity } from "./activity.ts";
import type { Doorbell } from "./doorbell.ts";
import type { IoAnswer, IoCommand } from "./messages.ts";

/** What a Worker is made with. */
export interface PoolWorkerOptions {
  /** Its place in the shared memory. */
  readonly index: number;
  readonly entry: URL;
  readonly doorbell: Doorbell;
  readonly activity: Activity;
  /** It died of a defect, or could not be started. */
  readonly died: (reason: string) => void;
  /** It could not open a disk, which it leaves to the others. */
  readonly cannotOpen: (disk: number, reason: string) => void;
}

type Start = IoCommand & { readonly type: "start" };
type Request = IoCommand & { readonly request: number };

/** A Worker. */
export class PoolWorker {
  readonly index: number;
  /** Resolves once it is ready. Rejects with {@linkcode XenblkError} if it cannot serve. */
  readonly started: Promise<void>;
  hasStarted = false;
  readonly #options: PoolWorkerOptions;
  readonly #worker: Worker;
  readonly #answers = new Map<number, PromiseWithResolvers<void>>();
  /** Of these, requests to close something. */
  readonly #closing = new Set<number>();
  readonly #ready = Promise.withResolvers<void>();
  #lastRequest = 0;
  #steps = 0;
  #stepsSince = 0;

  constructor(options: PoolWorkerOptions) {
    this.#options = options;
    this.index = options.index;
    this.started = this.#ready.promise.then(() => void (this.hasStarted = true));
    this.started.catch(() => {}); // whoever waits for it reports it
    this.#worker = new Worker(options.entry, { type: "module", name: `io-${options.index}` });
    this.#worker.onmessage = ({ data }: MessageEvent<IoAnswer>): void => this.#hear(data);
    this.#worker.onerror = (event): void => {
      event.preventDefault();
      const remedy = outOfResource(errnoOf(new Error(event.message)))?.remedy;
      this.#ready.reject(new XenblkError(event.message, remedy === undefined ? {} : { remedy }));
      options.died(event.message);
    };
  }

  /** The disk that it makes a call for. */
  get disk(): number | undefined {
    return this.#options.activity.disk(this.index);
  }

  /** Before anything else. */
  start(start: Omit<Start, "type" | "request" | "worker">): void {
    this.ask((request) => ({ ...start, type: "start", request, worker: this.index })).then(
      this.#ready.resolve,
      this.#ready.reject,
    );
  }

  post(command: IoCommand): void {
    this.#worker.postMessage(command);
    this.#options.doorbell.posted(this.index);
  }

  /** Resolves when the Worker has done it. Rejects with {@linkcode XenblkError} if it cannot, or ends. */
  ask(command: (request: number) => Request): Promise<void> {
    const request = ++this.#lastRequest;
    const answer = Promise.withResolvers<void>();
    answer.promise.catch(() => {}); // also if nobody waits for it any more
    this.#answers.set(request, answer);
    const asked = command(request);
    if (asked.type === "close" || asked.type === "stop") this.#closing.add(request);
    this.post(asked);
    return answer.promise;
  }

  /** For how long it has been in one call, as far as calls of this method have seen. */
  stuckFor(nowMs: number): number {
    const steps = this.#options.activity.steps(this.index);
    if (steps !== this.#steps || (steps & 1) === 0) {
      this.#steps = steps;
      this.#stepsSince = nowMs;
    }
    return nowMs - this.#stepsSince;
  }

  /**
   * Waits no more for disks that it was asked to close: it closes them when it returns. Resolves when it has done so and
   * ended. A disk that it opens is not slow for ever; its answer to that may still come.
   */
  retire(): Promise<void> {
    for (const request of this.#closing) {
      this.#answers.get(request)?.reject(new XenblkError("it waits for its storage"));
    }
    return this.ask((request) => ({ type: "stop", request }));
  }

  /** Its answers will never come. */
  end(reason: string): void {
    // One that sleeps would not end, and the process neither: this takes it to its event loop.
    this.post({ type: "stop", request: 0 });
    this.#worker.terminate();
    this.#reject(reason);
  }

  #hear(answer: IoAnswer): void {
    if ("disk" in answer) {
      return this.#options.cannotOpen(answer.disk, errorText(new XenblkError(answer.failure.message)));
    }
    const { request, failure } = answer;
    const asked = this.#answers.get(request);
    this.#answers.delete(request);
    this.#closing.delete(request);
    if (failure === undefined) asked?.resolve();
    else asked?.reject(new XenblkError(failure.message, failure));
  }

  #reject(reason: string): void {
    for (const answer of this.#answers.values()) answer.reject(new XenblkError(reason));
    this.#answers.clear();
  }
}
