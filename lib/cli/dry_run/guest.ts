/**
 * One simulated guest of a dry run. It has an image, a model of what the image must hold, a frontend in this thread, and
 * a load in a Worker.
 */

import { SECTOR_BYTES } from "../../units.ts";
import type { AbiName } from "../../blkif/abi.ts";
import { XenblkError } from "../../errors.ts";
import type { Histogram } from "../../histogram.ts";
import type { DomId, Platform, Xenstore } from "../../hypervisor.ts";
import { DiskModel } from "../../guest/disk_model.ts";
import { Frontend, type FrontendConnection, type FrontendOptions } from "../../guest/frontend.ts";
import { type LoadRun, LoadThread } from "../../guest/load_thread.ts";
import { type LoadOutcome, type LoadSpec, loadTarget } from "../../guest/load_types.ts";
import { type ImageVerdict, rememberImageFile, verifyImageFile } from "../../guest/verify_image.ts";
import { frontendPath } from "../../xenbus/paths.ts";

/** The most sectors of a disk that a dry run uses. The model takes 8 bytes per sector. */
const MOST_SECTORS = 2 ** 23;
/** Sectors of the largest direct request. */
const READ_BACK_SECTORS = 88;

/** The image of a guest. */
export interface GuestImage {
  /** As the backend's `params` node names it. */
  readonly params: string;
  /** The image file, to verify after the run; undefined for other images. */
  readonly path: string | undefined;
  readonly readOnly: boolean;
  /** What unwritten sectors hold; undefined: the disk stores nothing, so nothing can be verified. */
  readonly baseline: "zeroes" | "anything" | undefined;
}

/** The rings that a guest's frontend asks for. */
export type GuestRings = Required<Pick<FrontendOptions, "ringPages" | "queues" | "segments" | "requests">>;

/** The parts and settings of a guest. */
export interface GuestOptions {
  readonly domain: DomId;
  readonly vdev: number;
  readonly platform: Platform;
  readonly store: Xenstore;
  readonly abi: AbiName;
  readonly rings: GuestRings;
  readonly image: GuestImage;
  readonly seed: number;
}

/** The outcome of one load, and how long its requests took. */
export interface LoadResult {
  readonly outcome: LoadOutcome;
  readonly histogram: Histogram;
}

/** A guest with one disk. */
export class DryRunGuest implements AsyncDisposable {
  readonly #options: GuestOptions;
  readonly #thread: LoadThread;
  readonly #frontend: Frontend;
  #connection: FrontendConnection | undefined;
  #model: DiskModel | undefined;
  #run: LoadRun | undefined;
  #stopped = false;
  #dead = false;

  private constructor(options: GuestOptions, thread: LoadThread) {
    const { domain, vdev, platform, store, abi, rings } = options;
    this.#options = options;
    this.#thread = thread;
    const path = frontendPath({ frontendDomain: domain, vdev });
    this.#frontend = new Frontend({ ...rings, platform, store, path, abi, endpoint: thread });
  }

  /** Starts the guest's Worker. */
  static async start(options: GuestOptions): Promise<DryRunGuest> {
    return new DryRunGuest(options, await LoadThread.start(options.platform));
  }

  /** Connects. If the guest will write to a given file, reads its present content into the model first. */
  async connect(): Promise<void> {
    const connection = await this.#frontend.connect();
    this.#connection = connection;
    const { image, seed } = this.#options;
    if (image.baseline === undefined) return;
    this.#model = DiskModel.create(Math.min(connection.disk.sectors, MOST_SECTORS), seed, image.baseline);
    if (image.baseline === "anything" && !image.readOnly && image.path !== undefined) {
      rememberImageFile(image.path, this.#model);
    }
  }

  /** The number of 512-byte sectors that loads use, and that the disk has. */
  get sectors(): { readonly used: number; readonly all: number } {
    const all = this.#connection!.disk.sectors;
    return { used: Math.min(all, MOST_SECTORS), all };
  }

  /** The running load, if any. */
  get run(): LoadRun | undefined {
    return this.#run;
  }

  /** The number of requests of a read-back. */
  get readBackRequests(): number {
    return Math.ceil(this.sectors.used / READ_BACK_SECTORS);
  }

  /** Runs one load to its end. */
  async load(spec: LoadSpec): Promise<LoadResult> {
    const area = { firstSector: 0, sectors: this.sectors.used };
    const run = this.#thread.run(loadTarget(this.#connection!), { area, ...spec }, this.#model);
    this.#run = run;
    if (this.#stopped) this.stop();
    try {
      return { outcome: await run.outcome, histogram: run.progress.histogram };
    } finally {
      this.#run = undefined;
    }
  }

  /** Reads each sector that loads use once, in order. */
  async readBack(depth: number): Promise<LoadResult[]> {
    const { used } = this.sectors;
    const whole = Math.floor(used / READ_BACK_SECTORS);
    const rest = used % READ_BACK_SECTORS;
    const spec = { seed: 1, pattern: "sequential", readShare: 1, flushEvery: 0, barrierEvery: 0, depth } as const;
    const results: LoadResult[] = [];
    if (whole > 0) {
      results.push(await this.load({ ...spec, blockBytes: [READ_BACK_SECTORS * SECTOR_BYTES], requests: whole }));
    }
    if (rest > 0 && !this.#stopped) {
      const area = { firstSector: used - rest, sectors: rest };
      results.push(await this.load({ ...spec, blockBytes: [rest * SECTOR_BYTES], requests: 1, area }));
    }
    return results;
  }

  /** Ends this load, and every later one, once its requests in flight are answered. */
  stop(): void {
    this.#stopped = true;
    this.#run?.stop().catch(() => {}); // the caller of load() gets the error
  }

  /** Ends the guest at once, for the case that the backend does not answer. */
  kill(): void {
    this.#dead = true;
    this.#thread.terminate();
  }

  /** Closes the disk, as a guest does when it unloads its driver. */
  async disconnect(): Promise<void> {
    await this.#frontend.disconnect();
  }

  /** Compares the image file with the model. Undefined if there is no file, or no model. */
  verifyImage(): ImageVerdict | undefined {
    const { path } = this.#options.image;
    if (path === undefined || this.#model === undefined) return undefined;
    try {
      return verifyImageFile(path, this.#model);
    } catch (error) {
      throw error instanceof XenblkError ? error : new XenblkError(`Cannot verify image ${path}`, { cause: error });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#dead) return;
    this.stop();
    await this.#thread[Symbol.asyncDispose]();
    this.#frontend[Symbol.dispose]();
  }
}
