/**
 * An I/O Worker's life: look for jobs in the queues of all disks, carry them out one at a time, wake the reactor they
 * came from, sleep when there are none. It must not know rings, grants or which platform it runs on.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { Platform, PlatformDescriptor, Waker } from "../../hypervisor.ts";
import { Doorbell } from "./doorbell.ts";
import { errnoOf } from "../errno.ts";
import { type BlockFile, type Executor, FileExecutor, type Operation } from "../engine/executor.ts";
import { BUSY_WORKERS, type ImageFile, openSameFile, SLOW_VISITS } from "../image/file.ts";
import type { IoAnswer, IoCommand } from "./messages.ts";
import { JOB_VECTORS, JobQueue, QUEUE_CHANNELS } from "./job_queue.ts";
import { MemoryViews } from "../engine/views.ts";

/** Jobs done in one queue before the next queue gets its turn. */
const JOBS_PER_VISIT = 16;
/** A job that takes longer says that its disk makes Workers wait, so that several should wait at a time. */
const SLOW_JOB_MS = 0.02;
/** Visits that a file counts as slow after a slow job. */
const SLOW_FOR_VISITS = 64;
/** How long a finished job may wait for the next ones to be told together: waking a reactor costs more than a cached read. */
const WAKE_DELAY_MS = 0.02;

/** The Worker's side of its messages: `self` of a dedicated Worker. */
export interface IoWorkerScope {
  onmessage: ((event: MessageEvent<IoCommand>) => void) | null;
  postMessage(answer: IoAnswer): void;
}

/** How the Worker reaches what it must not know by itself. */
export interface IoWorkerParts {
  readonly openPlatform: (descriptor: PlatformDescriptor) => Promise<Platform>;
  /** Gives what covers a file that was just opened by the lock that this process has on its image, if it has one. */
  readonly openCover?: (descriptor: PlatformDescriptor) => Promise<(image: ImageFile) => void>;
  /** Opens an image's file; a test may give one that stalls or fails. */
  readonly openFile?: (image: ImageFile) => BlockFile;
}

/** A disk's file as this Worker has it open. */
interface ServedFile {
  readonly executor: Executor;
  readonly shared: Int32Array;
  readonly queues: ServedQueue[];
}

/** Runs an I/O Worker until it is told to stop. To be called before the Worker's first await, lest messages be lost. */
export async function runIoWorker(scope: IoWorkerScope, parts: IoWorkerParts): Promise<void> {
  const inbox = new Inbox(scope);
  const start = await inbox.take();
  if (start.type !== "start") throw new Error(`Cannot run an I/O Worker: its first message is ${start.type}`);
  const { request } = start;
  let platform: Platform;
  let cover: ((image: ImageFile) => void) | undefined;
  try {
    platform = await parts.openPlatform(start.platform);
    cover = await parts.openCover?.(start.platform);
  } catch (error) {
    return scope.postMessage({ request, failure: failureOf(error) });
  }
  const open = (image: ImageFile): BlockFile => {
    const file = (parts.openFile ?? openSameFile)(image);
    cover?.(image);
    return file;
  };
  const worker = new IoWorker(platform, start, open, (answer) => scope.postMessage(answer));
  scope.postMessage({ request });
  await worker.run(inbox);
}

/** Messages that arrived and were not yet obeyed. */
class Inbox {
  /** Messages obeyed so far, modulo 2^32: as many as are counted in the Doorbell when none is left. */
  taken = 0;
  readonly #messages: IoCommand[] = [];
  #arrived = Promise.withResolvers<void>();

  constructor(scope: IoWorkerScope) {
    scope.onmessage = ({ data }): void => {
      this.#messages.push(data);
      this.#arrived.resolve();
    };
  }

  async take(): Promise<IoCommand> {
    while (this.#messages.length === 0) {
      this.#arrived = Promise.withResolvers();
      await this.#arrived.promise;
    }
    this.taken = (this.taken + 1) | 0;
    return this.#messages.shift()!;
  }
}

function failureOf(error: unknown): { message: string; remedy?: string } {
  if (error instanceof XenblkError && error.remedy !== undefined) {
    return { message: error.message, remedy: error.remedy };
  }
  return { message: errorText(error) };
}

class IoWorker {
  readonly #platform: Platform;
  readonly #start: IoCommand & { type: "start" };
  readonly #doorbell: Doorbell;
  readonly #openFile: (image: ImageFile) => BlockFile;
  readonly #answer: (answer: IoAnswer) => void;
  readonly #wakers = new Map<number, Waker>();
  readonly #files = new Map<number, ServedFile>();
  #queues: ServedQueue[] = [];
  #nextQueue = 0;
  #stopping = false;

  constructor(
    platform: Platform,
    start: IoCommand & { type: "start" },
    openFile: (image: ImageFile) => BlockFile,
    answer: (answer: IoAnswer) => void,
  ) {
    this.#platform = platform;
    this.#start = start;
    this.#doorbell = new Doorbell(start.doorbell);
    this.#openFile = openFile;
    this.#answer = answer;
  }

  async run(inbox: Inbox): Promise<void> {
    while (!this.#stopping) {
      const rung = this.#doorbell.rung;
      if (this.#doorbell.postedTo(this.#start.worker) !== inbox.taken) this.#obey(await inbox.take());
      else if (!this.#visitNext()) this.#doorbell.sleep(rung);
    }
  }

  /** Does jobs of the next queue that has some. False: none had any (or their disks occupy Workers enough). */
  #visitNext(): boolean {
    const count = this.#queues.length;
    for (let i = 0; i < count; i++) {
      const at = (this.#nextQueue + i) % count;
      const queue = this.#queues[at]!;
      if (!queue.enter(this.#start.workersPerFile)) continue;
      this.#nextQueue = (at + 1) % count;
      // Before this disk can hold this Worker up: it may be the only one awake, and roused for another disk.
      if (this.#hasWorkBeside(queue)) this.#doorbell.rouse();
      queue.work();
      return true;
    }
    return false;
  }

  #hasWorkBeside(entered: ServedQueue): boolean {
    for (let i = 0; i < this.#queues.length; i++) {
      const queue = this.#queues[i]!;
      if (queue === entered ? queue.wantsHelp : queue.hasJobs) return true;
    }
    return false;
  }

  #obey(command: IoCommand): void {
    switch (command.type) {
      case "lane":
        this.#wakers.set(command.lane, this.#platform.openWaker(command.token));
        break;
      case "queue":
        this.#addQueue(command.file, command.lane, command.buffer);
        break;
      case "open":
        this.#report(command.request, () => this.#open(command.file, command.image));
        break;
      case "close":
        this.#report(command.request, () => this.#close(command.file));
        break;
      case "stop":
        this.#stopping = true;
        this.#report(command.request, () => [...this.#files.keys()].forEach((file) => this.#close(file)));
        break;
      case "start":
        throw new Error("Cannot start an I/O Worker twice");
    }
  }

  #report(request: number, action: () => void): void {
    try {
      action();
      this.#answer({ request });
    } catch (error) {
      this.#answer({ request, failure: failureOf(error) });
    }
  }

  #open(file: number, image: ImageFile): void {
    const executor = new FileExecutor(this.#openFile(image), image.cache);
    this.#files.set(file, { executor, shared: new Int32Array(image.shared), queues: [] });
  }

  #addQueue(file: number, lane: number, buffer: SharedArrayBuffer): void {
    const served = this.#files.get(file);
    const waker = this.#wakers.get(lane);
    // This Worker could not open the file: the others serve it.
    if (served === undefined || waker === undefined) return;
    const queue = new ServedQueue(new JobQueue(buffer), served, waker, this.#platform);
    served.queues.push(queue);
    this.#queues.push(queue);
  }

  #close(file: number): void {
    const served = this.#files.get(file);
    if (served === undefined) return;
    this.#files.delete(file);
    this.#queues = this.#queues.filter((queue) => !served.queues.includes(queue));
    this.#nextQueue = 0;
    served.executor[Symbol.dispose]();
  }
}

/** One queue as this Worker serves it. */
class ServedQueue {
  readonly #jobs: JobQueue;
  readonly #file: ServedFile;
  readonly #waker: Waker;
  readonly #platform: Platform;
  /** By channel: views of its buffers, and the generation they belong to. */
  readonly #views = new Array<MemoryViews | undefined>(QUEUE_CHANNELS).fill(undefined);
  readonly #generations = new Int32Array(QUEUE_CHANNELS);
  /** The slot that {@linkcode enter} took. */
  #claimed = -1;

  constructor(jobs: JobQueue, file: ServedFile, waker: Waker, platform: Platform) {
    this.#jobs = jobs;
    this.#file = file;
    this.#waker = waker;
    this.#platform = platform;
  }

  get hasJobs(): boolean {
    return this.#jobs.hasJobs;
  }

  /** Whether a second Worker would do good: not where calls return at once, since waking it costs more than they do. */
  get wantsHelp(): boolean {
    return Atomics.load(this.#file.shared, SLOW_VISITS) > 0 && this.#jobs.hasJobs;
  }

  /**
   * Takes a job, which {@linkcode work} must carry out. False: there is none, or the file occupies its share of
   * Workers; they will look for more jobs when they are done.
   */
  enter(workersPerFile: number): boolean {
    if (!this.#jobs.hasJobs || !occupy(this.#file.shared, workersPerFile)) return false;
    this.#claimed = this.#jobs.claim();
    if (this.#claimed < 0) Atomics.sub(this.#file.shared, BUSY_WORKERS, 1);
    return this.#claimed >= 0;
  }

  /** Carries out the job taken and some more. */
  work(): void {
    const jobs = this.#jobs;
    const begun = this.#platform.now();
    let now = begun;
    let wokenAt = begun;
    // Where the next job may take long, none that is done waits for it.
    const wakeDelayMs = Atomics.load(this.#file.shared, SLOW_VISITS) > 0 ? 0 : WAKE_DELAY_MS;
    let done = 0;
    for (let slot = this.#claimed; slot >= 0; slot = done < JOBS_PER_VISIT ? jobs.claim() : -1) {
      jobs.complete(slot, this.#carryOut(slot));
      done++;
      now = this.#platform.now();
      if (now - wokenAt < wakeDelayMs) continue;
      this.#waker.wake();
      wokenAt = now;
    }
    this.#waker.wake();
    this.#judge((now - begun) / done);
    Atomics.sub(this.#file.shared, BUSY_WORKERS, 1);
  }

  /** One slow visit makes the file slow for many; racing with other Workers here does no harm. */
  #judge(jobMs: number): void {
    const slowVisits = Atomics.load(this.#file.shared, SLOW_VISITS);
    if (jobMs > SLOW_JOB_MS) Atomics.store(this.#file.shared, SLOW_VISITS, SLOW_FOR_VISITS);
    else if (slowVisits > 0) Atomics.store(this.#file.shared, SLOW_VISITS, slowVisits - 1);
  }

  #carryOut(slot: number): number {
    const { operation, offsetBytes, vectors, vectorCount, channel } = this.#jobs;
    try {
      return this.#file.executor.execute(
        operation[slot] as Operation,
        offsetBytes[slot]!,
        vectors,
        slot * JOB_VECTORS,
        vectorCount[slot]!,
        this.#viewsOf(channel[slot]!),
      );
    } catch (error) {
      return errnoOf(error);
    }
  }

  #viewsOf(channel: number): MemoryViews {
    const generation = this.#jobs.generation[channel]!;
    const known = this.#views[channel];
    if (known !== undefined && this.#generations[channel] === generation) return known;
    const address = this.#jobs.buffersAddress[channel]!;
    const length = this.#jobs.buffersLength[channel]!;
    const memory = this.#platform.memory;
    const buffers = length === 0 ? undefined : { address, view: memory.view(address, length) };
    this.#generations[channel] = generation;
    return this.#views[channel] = new MemoryViews(memory, buffers);
  }
}

/**
 * Counts this Worker among those busy with a file, unless there are enough. Never counts too many even for a moment:
 * a Worker that is refused may rely on a busy one to look for jobs again.
 */
function occupy(shared: Int32Array, most: number): boolean {
  while (true) {
    const busy = Atomics.load(shared, BUSY_WORKERS);
    if (busy >= most) return false;
    if (Atomics.compareExchange(shared, BUSY_WORKERS, busy, busy + 1) === busy) return true;
  }
}
