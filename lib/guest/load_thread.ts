/**
 * Runs loads in a Worker (load_worker.ts), which is also the event endpoint of the frontend. The owner starts loads,
 * reads their progress and stops them.
 */

import { XenblkError } from "../errors.ts";
import type { DomId, EvtchnPort, Platform, Waker, WakeToken } from "../hypervisor.ts";
import type { DiskModel } from "./disk_model.ts";
import type { EventEndpoint } from "./event_endpoint.ts";
import type { LoadCommand, LoadReply } from "./load_messages.ts";
import { type LoadOutcome, LoadProgress, type LoadSpec, type LoadTarget } from "./load_types.ts";
import { ReplayLatencies, type ReplayOutcome, type ReplaySpec, type SweepSpec } from "./replay_types.ts";

/** A running load or replay. */
export interface LoadRun<T = LoadOutcome> {
  /** Counters and latencies while it runs. */
  readonly progress: LoadProgress;
  /** Its results; rejects with {@linkcode XenblkError} if the load could not be run. */
  readonly outcome: Promise<T>;
  /** Issues no more requests; resolves when all are answered. */
  stop(): Promise<T>;
  /** Ends at once, with requests unanswered: the rings must not be used again. */
  abandon(): Promise<T>;
}

/** A running replay. */
export interface ReplayRun extends LoadRun<ReplayOutcome> {
  /** While it runs and afterwards. */
  readonly latencies: ReplayLatencies;
}

/** A command whose reply has not come yet. */
interface Awaited {
  readonly resolve: (reply: LoadReply) => void;
  readonly reject: (error: XenblkError) => void;
}

/** A Worker that runs loads, one at a time. */
export class LoadThread implements EventEndpoint, AsyncDisposable {
  readonly #worker: Worker;
  readonly #token: WakeToken & Disposable;
  readonly #waker: Waker;
  readonly #awaited: Awaited[] = [];
  #run: LoadRun<unknown> | undefined;
  #ended = false;

  private constructor(platform: Platform) {
    this.#token = platform.createWakeToken();
    this.#waker = platform.openWaker(this.#token);
    this.#worker = new Worker(new URL("./load_worker.ts", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }: MessageEvent<LoadReply>): void => this.#receive(data);
    this.#worker.onerror = (event): void => {
      event.preventDefault();
      this.#rejectAll(`its Worker died: ${event.message}`);
    };
  }

  /** Starts a Worker that opens the same platform. */
  static async start(platform: Platform): Promise<LoadThread> {
    const thread = new LoadThread(platform);
    const { word, fd } = thread.#token;
    await thread.#ask({ type: "open", platform: platform.descriptor, token: { word, fd } });
    return thread;
  }

  async bind(backend: DomId): Promise<EvtchnPort> {
    const reply = await this.#ask({ type: "bind", backend });
    if (reply.type !== "bound") throw unexpected(reply);
    return reply.port;
  }

  /** Also abandons the running load: its requests will not be answered. */
  async unbind(port: EvtchnPort): Promise<void> {
    await this.#run?.abandon().catch(() => {});
    await this.#ask({ type: "unbind", port });
  }

  /** Starts a load on ports that this Worker bound; with a model it is verified. Throws if a load is running. */
  run(target: LoadTarget, spec: LoadSpec, model?: DiskModel): LoadRun {
    return this.#begin((progress) => ({ type: "run", target, spec, model: model?.buffer, progress }), (reply) => {
      if (reply.type !== "outcome") throw unexpected(reply);
      return reply.outcome;
    });
  }

  /** Starts a replay, or a sweep over the disk, on ports that this Worker bound. Throws if a load is running. */
  replay(target: LoadTarget, spec: ReplaySpec | SweepSpec): ReplayRun {
    const latencies = new ReplayLatencies();
    const command = { type: "replay", target, spec, latencies: latencies.buffer } as const;
    const run = this.#begin((progress) => ({ ...command, progress }), (reply) => {
      if (reply.type !== "replayed") throw unexpected(reply);
      return reply.outcome;
    });
    return { ...run, latencies };
  }

  #begin<T>(command: (progress: SharedArrayBuffer) => LoadCommand, outcomeOf: (reply: LoadReply) => T): LoadRun<T> {
    if (this.#run !== undefined) throw new XenblkError("Cannot run the load: another one runs in the same Worker");
    const progress = new LoadProgress();
    const outcome = this.#ask(command(progress.buffer)).finally(() => this.#run = undefined).then(outcomeOf);
    outcome.catch(() => {});
    const end = (request: () => void): Promise<T> => {
      request();
      this.#waker.wake();
      return outcome;
    };
    const run: LoadRun<T> = {
      progress,
      outcome,
      stop: () => end(() => progress.requestStop()),
      abandon: () => end(() => progress.requestAbandon()),
    };
    this.#run = run;
    return run;
  }

  /** Stops the running load, if any; resolves once nothing is in flight. For {@linkcode FrontendOptions.quiesce}. */
  async quiesce(): Promise<void> {
    await this.#run?.stop().catch(() => {});
  }

  /** Abandons the running load and ends the Worker. Until then the Worker keeps the process alive. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#run?.abandon().catch(() => {});
    if (this.#ended) return;
    await this.#ask({ type: "close" });
    this.terminate();
  }

  /** Ends the Worker at once, as the death of a guest does. Pending promises reject. */
  terminate(): void {
    if (this.#ended) return;
    this.#ended = true;
    // Wakes the Worker: while it is parked it would not terminate.
    this.#run?.abandon();
    this.#worker.terminate();
    this.#token[Symbol.dispose]();
    this.#rejectAll("its Worker was ended");
  }

  #rejectAll(why: string): void {
    for (const { reject } of this.#awaited.splice(0)) reject(new XenblkError(`Cannot go on with the load: ${why}`));
  }

  #ask(command: LoadCommand): Promise<LoadReply> {
    if (this.#ended) return Promise.reject(new XenblkError("Cannot go on with the load: its Worker was ended"));
    return new Promise((resolve, reject) => {
      this.#awaited.push({ resolve, reject });
      this.#worker.postMessage(command);
    });
  }

  #receive(reply: LoadReply): void {
    const awaited = this.#awaited.shift();
    if (reply.type === "failed") awaited?.reject(new XenblkError(reply.message));
    else awaited?.resolve(reply);
  }
}

function unexpected(reply: LoadReply): XenblkError {
  return new XenblkError(`Cannot go on with the load: its Worker answered ${reply.type}`);
}
