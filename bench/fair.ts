/**
 * Part five of the bench: guests that share one reactor. A guest that reads one page at a time is measured alone and
 * beside neighbours, then two busy guests with different weights. The serving process has a processor of its own; the
 * guests' processes share the others.
 */

import { XenblkError } from "../lib/errors.ts";
import type { LoadOutcome, LoadSpec } from "../lib/guest/load_types.ts";
import type { DomId } from "../lib/hypervisor.ts";
import { frontendPath } from "../lib/xenbus/paths.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { attach, BackendProcess, sparseImage } from "../tests/native/serve/backend.ts";
import { type GuestDisk, GuestProcess } from "../tests/native/serve/guest.ts";
import type { PackedProgram } from "./packed_program.ts";

/** What to measure, and how long. */
export interface FairPlan {
  readonly roundMs: number;
  readonly program: PackedProgram;
  /** More arguments for `serve`. */
  readonly serveArguments: readonly string[];
}

/** The guest with one request at a time: its reads per second, and the 99th percentile of their time. */
export interface SmallFigures {
  readonly iops: number;
  readonly p99Us: number;
}

/** The figures. */
export interface FairResult {
  readonly alone: SmallFigures;
  /** By the neighbours' load; `share` is of the fair share: what it does alone, divided by the guests. */
  readonly beside: readonly (SmallFigures & { readonly load: string; readonly share: number })[];
  /** IOPS of two busy guests, and their weights. */
  readonly weighted: readonly { readonly weight: number; readonly iops: number }[];
}

/** The figures, or the reason why there are none. */
export interface FairReport {
  readonly result: FairResult | undefined;
  readonly leftOut: readonly string[];
}

const IMAGE_BYTES = 64 * 2 ** 20;
const NEIGHBOURS = 4;
const READS = { seed: 1, pattern: "random", readShare: 1, flushEvery: 0, barrierEvery: 0 } as const;
const SMALL: LoadSpec = { ...READS, blockBytes: [4096], depth: 1 };
const LOADS: Readonly<Record<string, LoadSpec>> = {
  "4 KiB reads, 32 in flight": { ...READS, blockBytes: [4096], depth: 32 },
  "44 KiB reads, 32 in flight": { ...READS, blockBytes: [45056], depth: 32 },
  "barriers, 32 in flight": { ...READS, readShare: 0, barrierEvery: 1, blockBytes: [4096], depth: 32 },
};
/** So large that the backend, not the guests, is the limit. */
const BUSY: LoadSpec = { ...READS, blockBytes: [45056], depth: 128 };
const DEEP_RINGS = { ringPages: 8 };
const WEIGHTS = [100, 400];
/** The neighbours are busy before the small guest is measured, and after. */
const MARGIN_MS = 300;
const SERVE_ON = ["taskset", "-c", "0"];
const CLI = new URL("../cli.ts", import.meta.url).pathname;

/** Runs the part. `progress` is called with what is measured next. */
export async function runFair(plan: FairPlan, progress: (text: string) => void): Promise<FairReport> {
  const missing = missingParts() ?? (navigator.hardwareConcurrency < 2 ? "there is one processor only" : undefined);
  if (missing !== undefined) return { result: undefined, leftOut: [`fairness: ${missing}`] };
  await using xen = await NativeXen.start();
  const { program: { command }, serveArguments } = plan;
  await using backend = new BackendProcess(xen, ["serve", "--workers", "1", ...serveArguments], SERVE_ON, 0, command);
  await backend.says(/serving/);
  await using guests = new AsyncDisposableStack();
  const others = ["taskset", "-c", `1-${navigator.hardwareConcurrency - 1}`];
  const disks: GuestDisk[] = [];
  for (let domain = 1; domain <= 1 + NEIGHBOURS; domain++) {
    await xen.createDomain(domain);
    disks.push(await connect(xen, guests.use(new GuestProcess(xen, domain, others))));
  }
  const [small, ...neighbours] = disks as [GuestDisk, ...GuestDisk[]];
  await Promise.all(disks.map((disk) => disk.measure({ ...BUSY, requests: 20_000 }))); // compiles both ends
  const { roundMs } = plan;
  progress("fairness: one guest alone");
  const alone = figuresOf(await small.measure({ ...SMALL, durationMs: roundMs }));
  const beside: FairResult["beside"][number][] = [];
  for (const [load, spec] of Object.entries(LOADS)) {
    progress(`fairness: beside ${load}`);
    const figures = figuresOf(await besideOthers(small, neighbours, spec, roundMs));
    beside.push({ load, ...figures, share: figures.iops * disks.length / alone.iops });
  }
  progress("fairness: weights");
  const weighted = await measureWeights(xen, neighbours.slice(0, WEIGHTS.length), roundMs);
  return { result: { alone, beside, weighted }, leftOut: [] };
}

async function connect(xen: NativeXen, guest: GuestProcess): Promise<GuestDisk> {
  const params = `aio:${sparseImage(xen.directory, `${guest.domid}.img`, IMAGE_BYTES)}`;
  const device = await attach(xen, { domain: guest.domid as DomId, params });
  const disk = await guest.disk(frontendPath(device), undefined, {}, DEEP_RINGS);
  await disk.connect();
  return disk;
}

async function besideOthers(
  small: GuestDisk,
  neighbours: readonly GuestDisk[],
  spec: LoadSpec,
  roundMs: number,
): Promise<LoadOutcome> {
  const durationMs = roundMs + 2 * MARGIN_MS;
  await Promise.all(neighbours.map((disk, seed) => disk.startMeasure({ ...spec, seed, durationMs })));
  await new Promise((resolve) => setTimeout(resolve, MARGIN_MS));
  const outcome = await small.measure({ ...SMALL, durationMs: roundMs });
  for (const disk of neighbours) figuresOf(await disk.finishLoad());
  return outcome;
}

async function measureWeights(
  xen: NativeXen,
  disks: readonly GuestDisk[],
  durationMs: number,
): Promise<FairResult["weighted"]> {
  for (const [i, { guest }] of disks.entries()) {
    const args = ["run", "-A", "--no-check", CLI, "weight", String(guest.domid), "xvda", String(WEIGHTS[i])];
    const { success, stderr } = await new Deno.Command(Deno.execPath(), { args, env: xen.env() }).output();
    if (!success) throw new XenblkError(`Cannot measure weights: ${new TextDecoder().decode(stderr).trim()}`);
  }
  const outcomes = await Promise.all(disks.map((disk, seed) => disk.measure({ ...BUSY, seed, durationMs })));
  return outcomes.map((outcome, i) => ({ weight: WEIGHTS[i]!, iops: figuresOf(outcome).iops }));
}

/** Throws {@linkcode XenblkError} if a request has failed. */
function figuresOf({ reads, writes, elapsedMs, latency, errors, protocolErrors }: LoadOutcome): SmallFigures {
  if (errors + protocolErrors > 0) throw new XenblkError("Cannot measure fairness: a request failed");
  return { iops: (reads + writes) / elapsedMs * 1000, p99Us: latency.p99Ns / 1000 };
}
