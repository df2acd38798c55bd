/**
 * Runs a load on the rings of one drive, in the event loop of the program: the load driver of lib/guest, woken by the
 * backend's events.
 */

import type { DiskFacts } from "../guest/disk_facts.ts";
import type { DiskModel } from "../guest/disk_model.ts";
import type { FrontendConnection } from "../guest/frontend.ts";
import { LoadDriver } from "../guest/load.ts";
import { type LoadOutcome, LoadProgress, type LoadSpec, loadTarget, MIXED_LOAD } from "../guest/load_types.ts";
import type { EventChannels, Platform } from "../hypervisor.ts";
import { EventLoopParker } from "../sim/park.ts";
import { SECTOR_BYTES } from "../units.ts";

/** Turns of a load before the event loop gets one. */
const TURNS_PER_EVENT_LOOP_TURN = 64;
/** Requests of a load that says neither how many nor how long. */
const DEFAULT_REQUESTS = 1000;

/** Which requests a load makes. */
export interface LoadOptions {
  /** Requests to make. Default 1000, if `seconds` is absent too. */
  readonly requests?: number;
  /** For how long requests are made. */
  readonly seconds?: number;
  /** Most requests in flight. Default 32. */
  readonly depth?: number;
  /** Share of reads, from 0 to 1. Default 0.5. */
  readonly mix?: number;
  /** Compare what is read with what was written. Default true. */
  readonly verify?: boolean;
  /** Seed of the choice of requests. Default 1. */
  readonly seed?: number;
  /** Sizes of requests in bytes, or a range. Default 512 to 44 KiB. */
  readonly blockBytes?: LoadSpec["blockBytes"];
  /** Default `random`. */
  readonly pattern?: LoadSpec["pattern"];
  /** Reads and writes between two flushes. Default 0: none. */
  readonly flushEvery?: number;
  /** One of so many writes is a barrier. Default 0: none. */
  readonly barrierEvery?: number;
  /** Reads and writes between two discards. Default 0: none. */
  readonly discardEvery?: number;
  /** The bytes to use. Default the whole disk. */
  readonly area?: { readonly offset: number; readonly length: number };
  /** The size in bytes that the guest takes the disk to have, if not the right one. */
  readonly sizeBytes?: number;
}

/** How far a load is. */
export interface LoadCounts {
  /** Requests that were answered. */
  readonly requests: number;
  /** Bytes that they moved. */
  readonly bytes: number;
  /** Requests that failed. */
  readonly errors: number;
}

/** What a load runs on. */
export interface LoadStage {
  readonly machine: SharedArrayBuffer;
  readonly platform: Platform;
  readonly connection: FrontendConnection;
  readonly events: EventChannels;
  readonly disk: DiskFacts;
  readonly model: DiskModel | undefined;
}

/** What runs on the rings of a connection, and nothing beside it. */
export interface DriveWork<T> {
  /** How far it is. */
  readonly counts: LoadCounts;
  /** Runs to the end. */
  run(): Promise<T>;
  /** Makes no more requests; it ends when all are answered. */
  stop(): void;
  /** Ends at once, with requests unanswered. */
  abandon(): void;
}

/** A load on the rings of a connection, which nobody else uses meanwhile. */
export class DriveLoad implements DriveWork<LoadOutcome> {
  readonly #progress = new LoadProgress();
  readonly #driver: LoadDriver;
  readonly #parker: EventLoopParker;
  readonly #events: EventChannels;
  readonly #seconds: number | undefined;

  /** Throws {@linkcode XenblkError} (`usage`) for options that make no sense on this disk. */
  constructor({ machine, platform, connection, events, disk, model }: LoadStage, options: LoadOptions) {
    const sectors = options.sizeBytes === undefined ? disk.sectors : options.sizeBytes / SECTOR_BYTES;
    this.#driver = new LoadDriver({
      target: { ...loadTarget(connection), disk: { ...disk, sectors } },
      spec: specOf(options),
      platform,
      events,
      ...(model === undefined ? {} : { model }),
      progress: this.#progress,
    });
    this.#events = events;
    this.#seconds = options.seconds;
    this.#parker = new EventLoopParker(machine);
  }

  /** How far it is. */
  get counts(): LoadCounts {
    return this.#progress.read();
  }

  /** Runs to the end. */
  async run(): Promise<LoadOutcome> {
    using parker = this.#parker;
    parker.watch(this.#events);
    using _end = endingTimer(this.#seconds, parker);
    const driver = this.#driver;
    for (let turns = 0; !driver.finished; turns++) {
      const busy = driver.step();
      if (turns >= TURNS_PER_EVENT_LOOP_TURN) {
        await new Promise((resolve) => setTimeout(resolve, 0));
        turns = 0;
      } else if (!busy && !driver.prepareToSleep()) {
        await parker.park();
        turns = 0;
      }
    }
    return driver.outcome();
  }

  /** Makes no more requests; the load ends when all are answered. */
  stop(): void {
    this.#progress.requestStop();
    this.#parker.wake();
  }

  /** Ends at once, with requests unanswered. */
  abandon(): void {
    this.#progress.requestAbandon();
    this.#parker.wake();
  }
}

/** A load that is limited in time looks at the clock when that is over. */
function endingTimer(seconds: number | undefined, parker: EventLoopParker): Disposable {
  const timer = seconds === undefined ? undefined : setTimeout(() => parker.wake(), seconds * 1000);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

function specOf(options: LoadOptions): LoadSpec {
  const { requests, seconds, depth = 32, mix = 0.5, seed = 1, area } = options;
  const { pattern, blockBytes, flushEvery, barrierEvery, discardEvery } = { ...MIXED_LOAD, ...options };
  return {
    seed,
    pattern,
    blockBytes,
    flushEvery,
    barrierEvery,
    depth,
    readShare: mix,
    ...(discardEvery === undefined ? {} : { discardEvery }),
    ...(area === undefined
      ? {}
      : { area: { firstSector: area.offset / SECTOR_BYTES, sectors: area.length / SECTOR_BYTES } }),
    ...(requests === undefined && seconds !== undefined ? {} : { requests: requests ?? DEFAULT_REQUESTS }),
    ...(seconds === undefined ? {} : { durationMs: seconds * 1000 }),
  };
}
