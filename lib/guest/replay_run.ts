/**
 * Runs a replay, or a sweep over the disk, in the thread that holds the rings' ports: opens the trace, drives the requests
 * and puts the results together.
 */

import type { EventChannels, Parker, Platform } from "../hypervisor.ts";
import { OrderedTrace } from "../trace/order.ts";
import { openTrace, type TraceFaults } from "../trace/reader.ts";
import { Checksums } from "./disk_content.ts";
import { runLoad } from "./load.ts";
import type { LoadCommand } from "./load_messages.ts";
import { LoadProgress } from "./load_types.ts";
import { type DriverOutcome, mostSectorsOf, ReplayDriver, type ReplayEnvironment } from "./replay.ts";
import { ReplayLatencies, type ReplayOutcome } from "./replay_types.ts";
import { SweepFeed, TraceFeed } from "./request_feed.ts";

const NO_FAULTS: TraceFaults = { lost: 0, damagedBlocks: 0, unknownRecords: 0, cutBytes: 0, first: undefined };

/** The thread that a replay runs in. */
interface ReplayPlace {
  readonly platform: Platform;
  readonly events: EventChannels;
  readonly parker: Parker;
}

/** Runs it to its end. Throws {@linkcode XenblkError} if the trace cannot be read. */
export function runReplay(
  { target, spec, progress, latencies }: Extract<LoadCommand, { type: "replay" }>,
  { platform, events, parker }: ReplayPlace,
): ReplayOutcome {
  const common = {
    target,
    platform,
    events,
    depth: spec.depth,
    progress: new LoadProgress(progress),
    latencies: new ReplayLatencies(latencies),
  };
  if (spec.kind === "sweep") {
    const feed = new SweepFeed(target.disk, mostSectorsOf(target));
    const checksums = new Checksums(spec.checksums);
    const swept = drive({ ...common, feed, checksums, speed: 0, seed: 0 }, parker);
    return { ...swept, records: 0, skipped: [], outOfOrder: 0, faults: NO_FAULTS };
  }
  using trace = openTrace(spec.trace);
  const order = new OrderedTrace(trace.reader);
  const feed = new TraceFeed(order, target.disk);
  const driven = drive({ ...common, feed, speed: spec.speed, seed: spec.seed }, parker);
  return { ...driven, records: feed.count, skipped: feed.skipped, outOfOrder: order.late, faults: trace.reader.faults };
}

function drive(environment: ReplayEnvironment, parker: Parker): DriverOutcome {
  const driver = new ReplayDriver(environment);
  runLoad(driver, parker);
  return driver.outcome();
}
