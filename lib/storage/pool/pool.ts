/**
 * The I/O Workers as the control plane sees them: started when the first disk is opened, or before, told which reactors
 * to wake and which disks to open and close.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { PlatformDescriptor, WakeToken } from "../../hypervisor.ts";
import { channelsClosed, countChannels } from "../open_channels.ts";
import type { PoolAttachment } from "./attachment.ts";
import { DiskLoad } from "./disk_load.ts";
import { Doorbell } from "./doorbell.ts";
import type { ExecutorDescriptor } from "./executor_module.ts";
import { JobQueue } from "./job_queue.ts";
import type { IoAnswer, IoCommand } from "./messages.ts";

/** I/O Workers of a pool by default. */
const DEFAULT_IO_WORKERS = 4;
/** How long a disk's opening waits for I/O Workers that another, stalled disk holds up, once one has opened it. */
const STRAGGLER_GRACE_MS = 500;

/** What a pool is made with. */
export interface IoPoolOptions {
  /** What the Workers open: it turns addresses into bytes, and wakes reactors. */
  readonly platform: PlatformDescriptor;
  /** At least 1; one disk occupies at most all but one of them. */
  readonly workers?: number;
  /** Gets messages for the operator. */
  readonly warn?: (message: string) => void;
  /** An I/O Worker died of a defect: what it was carrying out will never complete. Absent: `warn` gets the reason. */
  readonly failed?: (reason: string) => void;
  /** The Workers' entry; absent: io_worker.ts. For tests. */
  readonly entry?: URL;
}

/** A disk that the I/O Workers have open. */
export interface PoolDisk {
  /** For the reactor of that lane. Throws RangeError for a lane that was not added. */
  attachment(lane: number): PoolAttachment;
  /** Resolves when all channels are closed and no I/O Worker has the disk open. */
  close(): Promise<void>;
}

/** The module of {@linkcode PoolAttachment}s. */
const CHANNEL_MODULE = new URL("./channel.ts", import.meta.url).href;

type Request = IoCommand & { readonly request: number };

/** A bounded number of Workers that make blocking calls for all disks. Dispose it after its disks. */
export class IoPool implements AsyncDisposable {
  readonly #options: IoPoolOptions;
  readonly #count: number;
  readonly #doorbellMemory: SharedArrayBuffer;
  readonly #doorbell: Doorbell;
  readonly #lanes = new Map<number, WakeToken>();
  readonly #answers = new Map<number, PromiseWithResolvers<void>>();
  #workers: Worker[] = [];
  #failure: string | undefined;
  #started: Promise<void> | undefined;
  #hasStarted = false;
  #lastRequest = 0;
  #lastDisk = 0;

  /** Starts nothing yet. Throws {@linkcode XenblkError} if there is to be no Worker. */
  constructor(options: IoPoolOptions) {
    this.#options = options;
    this.#count = options.workers ?? DEFAULT_IO_WORKERS;
    if (!(Number.isInteger(this.#count) && this.#count >= 1)) {
      throw new XenblkError(`Cannot start ${this.#count} I/O Workers: at least 1 is needed`, { kind: "usage" });
    }
    this.#doorbellMemory = Doorbell.allocate(this.#count);
    this.#doorbell = new Doorbell(this.#doorbellMemory);
  }

  /** Makes a reactor known: completions of its channels wake this token. Before its first attachment. */
  addLane(lane: number, token: WakeToken): Promise<void> {
    const { word, fd } = token; // the token itself may have methods, which no message can carry
    this.#lanes.set(lane, { word, fd });
    if (this.#started !== undefined) this.#tell({ type: "lane", lane, token: { word, fd } });
    return Promise.resolve();
  }

  /**
   * Starts the I/O Workers, if they are not, so that the first disk need not wait for them. Rejects with
   * {@linkcode XenblkError} if they cannot be started.
   */
  start(): Promise<void> {
    if (this.#started === undefined) {
      this.#started = this.#startWorkers();
      this.#started.catch(() => {}); // open() reports it
    }
    return this.#started;
  }

  /**
   * Opens a disk in the I/O Workers; `name` is for messages, for instance `image /a/b.img`. Rejects with
   * {@linkcode XenblkError} if one of them cannot open it, or if they cannot be started.
   */
  async open(name: string, executor: ExecutorDescriptor): Promise<PoolDisk> {
    if (this.#failure !== undefined) throw new XenblkError(`Cannot open ${name}: ${this.#failure}`);
    await this.start();
    const disk = ++this.#lastDisk;
    const load = DiskLoad.allocate();
    const opened = this.#ask((request) => ({ type: "open", request, disk, executor, load }));
    try {
      await this.#firstOpened(name, opened);
    } catch (error) {
      this.#ask((request) => ({ type: "close", request, disk })).forEach((closed) => closed.catch(() => {}));
      throw new XenblkError(`Cannot open ${name}: ${errorText(error)}`, { cause: error });
    }
    const doorbell = this.#doorbellMemory;
    return new OpenedDisk({ module: CHANNEL_MODULE, name, doorbell, load, channels: countChannels() }, {
      shareQueue: (lane, buffer) => this.#shareQueue(disk, lane, buffer),
      close: async () => {
        await Promise.all(this.#ask((request) => ({ type: "close", request, disk })));
      },
    });
  }

  /** Ends the I/O Workers, each when it has finished what it does; as long as they have not all started, at once. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#failure === undefined && this.#hasStarted) {
      await Promise.all(this.#ask((request) => ({ type: "stop", request })));
    }
    this.#terminate("the I/O Workers were stopped");
  }

  async #startWorkers(): Promise<void> {
    const entry = this.#options.entry ?? new URL("./io_worker.ts", import.meta.url);
    this.#workers = Array.from({ length: this.#count }, (_, index) => this.#startWorker(entry, index));
    const common = {
      type: "start",
      platform: this.#options.platform,
      doorbell: this.#doorbellMemory,
      workersPerDisk: Math.max(1, this.#count - 1),
    } as const;
    const started = this.#ask((request, worker) => ({ ...common, request, worker }));
    for (const [lane, token] of this.#lanes) this.#tell({ type: "lane", lane, token });
    try {
      await Promise.all(started);
      this.#hasStarted = true;
    } catch (error) {
      this.#terminate(errorText(error));
      throw error;
    }
  }

  /** Their answers will never come. */
  #terminate(reason: string): void {
    this.#failure = reason;
    this.#workers.splice(0).forEach((worker) => worker.terminate());
    this.#rejectAnswers(reason);
  }

  #startWorker(entry: URL, index: number): Worker {
    const worker = new Worker(entry, { type: "module", name: `io-${index}` });
    worker.onmessage = ({ data }: MessageEvent<IoAnswer>): void => this.#settle(data);
    worker.onerror = (event): void => {
      event.preventDefault();
      this.#lost(event.message);
    };
    return worker;
  }

  /** Resolves once the disk is served: every I/O Worker opened it, or one did and the others are held up. */
  async #firstOpened(name: string, opened: readonly Promise<void>[]): Promise<void> {
    let waiting = true;
    for (const one of opened) {
      one.catch((error) => {
        if (!waiting) this.#options.warn?.(`${name}: one I/O Worker less serves it: ${errorText(error)}`);
      });
    }
    const all = Promise.all(opened);
    await Promise.race([all, Promise.any(opened).catch(() => all)]);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const grace = new Promise<void>((resolve) => timer = setTimeout(resolve, STRAGGLER_GRACE_MS));
    try {
      await Promise.race([all, grace]);
    } finally {
      clearTimeout(timer);
      waiting = false;
    }
  }

  #shareQueue(disk: number, lane: number, buffer: SharedArrayBuffer): void {
    if (!this.#lanes.has(lane)) throw new RangeError(`Cannot attach to lane ${lane}: it was not added to the I/O pool`);
    this.#tell({ type: "queue", disk, lane, buffer });
  }

  #tell(command: IoCommand): void {
    this.#workers.forEach((_, index) => this.#post(index, command));
  }

  /** Asks every I/O Worker; one promise each. */
  #ask(command: (request: number, worker: number) => Request): Promise<void>[] {
    return this.#workers.map((_, index) => {
      const request = ++this.#lastRequest;
      const answer = Promise.withResolvers<void>();
      this.#answers.set(request, answer);
      this.#post(index, command(request, index));
      return answer.promise;
    });
  }

  #post(worker: number, command: IoCommand): void {
    this.#workers[worker]!.postMessage(command);
    this.#doorbell.posted(worker);
  }

  #settle({ request, failure }: IoAnswer): void {
    const answer = this.#answers.get(request);
    this.#answers.delete(request);
    if (failure === undefined) answer?.resolve();
    else answer?.reject(new XenblkError(failure.message, failure));
  }

  /** An I/O Worker died of a defect: its answers will never come. */
  #lost(reason: string): void {
    this.#failure = `an I/O Worker failed: ${reason}`;
    (this.#options.failed ?? this.#options.warn)?.(this.#failure);
    this.#rejectAnswers(this.#failure);
  }

  #rejectAnswers(reason: string): void {
    for (const answer of this.#answers.values()) answer.reject(new XenblkError(reason));
    this.#answers.clear();
  }
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
