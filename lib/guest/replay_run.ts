/**
 * A replay, or a sweep over the disk, put together for the thread that holds the rings' ports: the trace, the requests and
 * the results. The thread steps its driver to the end.
 */

import type { EventChannels, Platform } from "../hypervisor.ts";
import { OrderedTrace } from "../trace/order.ts";
import { type OpenTrace, openTrace, type TraceFaults } from "../trace/reader.ts";
import { Checksums } from "./disk_content.ts";
import type { DiskModel } from "./disk_model.ts";
import type { LoadProgress, LoadTarget } from "./load_types.ts";
import { mostSectorsOf, ReplayDriver } from "./replay.ts";
import type { ReplayLatencies, ReplayOutcome, ReplaySpec, SweepSpec } from "./replay_types.ts";
import { SweepFeed, TraceFeed } from "./request_feed.ts";

const NO_FAULTS: TraceFaults = { lost: 0, damagedBlocks: 0, unknownRecords: 0, cutBytes: 0, first: undefined };

/** What a replay runs on. */
export interface ReplayStage {
  readonly target: LoadTarget;
  readonly platform: Platform;
  /** The handle that the target's ports are bound by. */
  readonly events: EventChannels;
  readonly progress: LoadProgress;
  readonly latencies: ReplayLatencies;
  /** Its sectors that are written or discarded become unknown. */
  readonly model?: DiskModel;
}

/** A replay that can be stepped. Disposing it closes the trace. */
export interface Replay extends Disposable {
  readonly driver: ReplayDriver;
  /** The results so far. */
  outcome(): ReplayOutcome;
}

/** Opens a replay. Throws {@linkcode XenblkError} if the trace cannot be opened; its steps throw if it cannot be read. */
export function openReplay(stage: ReplayStage, spec: ReplaySpec | SweepSpec): Replay {
  return spec.kind === "sweep" ? openSweep(stage, spec) : replayTrace(stage, spec, openTrace(spec.trace));
}

function openSweep(stage: ReplayStage, { depth, checksums }: SweepSpec): Replay {
  const feed = new SweepFeed(stage.target.disk, mostSectorsOf(stage.target));
  const driver = new ReplayDriver({ ...stage, feed, depth, checksums: new Checksums(checksums), speed: 0, seed: 0 });
  return {
    driver,
    outcome: () => ({ ...driver.outcome(), records: 0, skipped: [], outOfOrder: 0, faults: NO_FAULTS }),
    [Symbol.dispose]: () => {},
  };
}

function replayTrace(stage: ReplayStage, { depth, speed, seed }: ReplaySpec, trace: OpenTrace): Replay {
  const order = new OrderedTrace(trace.reader);
  const feed = new TraceFeed(order, stage.target.disk);
  const driver = new ReplayDriver({ ...stage, feed, depth, speed, seed });
  return {
    driver,
    outcome: () => ({
      ...driver.outcome(),
      records: feed.count,
      skipped: feed.skipped,
      outOfOrder: order.late,
      faults: trace.reader.faults,
    }),
    [Symbol.dispose]: () => trace[Symbol.dispose](),
  };
}
