/**
 * Part four of the bench: disks in TypeScript, each in a process of its own, beside the engine memory in one `serve` under
 * the same frontend. Shows what the way to the plugin's process costs.
 */

import { errorText, XenblkError } from "../lib/errors.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { GuestProcess } from "../tests/native/serve/guest.ts";
import { type DiskToServe, startServe } from "./backends.ts";
import { type DiskCase, diskCase, ringPagesFor } from "./cases.ts";
import { runGuest } from "./guest.ts";
import type { PackedProgram } from "./packed_program.ts";
import type { Sample } from "./samples.ts";

/** What to measure, and how long. */
export interface PluginPlan {
  readonly rounds: number;
  readonly roundMs: number;
  readonly program: PackedProgram;
  /** More arguments for `serve`. */
  readonly serveArguments: readonly string[];
  /** Ends the run after the current round. */
  readonly signal: AbortSignal;
}

/** The rounds of one disk on one case. */
export interface PluginResult {
  /** For people: `memory`, `plugin, no-op`. */
  readonly disk: string;
  readonly case: DiskCase;
  readonly samples: readonly Sample[];
}

/** All of part four. */
export interface PluginReport {
  readonly results: readonly PluginResult[];
  readonly leftOut: readonly string[];
  readonly failures: readonly string[];
}

const GUEST = 7;
const WARM_UP_MS = 300;
const SIZE = "64M";

const CASES: readonly DiskCase[] = [
  diskCase("random", "read", 4, 1),
  diskCase("random", "read", 4, 32),
  diskCase("random", "write", 4, 32),
  diskCase("random", "read", 4, 128),
  diskCase("sequential", "read", 128, 8),
];

/** By name: the disk's `params`. */
const DISKS: Readonly<Record<string, string>> = {
  "memory": `memory:${SIZE}`,
  "plugin, no-op": `plugin:${pathOf("null_disk.ts")}?${SIZE}`,
  "plugin, in memory": `plugin:${pathOf("memory_disk.ts")}?${SIZE}`,
};

function pathOf(name: string): string {
  return new URL(`./plugins/${name}`, import.meta.url).pathname;
}

/** Runs part four. `progress` is called with what is measured next. */
export async function runPlugin(plan: PluginPlan, progress: (text: string) => void): Promise<PluginReport> {
  const missing = missingParts();
  if (missing !== undefined) return { results: [], leftOut: [`plugins on the native fakes: ${missing}`], failures: [] };
  try {
    return { results: await measure(plan, progress), leftOut: [], failures: [] };
  } catch (error) {
    return { results: [], leftOut: [], failures: [`plugins: ${errorText(error)}`] };
  }
}

async function measure(plan: PluginPlan, progress: (text: string) => void): Promise<PluginResult[]> {
  await using started = new AsyncDisposableStack();
  const xen = started.use(await NativeXen.start());
  await xen.createDomain(GUEST);
  const guest = started.use(new GuestProcess(xen, GUEST));
  const pages = Math.max(...CASES.map(ringPagesFor));
  const wanted = Object.entries(DISKS).map(([key, params]): DiskToServe => {
    return { key, pages, params, directPath: undefined, shared: false };
  });
  const args = ["--allow-image", `plugin:${pathOf("")}*`, ...plan.serveArguments];
  const { disks, lacks } = started.use(await startServe({ xen, guest }, plan.program, "vbd3", wanted, args));
  for (const why of lacks.values()) throw new XenblkError(`Cannot measure plugins: ${why}`);
  const results: PluginResult[] = [];
  for (const one of CASES) {
    const samples = new Map<string, Sample[]>([...disks.keys()].map((key) => [key, []]));
    for (const disk of disks.values()) await runGuest(disk, one, WARM_UP_MS, 0);
    for (let round = 0; round < plan.rounds && !plan.signal.aborted; round++) {
      for (const [key, disk] of disks) {
        progress(`${one.name}, round ${round + 1} of ${plan.rounds}, ${key}`);
        samples.get(key)!.push(await runGuest(disk, one, plan.roundMs, round + 1));
      }
    }
    for (const [disk, rounds] of samples) if (rounds.length > 0) results.push({ disk, case: one, samples: rounds });
  }
  return results;
}
