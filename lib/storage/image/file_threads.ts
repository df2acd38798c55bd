/**
 * Calls on files that may never return (a dead file server, a hung FUSE mount) are made in Workers that may be lost. A
 * thread makes one call at a time; while it waits, calls on other images go to other threads. A thread costs 8 MiB and
 * tens of milliseconds, so another one starts only if those that there are do not answer soon, and ends when it is idle.
 *
 * Why not Deno's asynchronous file calls: all of them share one pool of at most 32 blocking threads, so a few hung calls
 * stop every file call of the process. Why not nonblocking FFI: it loses errno.
 */

import { errnoOf } from "../errno.ts";
import { XenblkError } from "../../errors.ts";
import { outOfResource } from "./explain.ts";
import type { FileAnswer, FileCall, FileFailure, FileOrder } from "./file_call.ts";

/** How a call is made. */
export interface FileCallOptions<T> {
  /** The image's path: it bounds the threads that one image holds. */
  readonly path: string;
  /** For messages, as in `Cannot open image /a`. */
  readonly verb: string;
  /** Absent: that of the threads. */
  readonly limitMs?: number;
  /** Gets the result of a call that returned after its limit, when its caller has been told that it failed. */
  readonly late?: (result: T) => void;
  /** The call gives back what earlier ones took: it is never refused, and made in the end however late that is. */
  readonly releases?: boolean;
}

/** The storage of an image did not answer within a call's limit. The caller can try again later. */
export class StorageSilentError extends XenblkError {}

/** Limits of {@linkcode FileThreads}; tests shorten them. */
export interface FileThreadLimits {
  /** How long a call may take. */
  readonly limitMs: number;
  /** How long an idle thread stays. */
  readonly idleMs: number;
  /** Most threads, lost ones included. */
  readonly threads: number;
  /**
   * Most threads that calls on one image hold, lost ones included; one, once half of all threads are busy: else the
   * retries for the images of one dead file server would take the rest.
   */
  readonly threadsPerImage: number;
  /**
   * A thread whose call takes longer is late: storage may not answer. And the same for its first call, as it has to start.
   * Calls that wait get another thread only if the others are late. 0: they are at once.
   */
  readonly promptMs: number;
  readonly startingMs: number;
  /** After {@linkcode FileThreads.leave}: how long the process may take to end. */
  readonly leaveMs: number;
  /** The threads' entry. */
  readonly entry: URL;
}

const DEFAULT_LIMITS: FileThreadLimits = {
  limitMs: 20_000,
  idleMs: 3_000,
  threads: 32,
  threadsPerImage: 2,
  promptMs: 100,
  startingMs: 500,
  leaveMs: 250,
  entry: new URL("./file_thread.ts", import.meta.url),
};

/** A timer that is later than this was kept from it by other work of its thread. */
const BUSY_MS = 20;
/** With so many threads, no more are started while calls are answered. */
const MOST_WHILE_ANSWERED = 4;

/** A call that waits for a thread, or is being made. */
interface Job {
  readonly call: FileCall;
  readonly options: FileCallOptions<unknown>;
  readonly answer: PromiseWithResolvers<unknown>;
  timer: ReturnType<typeof setTimeout> | undefined;
  /** The caller was told that the call failed. */
  expired: boolean;
}

interface Thread {
  readonly worker: Worker;
  job: Job | undefined;
  /** When that is late. */
  lateAtMs: number;
  /** It has made a call. */
  started: boolean;
}

/** The threads of one process. */
export class FileThreads {
  readonly #limits: FileThreadLimits;
  readonly #threads = new Set<Thread>();
  readonly #waiting: Job[] = [];
  /** Which threads are late was judged then, and will be next if calls wait. */
  #judgedMs = 0;
  #answers = 0;
  #judgement: ReturnType<typeof setTimeout> | undefined;
  readonly #quiet = new Map<string, PromiseWithResolvers<void> & { waiting: number }>();
  /** The process ends: when that is over, if it has not. */
  #left: Promise<void> | undefined;
  /** The last of the calls on each image that were left to the end of the process. */
  readonly #leftOf = new Map<string, Promise<void>>();

  constructor(limits: Partial<FileThreadLimits> = {}) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
  }

  /** Threads that exist, and those of them whose call has exceeded its limit. */
  get counts(): { readonly threads: number; readonly lost: number } {
    return { threads: this.#threads.size, lost: [...this.#threads].filter(({ job }) => job?.expired).length };
  }

  /**
   * Makes a call. Rejects with {@linkcode StorageSilentError} if it does not return within its limit, else with what the
   * call threw: {@linkcode XenblkError}, or an Error with the `code` of a failed system call.
   */
  run<T>(call: FileCall, options: FileCallOptions<T>): Promise<T> {
    if (!this.#isLeft(options)) return this.#run(call, options);
    const { path } = options;
    const before = this.#leftOf.get(path) ?? this.#left!;
    this.#leftOf.set(path, before.then(() => this.#run(call, options)).then(() => {}, () => {}));
    return Promise.resolve(undefined as T);
  }

  /**
   * The process is about to end, and the kernel will close and unlock what it holds: a thread would take longer to start.
   * So calls that release count as made where there is no thread, and are made only if the process is still there later.
   */
  leave(): void {
    this.#left ??= new Promise((resolve) => setTimeout(resolve, this.#limits.leaveMs));
  }

  #isLeft({ path, releases }: Pick<FileCallOptions<unknown>, "path" | "releases">): boolean {
    return this.#left !== undefined && releases === true && (this.#threads.size === 0 || this.#leftOf.has(path));
  }

  #run<T>(call: FileCall, options: FileCallOptions<T>): Promise<T> {
    const { path, limitMs = this.#limits.limitMs } = options;
    const answer = Promise.withResolvers<unknown>();
    const job: Job = {
      call,
      options: options as FileCallOptions<unknown>,
      answer,
      timer: undefined,
      expired: false,
    };
    const lost = this.#callsOn(path).filter(({ expired }) => expired).length;
    if (!options.releases && lost >= this.#share) {
      answer.reject(silent(job.options, UNANSWERED));
    } else {
      job.timer = setTimeout(() => this.#expire(job, limitMs), limitMs);
      this.#waiting.push(job);
      this.#pump();
    }
    return answer.promise as Promise<T>;
  }

  /** Starts the first thread, for calls that the module makes. It ends when it is idle, as the others do. */
  prepare(module: string): void {
    if (this.#threads.size > 0) return;
    const order: FileOrder = { prepare: module, idleMs: this.#limits.idleMs };
    this.#start("files").worker.postMessage(order);
  }

  /**
   * Throws {@linkcode StorageSilentError} if a call on the image has exceeded its limit and not returned since, or is still
   * to be made.
   */
  mustAnswer(path: string, verb: string): void {
    const waiting = this.#waiting.filter(({ options }) => options.path === path);
    if ([...this.#callsOn(path), ...waiting].some(({ expired }) => expired)) throw silent({ path, verb }, UNANSWERED);
  }

  /** How many wait until the image is {@linkcode quiet}: each of them holds a use of it that cannot be closed. */
  unclosed(path: string): number {
    return this.#quiet.get(path)?.waiting ?? 0;
  }

  /** Resolves when no call on the image is being made or waits, lost ones included: before what they use is closed. */
  async quiet(path: string): Promise<void> {
    if (this.#isQuiet(path)) return;
    const quiet = this.#quiet.get(path) ?? { ...Promise.withResolvers<void>(), waiting: 0 };
    quiet.waiting++;
    this.#quiet.set(path, quiet);
    await quiet.promise;
  }

  #callsOn(path: string): Job[] {
    return [...this.#threads].flatMap(({ job }) => job?.options.path === path ? [job] : []);
  }

  /** Threads that an image may hold now. */
  get #share(): number {
    const busy = [...this.#threads].filter(({ job }) => job !== undefined).length;
    return 2 * busy < this.#limits.threads ? this.#limits.threadsPerImage : 1;
  }

  #isQuiet(path: string): boolean {
    return this.#callsOn(path).length === 0 && this.#waiting.every(({ options }) => options.path !== path);
  }

  /** Gives calls that wait to threads, as far as the limits allow. */
  #pump(): void {
    for (let at = 0; at < this.#waiting.length;) {
      const job = this.#waiting[at]!;
      const full = this.#callsOn(job.options.path).length >= this.#share;
      if (full) {
        at++;
        continue;
      }
      const thread = this.#idleThread(job);
      if (thread === undefined) break; // for nobody
      this.#waiting.splice(at, 1);
      thread.job = job;
      const promptMs = thread.started ? this.#limits.promptMs : this.#limits.startingMs;
      thread.lateAtMs = promptMs === 0 ? 0 : performance.now() + promptMs;
      thread.worker.postMessage({ call: job.call, idleMs: this.#limits.idleMs } satisfies FileOrder);
    }
    if (this.#waiting.length > 0) return;
    clearTimeout(this.#judgement);
    this.#judgement = undefined;
  }

  #idleThread(job: Job): Thread | undefined {
    for (const thread of this.#threads) if (thread.job === undefined) return thread;
    if (this.#threads.size >= this.#limits.threads || !this.#needsThread()) return undefined;
    return this.#start(`files of ${job.options.path}`);
  }

  /**
   * Whether calls would wait for long without another thread: as many as are late may be expected to answer soon. So
   * images that do not answer double their threads in half a second, and many that do need one.
   */
  #needsThread(): boolean {
    const late = [...this.#threads].filter(({ job, lateAtMs }) => job !== undefined && lateAtMs <= this.#judgedMs);
    if (this.#threads.size - late.length < Math.max(1, late.length)) return true;
    this.#judgement ??= this.#judgeAt(Math.min(
      ...[...this.#threads].map(({ lateAtMs }) => lateAtMs)
        .filter((ms) => ms > this.#judgedMs),
    ));
    return false;
  }

  /** If this thread was busy then, answers may have arrived that it has not seen: it is judged once more. */
  #judgeAt(dueMs: number, again = false): ReturnType<typeof setTimeout> {
    const answers = this.#answers;
    return setTimeout(() => {
      const now = performance.now();
      const isBusy = now - dueMs > BUSY_MS && !again;
      const goesOn = this.#answers !== answers && this.#threads.size >= MOST_WHILE_ANSWERED;
      if (isBusy || goesOn) {
        this.#judgement = this.#judgeAt(now + this.#limits.promptMs, isBusy);
        return;
      }
      this.#judgement = undefined;
      this.#judgedMs = now;
      this.#pump();
    }, dueMs - performance.now());
  }

  #start(name: string): Thread {
    const worker = new Worker(this.#limits.entry, { type: "module", name });
    const thread: Thread = { worker, job: undefined, lateAtMs: 0, started: false };
    worker.onmessage = ({ data }: MessageEvent<FileAnswer>): void => this.#answered(thread, data);
    worker.onerror = (event): void => {
      event.preventDefault();
      this.#died(thread, event.message);
    };
    this.#threads.add(thread);
    return thread;
  }

  #answered(thread: Thread, answer: FileAnswer): void {
    const { job } = thread;
    if (job === undefined) return this.#end(thread); // it is idle
    if (answer === "idle") return; // it was, before it was given this call
    thread.job = undefined;
    thread.started = true;
    this.#answers++;
    clearTimeout(job.timer);
    if ("failure" in answer) job.answer.reject(errorOf(answer.failure));
    else if (job.expired) job.options.late?.(answer.result);
    else job.answer.resolve(answer.result);
    this.#over(job);
  }

  /** A thread that cannot start (out of descriptors, say), or has a defect. */
  #died(thread: Thread, reason: string): void {
    const { job } = thread;
    this.#end(thread);
    if (job === undefined) return this.#pump();
    clearTimeout(job.timer);
    const remedy = outOfResource(errnoOf(new Error(reason)));
    job.answer.reject(
      new XenblkError(
        `Cannot ${job.options.verb} image ${job.options.path}: the thread for it failed: ${reason}`,
        remedy === undefined ? {} : { remedy: remedy.remedy },
      ),
    );
    this.#over(job);
  }

  #end(thread: Thread): void {
    this.#threads.delete(thread);
    thread.worker.terminate();
  }

  #over(job: Job): void {
    this.#pump();
    this.#settleQuiet(job);
  }

  #settleQuiet({ options: { path } }: Job): void {
    if (!this.#isQuiet(path)) return;
    this.#quiet.get(path)?.resolve();
    this.#quiet.delete(path);
  }

  #expire(job: Job, limitMs: number): void {
    job.expired = true;
    const at = this.#waiting.indexOf(job);
    if (at >= 0 && !job.options.releases) this.#waiting.splice(at, 1);
    const others = at >= 0 && this.#callsOn(job.options.path).length === 0;
    job.answer.reject(
      others
        ? allLost(job.options, this.counts.lost)
        : silent(job.options, `${job.options.verb} took longer than ${limitMs / 1000} s`),
    );
    this.#settleQuiet(job);
  }
}

const UNANSWERED = "an earlier call has not returned";

function silent({ path, verb }: FileCallOptions<unknown>, why: string): StorageSilentError {
  return new StorageSilentError(`Cannot ${verb} image ${path}: its storage does not answer (${why})`, {
    remedy: "check the device or file server that it is on",
  });
}

function allLost({ path, verb }: FileCallOptions<unknown>, lost: number): StorageSilentError {
  return new StorageSilentError(
    `Cannot ${verb} image ${path}: ${lost} threads wait for the storage of other images, and no more are started`,
    { remedy: "check the devices or file servers of the images that do not answer" },
  );
}

function errorOf({ message, code, expected }: FileFailure): Error {
  if (expected !== undefined) return new XenblkError(message, expected);
  return code === undefined ? new Error(message) : Object.assign(new Error(message), { code });
}

/** The threads that this process opens images in. */
export const fileThreads: FileThreads = new FileThreads();
