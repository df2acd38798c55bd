/**
 * The I/O Workers as the control plane sees them: started when the first file is opened, or before, told which reactors
 * to wake and which files to open and close. It sees no job and no data.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { PlatformDescriptor, WakeToken } from "../../hypervisor.ts";
import type { DiskAttachment } from "../disk.ts";
import { Doorbell } from "./doorbell.ts";
import { channelsClosed, type ImageFile } from "../image/file.ts";
import type { IoAnswer, IoCommand } from "./messages.ts";
import { JobQueue } from "./job_queue.ts";

/** I/O Workers of a pool that is not told how many. */
const DEFAULT_IO_WORKERS = 4;
/** How long an image's opening waits for I/O Workers that another, stalled disk holds up, once one has opened it. */
const STRAGGLER_GRACE_MS = 500;

/** What a pool is made with. */
export interface IoPoolOptions {
  /** What the Workers open: it turns addresses into bytes, and wakes reactors. */
  readonly platform: PlatformDescriptor;
  /** At least 1; one disk occupies at most all but one of them. */
  readonly workers?: number;
  /** Called with what an operator should know and nobody waits to hear. */
  readonly warn?: (message: string) => void;
  /** An I/O Worker died of a defect: what it was carrying out will never be done. Absent: `warn` is told. */
  readonly failed?: (reason: string) => void;
  /** The Workers' module; only tests give another than io_worker.ts. */
  readonly entry?: URL;
}

/** What a reactor needs to submit jobs for one file; see disk.ts. */
export interface PoolAttachment extends DiskAttachment {
  /** Tells openChannel which engine it is for. */
  readonly engine: "file";
  /** Distinguishes queues; the same in every thread. */
  readonly id: string;
  /** The jobs; see job_queue.ts. */
  readonly queue: SharedArrayBuffer;
  /** What I/O Workers sleep on; see doorbell.ts. */
  readonly doorbell: SharedArrayBuffer;
  /** The file whose channels are counted. */
  readonly image: ImageFile;
}

/** A file that the I/O Workers have open. */
export interface PoolFile {
  /** For the reactor of that lane. Throws RangeError for a lane that was not added. */
  attachment(lane: number): PoolAttachment;
  /** Resolves when all channels are closed and no I/O Worker has the file open. */
  close(): Promise<void>;
}

type Request = IoCommand & { readonly request: number };

/** A bounded number of Workers that make blocking file calls for all disks. Dispose it after its disks. */
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
  #lastFile = 0;

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
   * Starts the I/O Workers, if they are not, so that the first file need not wait for them. Rejects with
   * {@linkcode XenblkError} if they cannot be started.
   */
  start(): Promise<void> {
    if (this.#started === undefined) {
      this.#started = this.#startWorkers();
      this.#started.catch(() => {}); // whoever opens a file hears of it
    }
    return this.#started;
  }

  /**
   * Opens an image in the I/O Workers. Rejects with {@linkcode XenblkError} if one of them cannot open it, or if they
   * cannot be started.
   */
  async openFile(image: ImageFile): Promise<PoolFile> {
    if (this.#failure !== undefined) throw new XenblkError(`Cannot open image ${image.path}: ${this.#failure}`);
    await this.start();
    const file = ++this.#lastFile;
    const opened = this.#ask((request) => ({ type: "open", request, file, image }));
    try {
      await this.#firstOpened(image, opened);
    } catch (error) {
      this.#ask((request) => ({ type: "close", request, file })).forEach((closed) => closed.catch(() => {}));
      throw new XenblkError(`Cannot open image ${image.path}: ${errorText(error)}`, { cause: error });
    }
    return new OpenedFile(image, this.#doorbellMemory, {
      shareQueue: (lane, buffer) => this.#shareQueue(file, lane, buffer),
      close: async () => {
        await Promise.all(this.#ask((request) => ({ type: "close", request, file })));
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
      workersPerFile: Math.max(1, this.#count - 1),
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

  /** Nobody may wait for their answers any more. */
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

  /** Whether the image is served: every I/O Worker opened it, or one did and the others are held up. */
  async #firstOpened(image: ImageFile, opened: readonly Promise<void>[]): Promise<void> {
    let waiting = true;
    for (const one of opened) {
      one.catch((error) => {
        if (!waiting) this.#options.warn?.(`image ${image.path}: one I/O Worker less serves it: ${errorText(error)}`);
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

  #shareQueue(file: number, lane: number, buffer: SharedArrayBuffer): void {
    if (!this.#lanes.has(lane)) throw new RangeError(`Cannot attach to lane ${lane}: it was not added to the I/O pool`);
    this.#tell({ type: "queue", file, lane, buffer });
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

  /** An I/O Worker died of a bug: nobody may wait for its answers. */
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

/** What an opened file asks of its pool. */
interface PoolLink {
  readonly shareQueue: (lane: number, buffer: SharedArrayBuffer) => void;
  readonly close: () => Promise<void>;
}

/** One queue a lane, made when a reactor first needs it and used by all its channels to the file. */
class OpenedFile implements PoolFile {
  readonly #image: ImageFile;
  readonly #doorbell: SharedArrayBuffer;
  readonly #pool: PoolLink;
  readonly #attachments = new Map<number, PoolAttachment>();

  constructor(image: ImageFile, doorbell: SharedArrayBuffer, pool: PoolLink) {
    this.#image = image;
    this.#doorbell = doorbell;
    this.#pool = pool;
  }

  attachment(lane: number): PoolAttachment {
    const known = this.#attachments.get(lane);
    if (known !== undefined) return known;
    const queue = JobQueue.allocate();
    this.#pool.shareQueue(lane, queue);
    const id = crypto.randomUUID();
    const made = { engine: "file", id, queue, doorbell: this.#doorbell, image: this.#image } as const;
    this.#attachments.set(lane, made);
    return made;
  }

  async close(): Promise<void> {
    await channelsClosed(this.#image);
    await this.#pool.close();
  }
}
