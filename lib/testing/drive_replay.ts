/**
 * Replays a trace on the rings of one drive, in the event loop of the program: the replay driver of lib/guest, woken by the
 * backend's events and by the times of the trace.
 */

import { XenblkError } from "../errors.ts";
import { LoadProgress, loadTarget } from "../guest/load_types.ts";
import { openReplay, type Replay } from "../guest/replay_run.ts";
import { ReplayLatencies, type ReplayOutcome } from "../guest/replay_types.ts";
import type { LatencySummary } from "../histogram.ts";
import type { EventChannels } from "../hypervisor.ts";
import { EventLoopParker } from "../sim/park.ts";
import type { TraceOperation } from "../trace/record.ts";
import type { DriveWork, LoadCounts, LoadStage } from "./drive_load.ts";

/** Turns of a replay before the event loop gets one. */
const TURNS_PER_EVENT_LOOP_TURN = 64;
/** The longest wait that a timer can have. */
const MOST_TIMER_MS = 2 ** 31 - 1;

/** How a trace is replayed. */
export interface ReplayOptions {
  /** When requests are made: as fast as they are answered, at their recorded times, or so many times as fast. Default `max`. */
  readonly speed?: "max" | "recorded" | number;
  /** Most requests in flight. Default 32. */
  readonly depth?: number;
  /** Decides the data that is written: a trace has none. Default 1. */
  readonly seed?: number;
}

/** The results of a replay, and how long its requests took. */
export interface ReplayResult extends ReplayOutcome {
  /** By operation. */
  readonly latencies: Readonly<Record<TraceOperation, LatencySummary>>;
}

/** A replay on the rings of a connection, which nobody else uses meanwhile. */
export class DriveReplay implements DriveWork<ReplayResult> {
  readonly #progress = new LoadProgress();
  readonly #latencies = new ReplayLatencies();
  readonly #replay: Replay;
  readonly #parker: EventLoopParker;
  readonly #events: EventChannels;

  /** Opens the trace. Throws {@linkcode XenblkError} if that fails, or (`usage`) for a speed that is none. */
  constructor(
    { machine, platform, connection, events, disk, model }: LoadStage,
    trace: string,
    options: ReplayOptions,
  ) {
    const { speed = "max", depth = 32, seed = 1 } = options;
    if (typeof speed === "number" && !(speed > 0)) {
      throw new XenblkError(`Cannot replay ${trace} at speed ${speed}`, {
        kind: "usage",
        remedy: "use max, recorded, or a number above 0",
      });
    }
    const factor = speed === "max" ? 0 : speed === "recorded" ? 1 : speed;
    this.#replay = openReplay({
      target: { ...loadTarget(connection), disk },
      platform,
      events,
      progress: this.#progress,
      latencies: this.#latencies,
      ...(model === undefined ? {} : { model }),
    }, { kind: "trace", trace, speed: factor, depth, seed });
    this.#events = events;
    this.#parker = new EventLoopParker(machine);
  }

  /** How far it is. */
  get counts(): LoadCounts {
    return this.#progress.read();
  }

  /** Runs to the end. Rejects with {@linkcode XenblkError} if the trace cannot be read. */
  async run(): Promise<ReplayResult> {
    using replay = this.#replay;
    using parker = this.#parker;
    parker.watch(this.#events);
    const { driver } = replay;
    for (let turns = 0; !driver.finished; turns++) {
      const busy = driver.step();
      if (turns >= TURNS_PER_EVENT_LOOP_TURN) {
        await new Promise((resolve) => setTimeout(resolve, 0));
        turns = 0;
      } else if (!busy && !driver.prepareToSleep()) {
        await park(parker, driver.sleepMs);
        turns = 0;
      }
    }
    const [read, write, flush, discard] = this.#latencies.histograms.map((each) => each.summary());
    const latencies = { read: read!, write: write!, flush: flush!, discard: discard! };
    return { ...replay.outcome(), latencies };
  }

  /** Makes no more requests; the replay ends when all are answered. */
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

/** Until the next request's time, if it waits for that; a negative time is none. */
async function park(parker: EventLoopParker, sleepMs: number): Promise<void> {
  const timer = sleepMs < 0 ? undefined : setTimeout(() => parker.wake(), Math.min(sleepMs, MOST_TIMER_MS));
  try {
    await parker.park();
  } finally {
    clearTimeout(timer);
  }
}
