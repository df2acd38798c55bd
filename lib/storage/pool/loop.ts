/**
 * An I/O Worker's life: look for jobs in the queues of all disks, carry them out one at a time, wake the reactor they
 * came from, sleep when there are none. What a job does is up to the disk's executor.
 */

import { EOPNOTSUPP } from "../../errno.ts";
import { errorText, XenblkError } from "../../errors.ts";
import type { Platform, Waker } from "../../hypervisor.ts";
import { eventLoopTurn, Modules, openPlatform } from "../../modules.ts";
import { OPERATION, type Operation } from "../engine/executor.ts";
import { MemoryViews } from "../engine/views.ts";
import { errnoOf } from "../errno.ts";
import { Activity } from "./activity.ts";
import { DiskLoad } from "./disk_load.ts";
import { Doorbell } from "./doorbell.ts";
import type { ExecutorModule } from "./executor_module.ts";
import { JOB_VECTORS, JobQueue, QUEUE_CHANNELS } from "./job_queue.ts";
import type { IoAnswer, IoCommand, IoFailure } from "./messages.ts";
import { ServedDisk, type WorkerActivity } from "./served_disk.ts";

/** Jobs done in one queue before the next queue gets its turn. */
const JOBS_PER_VISIT = 16;
/** How long a finished job may wait so that one wake reports several: waking a reactor costs more than a cached read. */
const WAKE_DELAY_MS = 0.02;

/** The Worker's side of its messages: `self` of a dedicated Worker. */
export interface IoWorkerScope {
  onmessage: ((event: MessageEvent<IoCommand>) => void) | null;
  postMessage(answer: IoAnswer): void;
}

/** Runs an I/O Worker until it is stopped. To be called before the Worker's first await, lest messages be lost. */
export async function runIoWorker(scope: IoWorkerScope): Promise<void> {
  const inbox = new Inbox(scope);
  const start = await inbox.take();
  if (start.type !== "start") throw new Error(`Cannot run an I/O Worker: its first message is ${start.type}`);
  const { request } = start;
  let platform: Platform;
  try {
    platform = await openPlatform(start.platform);
  } catch (error) {
    return scope.postMessage({ request, failure: failureOf(error) });
  }
  const worker = new IoWorker(platform, start, (answer) => scope.postMessage(answer));
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

function failureOf(error: unknown): IoFailure {
  if (error instanceof XenblkError && error.remedy !== undefined) {
    return { message: error.message, remedy: error.remedy };
  }
  return { message: errorText(error) };
}

class IoWorker {
  readonly #platform: Platform;
  readonly #start: IoCommand & { type: "start" };
  readonly #doorbell: Doorbell;
  readonly #answer: (answer: IoAnswer) => void;
  readonly #modules = new Modules<ExecutorModule>("openExecutor");
  readonly #wakers = new Map<number, Waker>();
  readonly #disks = new Map<number, ServedDisk>();
  readonly #self: WorkerActivity;
  /** Disks that wait for their module to load, with the commands for them that came since. */
  readonly #loading = new Map<number, (() => void)[]>();
  #queues: ServedQueue[] = [];
  #nextQueue = 0;
  #passedOn: number | undefined;
  #stopping = false;

  constructor(platform: Platform, start: IoCommand & { type: "start" }, answer: (answer: IoAnswer) => void) {
    this.#platform = platform;
    this.#start = start;
    this.#doorbell = new Doorbell(start.doorbell);
    this.#self = { worker: start.worker, activity: new Activity(start.activity) };
    this.#answer = answer;
  }

  async run(inbox: Inbox): Promise<void> {
    while (!this.#stopping) {
      const rung = this.#doorbell.rung;
      if (this.#doorbell.postedTo(this.#start.worker) !== inbox.taken) {
        this.#obey(await inbox.take());
        continue;
      }
      const worked = this.#visitNext();
      // A module loads only while the event loop runs; the other disks are served meanwhile.
      if (this.#loading.size > 0) await eventLoopTurn();
      else if (!worked) this.#sleep(rung);
    }
  }

  /** A job that this Worker cannot do is passed on, once: it may be the only one that was roused. */
  #sleep(rung: number): void {
    if (rung !== this.#passedOn && this.#queues.some((queue) => queue.hasJobs && !queue.ready)) {
      this.#passedOn = rung;
      this.#doorbell.rouse();
    }
    this.#doorbell.sleep(rung);
  }

  /** Does jobs of the next queue that has some. False: none had any (or their disks occupy Workers enough). */
  #visitNext(): boolean {
    const count = this.#queues.length;
    const { workersPerDisk } = this.#self.activity;
    for (let i = 0; i < count; i++) {
      const at = (this.#nextQueue + i) % count;
      const queue = this.#queues[at]!;
      if (!queue.enter(workersPerDisk)) continue;
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
      case "disk":
        this.#addDisk(command);
        break;
      case "open":
        this.#whenLoaded(
          command.disk,
          () => this.#report(command.request, () => void this.#disks.get(command.disk)?.open()),
        );
        break;
      case "queue":
        this.#whenLoaded(command.disk, () => this.#addQueue(command.disk, command.lane, command.buffer));
        break;
      case "close":
        this.#whenLoaded(command.disk, () => this.#report(command.request, () => this.#close(command.disk)));
        break;
      case "stop":
        this.#stopping = true;
        // Others may have found as many Workers busy with a disk as it may occupy, and rely on this one to look again.
        this.#doorbell.ring();
        this.#doorbell.rouse();
        this.#report(command.request, () => [...this.#disks.keys()].forEach((disk) => this.#close(disk)));
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

  #whenLoaded(disk: number, action: () => void): void {
    const waiting = this.#loading.get(disk);
    if (waiting === undefined) action();
    else waiting.push(action);
  }

  #addDisk({ disk, executor: descriptor, load }: IoCommand & { type: "disk" }): void {
    const served = new ServedDisk(disk, new DiskLoad(load), this.#self);
    this.#disks.set(disk, served);
    const openWith = (module: ExecutorModule): void => {
      served.opener = () => module.openExecutor(descriptor, this.#platform);
    };
    const loaded = this.#modules.get(descriptor.module);
    if (loaded !== undefined) return openWith(loaded);
    const waiting: (() => void)[] = [];
    this.#loading.set(disk, waiting);
    void this.#modules.load(descriptor.module).then(openWith, (error) => {
      served.fail(error);
      served.opener = (): never => {
        throw error;
      };
    }).then(() => {
      // All in one go: from now on the Worker may sleep, and no later command may come first.
      this.#loading.delete(disk);
      waiting.forEach((action) => action());
    });
  }

  #addQueue(disk: number, lane: number, buffer: SharedArrayBuffer): void {
    const served = this.#disks.get(disk);
    const waker = this.#wakers.get(lane);
    if (served === undefined || waker === undefined) return;
    const queue = new ServedQueue(new JobQueue(buffer), served, waker, this.#platform, (error) => {
      this.#answer({ disk, failure: failureOf(error) });
    });
    this.#queues.push(queue);
  }

  #close(disk: number): void {
    const served = this.#disks.get(disk);
    if (served === undefined) return;
    this.#disks.delete(disk);
    this.#queues = this.#queues.filter((queue) => !queue.isOf(served));
    this.#nextQueue = 0;
    served.close();
  }
}

/** One queue as this Worker serves it. */
class ServedQueue {
  readonly #jobs: JobQueue;
  readonly #disk: ServedDisk;
  readonly #waker: Waker;
  readonly #platform: Platform;
  readonly #cannotOpen: (error: unknown) => void;
  /** By channel: views of its buffers, and the generation they belong to. */
  readonly #views = new Array<MemoryViews | undefined>(QUEUE_CHANNELS).fill(undefined);
  readonly #generations = new Int32Array(QUEUE_CHANNELS);
  /** The slot that {@linkcode enter} took. */
  #claimed = -1;

  constructor(
    jobs: JobQueue,
    disk: ServedDisk,
    waker: Waker,
    platform: Platform,
    cannotOpen: (error: unknown) => void,
  ) {
    this.#jobs = jobs;
    this.#cannotOpen = cannotOpen;
    this.#disk = disk;
    this.#waker = waker;
    this.#platform = platform;
  }

  get hasJobs(): boolean {
    return this.#jobs.hasJobs;
  }

  /** Whether it is one of the disk's. */
  isOf(disk: ServedDisk): boolean {
    return this.#disk === disk;
  }

  /** Whether this Worker can do its jobs. */
  get ready(): boolean {
    return this.#disk.ready;
  }

  /** Whether a second Worker would do good: not where calls return at once, since waking it costs more than they do. */
  get wantsHelp(): boolean {
    return this.#disk.load.slow && this.#jobs.hasJobs;
  }

  /**
   * Takes a job, which {@linkcode work} must carry out. False: there is none, or the disk occupies its share of
   * Workers; they will look for more jobs when they are done.
   */
  enter(workersPerDisk: number): boolean {
    if (!this.#jobs.hasJobs || !this.ready || !this.#disk.load.enter(workersPerDisk)) return false;
    if (!this.#canServe()) {
      this.#disk.load.leave();
      return false;
    }
    this.#claimed = this.#jobs.claim();
    if (this.#claimed < 0) this.#disk.load.leave();
    return this.#claimed >= 0;
  }

  /** Opens the disk before a job is taken: others can do the job if it cannot be opened here. */
  #canServe(): boolean {
    if (this.#disk.failed) return true; // nobody has it open: the job fails
    try {
      this.#disk.open();
      return true;
    } catch (error) {
      this.#cannotOpen(error);
      return this.#disk.ready;
    }
  }

  /** Carries out the job taken and some more. */
  work(): void {
    const jobs = this.#jobs;
    const begun = this.#platform.now();
    let now = begun;
    let wokenAt = begun;
    // Where the next job may take long, none that is done waits for it.
    const wakeDelayMs = this.#disk.load.slow ? 0 : WAKE_DELAY_MS;
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
    this.#disk.load.judge((now - begun) / done);
    this.#disk.load.leave();
  }

  #carryOut(slot: number): number {
    const { operation, offsetBytes, lengthBytes, secure, vectors, vectorCount, channel } = this.#jobs;
    const disk = this.#disk;
    let began = false;
    try {
      const executor = disk.open();
      began = true;
      disk.begin();
      if (operation[slot] === OPERATION.discard) {
        return executor.discard?.(offsetBytes[slot]!, lengthBytes[slot]!, secure[slot] === 1) ?? -EOPNOTSUPP;
      }
      return executor.execute(
        operation[slot] as Operation,
        offsetBytes[slot]!,
        vectors,
        slot * JOB_VECTORS,
        vectorCount[slot]!,
        this.#viewsOf(channel[slot]!),
      );
    } catch (error) {
      return errnoOf(error);
    } finally {
      if (began) disk.end();
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
