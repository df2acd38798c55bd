/**
 * The I/O Workers as the control plane sees them: started when the first disk is opened, or before, told which reactors
 * to wake and which disks to open and close, and replaced when a disk holds them up.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { PlatformDescriptor, WakeToken } from "../../hypervisor.ts";
import { endsWithin } from "../../within.ts";
import { StorageSilentError } from "../image/file_threads.ts";
import { channelsClosed, countChannels } from "../open_channels.ts";
import { Activity } from "./activity.ts";
import type { PoolAttachment } from "./attachment.ts";
import { DiskLoad } from "./disk_load.ts";
import { Doorbell } from "./doorbell.ts";
import type { ExecutorDescriptor } from "./executor_module.ts";
import { JobQueue } from "./job_queue.ts";
import type { IoCommand } from "./messages.ts";
import { PoolWorker } from "./pool_worker.ts";

/** I/O Workers of a pool by default. */
const DEFAULT_IO_WORKERS = 4;
/** Most I/O Workers that wait for storage that does not answer, beside those that serve. */
const MOST_STUCK = 16;
/** From so many on, a disk occupies one I/O Worker at most: those that are left are for the disks that answer. */
const MANY_STUCK = MOST_STUCK / 4;
/** How often the control plane looks at the Workers: rarely, since idle disks should cost nothing. */
const WATCH_MS = 500;
/** How often while a disk waits to be opened. */
const ASK_MS = 200;
/** After a Worker that could not be started. */
const RESTART_AFTER_MS = 5_000;

/** Limits of a pool; tests shorten them. */
export interface IoPoolLimits {
  /** A Worker in one call for longer is stuck: another one takes its place. Default 1 s. */
  readonly stuckMs: number;
  /** How long opening a disk may take. Default 10 s. */
  readonly openMs: number;
}

/** What a pool is made with. */
export interface IoPoolOptions {
  /** What the Workers open: it turns addresses into bytes, and wakes reactors. */
  readonly platform: PlatformDescriptor;
  /** At least 1; one disk occupies at most all but one of them, or one where many wait for storage. */
  readonly workers?: number;
  /** Gets messages for the operator. */
  readonly warn?: (message: string) => void;
  /** An I/O Worker died of a defect: what it was carrying out will never complete. Absent: `warn` gets the reason. */
  readonly failed?: (reason: string) => void;
  /** The Workers' entry; absent: io_worker.ts. For tests. */
  readonly entry?: URL;
  /** For tests. */
  readonly limits?: Partial<IoPoolLimits>;
}

/** A disk that the I/O Workers serve. */
export interface PoolDisk {
  /** For the reactor of that lane. Throws RangeError for a lane that was not added. */
  attachment(lane: number): PoolAttachment;
  /** Resolves when all channels are closed and no I/O Worker has the disk open, but for those that do not return. */
  close(): Promise<void>;
}

/** The module of {@linkcode PoolAttachment}s. */
const CHANNEL_MODULE = new URL("./channel.ts", import.meta.url).href;

/** A disk, as each Worker is told of it. */
interface DiskRecord {
  readonly name: string;
  readonly command: IoCommand & { readonly type: "disk" };
  readonly queues: (IoCommand & { readonly type: "queue" })[];
  /** A stuck Worker was reported. */
  reported: boolean;
}

/** A bounded number of Workers that make blocking calls for all disks. Dispose it after its disks. */
export class IoPool implements AsyncDisposable {
  readonly #options: IoPoolOptions;
  readonly #limits: IoPoolLimits;
  readonly #count: number;
  readonly #doorbellMemory: SharedArrayBuffer;
  readonly #activityMemory: SharedArrayBuffer;
  readonly #doorbell: Doorbell;
  readonly #activity: Activity;
  readonly #lanes = new Map<number, WakeToken>();
  readonly #disks = new Map<number, DiskRecord>();
  readonly #serving = new Set<PoolWorker>();
  /** They wait for their disk's storage, and end when it answers. */
  readonly #stuck = new Set<PoolWorker>();
  #started: Promise<void> | undefined;
  #ended = false;
  #lastDisk = 0;
  #watch: ReturnType<typeof setInterval> | undefined;
  #restartAt = 0;
  #reportedFull = false;

  /** Starts nothing yet. Throws {@linkcode XenblkError} if there is to be no Worker. */
  constructor(options: IoPoolOptions) {
    this.#options = options;
    this.#limits = { stuckMs: 1_000, openMs: 10_000, ...options.limits };
    this.#count = options.workers ?? DEFAULT_IO_WORKERS;
    if (!(Number.isInteger(this.#count) && this.#count >= 1)) {
      throw new XenblkError(`Cannot start ${this.#count} I/O Workers: at least 1 is needed`, { kind: "usage" });
    }
    this.#doorbellMemory = Doorbell.allocate(this.#count + MOST_STUCK);
    this.#doorbell = new Doorbell(this.#doorbellMemory);
    this.#activityMemory = Activity.allocate(this.#count + MOST_STUCK);
    this.#activity = new Activity(this.#activityMemory);
    this.#shareWorkers();
  }

  /** Makes a reactor known: completions of its channels wake this token. Before its first attachment. */
  addLane(lane: number, token: WakeToken): Promise<void> {
    const { word, fd } = token; // the token itself may have methods, which no message can carry
    this.#lanes.set(lane, { word, fd });
    this.#tell({ type: "lane", lane, token: { word, fd } });
    return Promise.resolve();
  }

  /**
   * Starts the I/O Workers, if they are not, so that the first disk need not wait for them. Rejects with
   * {@linkcode XenblkError} if they cannot be started; the next call tries again.
   */
  start(): Promise<void> {
    if (this.#ended) return Promise.reject(new XenblkError(ENDED));
    if (this.#started === undefined) {
      this.#started = this.#startAll();
      this.#started.catch(() => this.#started = undefined); // open() reports it
    }
    return this.#started;
  }

  /**
   * Opens a disk in one I/O Worker; the others open it when they take one of its jobs. `name` is for messages, for
   * instance `image /a/b.img`. Rejects with {@linkcode XenblkError} if it cannot be opened, if its storage does not answer,
   * or if the Workers cannot be started.
   */
  async open(name: string, executor: ExecutorDescriptor): Promise<PoolDisk> {
    const disk = ++this.#lastDisk;
    const load = DiskLoad.allocate();
    const command = { type: "disk", disk, executor, load } as const;
    try {
      await this.start();
      this.#disks.set(disk, { name, command, queues: [], reported: false });
      this.#watch ??= this.#startWatch();
      this.#tell(command);
      await this.#openInOne(disk, name);
    } catch (error) {
      void this.#close(disk);
      if (error instanceof StorageSilentError) throw error;
      const remedy = error instanceof XenblkError && error.remedy !== undefined ? { remedy: error.remedy } : {};
      throw new XenblkError(`Cannot open ${name}: ${error instanceof XenblkError ? error.message : errorText(error)}`, {
        cause: error,
        ...remedy,
      });
    }
    const doorbell = this.#doorbellMemory;
    return new OpenedDisk({ module: CHANNEL_MODULE, name, doorbell, load, channels: countChannels() }, {
      shareQueue: (lane, buffer) => this.#shareQueue(disk, lane, buffer),
      close: () => this.#close(disk),
    });
  }

  /** Ends the I/O Workers, each when it has finished what it does, but for those that do not return. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    // Workers that have not all started do nothing yet.
    if (this.#started !== undefined && this.#isComplete) {
      this.#watch ??= this.#startWatch();
      await Promise.allSettled(
        [...this.#serving].map((worker) => worker.ask((request) => ({ type: "stop", request }))),
      );
    }
    clearInterval(this.#watch);
    this.#watch = undefined;
    for (const worker of [...this.#serving, ...this.#stuck]) worker.end(ENDED);
    this.#serving.clear();
    this.#stuck.clear();
  }

  get #isComplete(): boolean {
    return this.#serving.size > 0 && [...this.#serving].every(({ hasStarted }) => hasStarted);
  }

  async #startAll(): Promise<void> {
    const workers = Array.from({ length: this.#count }, () => this.#startWorker());
    try {
      await Promise.all(workers.map(({ started }) => started));
    } catch (error) {
      for (const worker of workers) this.#drop(worker, errorText(error));
      throw error;
    }
  }

  /** Starts a Worker, and tells it all that the others know. */
  #startWorker(): PoolWorker {
    const used = new Set([...this.#serving, ...this.#stuck].map(({ index }) => index));
    const index = Array.from({ length: used.size + 1 }, (_, free) => free).find((free) => !used.has(free))!;
    this.#doorbell.reset(index);
    this.#activity.reset(index);
    const worker: PoolWorker = new PoolWorker({
      index,
      entry: this.#options.entry ?? new URL("./io_worker.ts", import.meta.url),
      doorbell: this.#doorbell,
      activity: this.#activity,
      died: (reason) => this.#died(worker, reason),
      cannotOpen: (disk, reason) =>
        this.#options.warn?.(`${this.#nameOf(disk)}: one I/O Worker less serves it: ${reason}`),
    });
    this.#serving.add(worker);
    worker.start({
      platform: this.#options.platform,
      doorbell: this.#doorbellMemory,
      activity: this.#activityMemory,
    });
    for (const [lane, token] of this.#lanes) worker.post({ type: "lane", lane, token });
    for (const { command, queues } of this.#disks.values()) [command, ...queues].forEach((each) => worker.post(each));
    return worker;
  }

  /** Asks one Worker after another to open the disk, as long as those that were asked are held up by other disks. */
  async #openInOne(disk: number, name: string): Promise<void> {
    const end = performance.now() + this.#limits.openMs;
    const asked = new Set<PoolWorker>();
    const answer = Promise.withResolvers<void>();
    const ask = (worker: PoolWorker): void => {
      asked.add(worker);
      worker.ask((request) => ({ type: "open", request, disk })).then(answer.resolve, answer.reject);
    };
    for (let answered = false; !answered;) {
      const idle = [...this.#serving].filter((worker) => !asked.has(worker) && worker.disk === undefined);
      // One that opens it may be held up by the disk itself: then no other one is to be held up, too.
      if (idle[0] !== undefined && ![...asked].some((worker) => worker.disk === disk)) ask(idle[0]);
      const late = performance.now() - end;
      if (late >= 0 && [...this.#serving, ...this.#stuck].some((worker) => worker.disk === disk)) {
        throw silent(name, this.#limits.openMs);
      }
      // One that is not held up is loading the disk's module, and says so itself if it cannot.
      if (late >= 0 && [...asked].every((worker) => worker.disk !== undefined)) throw allBusy(name, this.#stuck.size);
      answered = await endsWithin(answer.promise, Math.min(ASK_MS, late < 0 ? -late : ASK_MS));
    }
  }

  async #close(disk: number): Promise<void> {
    if (!this.#disks.delete(disk)) return;
    // Those that are stuck close it when they return.
    await Promise.allSettled(
      [...this.#serving].map((worker) => worker.ask((request) => ({ type: "close", request, disk }))),
    );
    if (this.#disks.size > 0 || this.#ended) return;
    clearInterval(this.#watch);
    this.#watch = undefined;
  }

  #startWatch(): ReturnType<typeof setInterval> {
    return setInterval(() => this.#look(), Math.min(WATCH_MS, this.#limits.stuckMs));
  }

  /** Replaces Workers that are stuck, and those that died. */
  #look(): void {
    const now = performance.now();
    for (const worker of this.#serving) {
      if (worker.stuckFor(now) < this.#limits.stuckMs) continue;
      if (this.#ended) this.#retire(worker);
      else if (this.#stuck.size < MOST_STUCK) this.#replace(worker);
      else this.#reportFull();
    }
    if (this.#ended || now < this.#restartAt) return;
    while (this.#started !== undefined && this.#serving.size < this.#count) {
      const worker = this.#startWorker();
      worker.started.catch((error) => {
        this.#restartAt = performance.now() + RESTART_AFTER_MS;
        this.#drop(worker, errorText(error));
        this.#options.warn?.(`Cannot start another I/O Worker: ${errorText(error)}`);
      });
    }
  }

  #replace(worker: PoolWorker): void {
    const record = this.#disks.get(worker.disk ?? 0);
    this.#retire(worker);
    if (record === undefined || record.reported) return;
    record.reported = true;
    this.#options.warn?.(
      `${record.name}: its storage does not answer; an I/O Worker waits for it, and another one takes its place`,
    );
  }

  /** It ends when the call that holds it up returns, after closing its disks. */
  #retire(worker: PoolWorker): void {
    this.#serving.delete(worker);
    this.#stuck.add(worker);
    this.#shareWorkers();
    worker.retire().then(() => {
      this.#stuck.delete(worker);
      this.#shareWorkers();
      this.#reportedFull = false;
      worker.end(ENDED);
    }, () => {});
  }

  /** How many Workers one disk may occupy: all but one, or a single one where many are stuck. */
  #shareWorkers(): void {
    this.#activity.workersPerDisk = this.#stuck.size < MANY_STUCK ? Math.max(1, this.#count - 1) : 1;
    this.#doorbell.ring(); // there may be jobs that were left because of it
    this.#doorbell.rouse();
  }

  #reportFull(): void {
    if (this.#reportedFull) return;
    this.#reportedFull = true;
    const names = new Set([...this.#serving, ...this.#stuck].map(({ disk }) => this.#nameOf(disk ?? 0)));
    this.#options.warn?.(
      `${this.#stuck.size} I/O Workers wait for storage that does not answer, and no more are started: ` +
        [...names].join(", "),
    );
  }

  #nameOf(disk: number): string {
    return this.#disks.get(disk)?.name ?? "a disk that is being closed";
  }

  #drop(worker: PoolWorker, reason: string): void {
    this.#serving.delete(worker);
    this.#stuck.delete(worker);
    worker.end(reason);
  }

  /** A Worker died of a defect: what it was carrying out will never complete. */
  #died(worker: PoolWorker, reason: string): void {
    const { hasStarted } = worker;
    this.#drop(worker, `an I/O Worker failed: ${reason}`);
    if (hasStarted) (this.#options.failed ?? this.#options.warn)?.(`an I/O Worker failed: ${reason}`);
  }

  #shareQueue(disk: number, lane: number, buffer: SharedArrayBuffer): void {
    if (!this.#lanes.has(lane)) throw new RangeError(`Cannot attach to lane ${lane}: it was not added to the I/O pool`);
    const command = { type: "queue", disk, lane, buffer } as const;
    this.#disks.get(disk)?.queues.push(command);
    this.#tell(command);
  }

  #tell(command: IoCommand): void {
    for (const worker of this.#serving) worker.post(command);
  }
}

const ENDED = "the I/O Workers were stopped";

function silent(name: string, limitMs: number): StorageSilentError {
  return new StorageSilentError(
    `Cannot open ${name}: its storage does not answer (open took longer than ${limitMs / 1000} s)`,
    { remedy: "check the device or file server that it is on" },
  );
}

function allBusy(name: string, stuck: number): StorageSilentError {
  return new StorageSilentError(`Cannot open ${name}: every I/O Worker is busy; ${stuck} wait for other storage`, {
    remedy: "check the devices or file servers of the images that do not answer",
  });
}

/** What an opened disk asks of its pool. */
interface PoolLink {
  readonly shareQueue: (lane: number, buffer: SharedArrayBuffer) => void;
  readonly close: () => Promise<void>;
}

/** What the attachments of all lanes have in common. */
type CommonToLanes = Pick<PoolAttachment, "module" | "name" | "doorbell" | "load" | "channels">;

/** One queue per lane, made when a reactor first needs it and used by all its channels to the disk. */
class OpenedDisk implements PoolDisk {
  readonly #common: CommonToLanes;
  readonly #pool: PoolLink;
  readonly #attachments = new Map<number, PoolAttachment>();

  constructor(common: CommonToLanes, pool: PoolLink) {
    this.#common = common;
    this.#pool = pool;
  }

  attachment(lane: number): PoolAttachment {
    const known = this.#attachments.get(lane);
    if (known !== undefined) return known;
    const queue = JobQueue.allocate();
    this.#pool.shareQueue(lane, queue);
    const made = { ...this.#common, id: crypto.randomUUID(), queue };
    this.#attachments.set(lane, made);
    return made;
  }

  async close(): Promise<void> {
    await channelsClosed(this.#common.channels);
    await this.#pool.close();
  }
}
