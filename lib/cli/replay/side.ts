/**
 * One side of a replay: an image, the settings that it is served with, and the results of the trace on it. The real data
 * plane serves it to one simulated guest.
 */

import type { GrantChoice } from "../../backend/grant_choice.ts";
import type { DeviceSettings } from "../../backend/settings.ts";
import { XenblkError } from "../../errors.ts";
import { checksumMemory } from "../../guest/disk_content.ts";
import { Frontend, type FrontendConnection } from "../../guest/frontend.ts";
import { LoadThread, type ReplayRun } from "../../guest/load_thread.ts";
import { loadTarget } from "../../guest/load_types.ts";
import type { ReplayLatencies, ReplayOutcome, ReplaySpec, SweepSpec } from "../../guest/replay_types.ts";
import type { PluginSettings } from "../../storage/plugin/settings.ts";
import type { PluginClient } from "../../storage/plugin/types.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { frontendPath } from "../../xenbus/paths.ts";
import type { GuestRings } from "../dry_run/guest.ts";
import { DryRunMachine } from "../dry_run/machine.ts";

const TICK_MS = 100;
/** A replay has stalled if requests are in flight and none is answered for this long. */
const STALL_MS = 60_000;

/** An image, and how it is served. */
export interface SideOptions {
  /** `A` or `B`. */
  readonly name: string;
  /** As the node `params` names it. */
  readonly params: string;
  /** For people. */
  readonly description: string;
  /** Runs the image if it is in TypeScript. */
  readonly plugins?: PluginClient;
  readonly settings: Partial<DeviceSettings>;
  readonly grants: GrantChoice;
  readonly workers: number;
  readonly plugin: PluginSettings;
  readonly rings: GuestRings;
}

/** How a side is watched. */
export interface SideWatch {
  /** Ends the replay once its requests in flight are answered. */
  readonly signal: AbortSignal;
  /** Gets what has been done so far, several times a second. */
  readonly progress: (requests: number, bytes: number, elapsedMs: number) => void;
}

/** The results of a side. */
export interface SideResult {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly outcome: ReplayOutcome;
  readonly latencies: ReplayLatencies;
  /** Of the whole disk afterwards; undefined: it was not read, or not whole. */
  readonly checksums: SharedArrayBuffer | undefined;
}

/** Replays the trace, and then reads the disk whole if `sweeps`. Rejects with {@linkcode XenblkError}. */
export async function replaySide(
  side: SideOptions,
  spec: ReplaySpec,
  sweeps: boolean,
  watch: SideWatch,
): Promise<SideResult> {
  const { rings, params } = side;
  await using machine = await DryRunMachine.start({ ...side, guests: 1, frontend: rings });
  const { domain, vdev, platform, store } = machine.addDisk({ params, readOnly: false });
  await using thread = await LoadThread.start(platform);
  const path = frontendPath({ frontendDomain: domain, vdev });
  using frontend = new Frontend({ ...rings, platform, store, path, endpoint: thread });
  const connection = await frontend.connect();
  const { outcome, latencies } = await run(thread, connection, spec, watch);
  const { sectors } = connection.disk;
  const checksums = sweeps && !watch.signal.aborted
    ? await sweep(thread, connection, { kind: "sweep", depth: spec.depth, checksums: checksumMemory(sectors) }, watch)
    : undefined;
  await frontend.disconnect();
  const { name, description } = side;
  return { name, description, sizeBytes: sectors * SECTOR_BYTES, outcome, latencies, checksums };
}

/** The checksums, if every sector could be read. */
async function sweep(
  thread: LoadThread,
  connection: FrontendConnection,
  spec: SweepSpec,
  watch: SideWatch,
): Promise<SharedArrayBuffer | undefined> {
  const { outcome: { operations } } = await run(thread, connection, spec, watch);
  const isWhole = operations.every(({ errors }) => errors === 0) && !watch.signal.aborted;
  return isWhole ? spec.checksums : undefined;
}

/** Runs one pass to its end. */
async function run(
  thread: LoadThread,
  connection: FrontendConnection,
  spec: ReplaySpec | SweepSpec,
  { signal, progress }: SideWatch,
): Promise<{ readonly outcome: ReplayOutcome; readonly latencies: ReplayLatencies }> {
  const run = thread.replay(loadTarget(connection), spec);
  const stop = (): void => void run.stop().catch(() => {}); // whoever awaits the outcome gets the error
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  const stalled = Promise.withResolvers<never>();
  const timer = setInterval(
    watchStall(run, progress, () => {
      thread.terminate();
      const seconds = STALL_MS / 1000;
      stalled.reject(
        new XenblkError(`Cannot finish the replay: no request was answered for ${seconds} s`, {
          remedy: "check the image's storage, and the filters in front of it",
        }),
      );
    }),
    TICK_MS,
  );
  try {
    return { outcome: await Promise.race([run.outcome, stalled.promise]), latencies: run.latencies };
  } finally {
    clearInterval(timer);
    signal.removeEventListener("abort", stop);
  }
}

/** Reports progress at each call, and once that nothing is answered any more. */
function watchStall(run: ReplayRun, progress: SideWatch["progress"], stalled: () => void): () => void {
  const beganMs = performance.now();
  let [answered, changedMs] = [-1, beganMs];
  return () => {
    const nowMs = performance.now();
    const { requests, bytes, inFlight } = run.progress.read();
    if (requests !== answered || inFlight === 0) [answered, changedMs] = [requests, nowMs];
    progress(requests, bytes, nowMs - beganMs);
    if (nowMs - changedMs > STALL_MS) stalled();
  };
}
