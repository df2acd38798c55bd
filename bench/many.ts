/**
 * Part three of the bench: many disks of many guests in one `serve`. Measures memory, processor time and wake-ups while
 * all disks are idle, then how evenly they share the process when all are loaded.
 */

import { XenblkError } from "../lib/errors.ts";
import type { DomId } from "../lib/hypervisor.ts";
import type { LoadSpec } from "../lib/guest/load_types.ts";
import { frontendPath } from "../lib/xenbus/paths.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { attach, BackendProcess, sparseImage } from "../tests/native/serve/backend.ts";
import { type GuestDisk, GuestProcess } from "../tests/native/serve/guest.ts";
import { type WorkerUsage, workerUsage } from "../tests/native/serve/threads.ts";
import { processorSeconds, residentBytes } from "./machine.ts";
import type { PackedProgram } from "./packed_program.ts";

/** What to measure, and how long. */
export interface ManyPlan {
  readonly domains: number;
  readonly disksPerDomain: number;
  /** Duration of the idle time, and of the load. */
  readonly idleMs: number;
  readonly loadMs: number;
  readonly program: PackedProgram;
  /** More arguments for `serve`. */
  readonly serveArguments: readonly string[];
}

/** The figures. */
export interface ManyResult {
  readonly domains: number;
  readonly disks: number;
  /** Workers of the serving process. */
  readonly workers: number;
  /** Memory of that process without disks, with all of them connected, and after the load. */
  readonly residentBytes: { readonly before: number; readonly connected: number; readonly loaded: number };
  /** While all disks are idle: duration, processor time of the process, and how often a Worker woke. */
  readonly idle: { readonly ms: number; readonly cpuMs: number; readonly wakeUps: number };
  /** Under load: operations, IOPS of each disk, and processor time per operation. */
  readonly operations: number;
  readonly iops: readonly number[];
  readonly cpuUs: number;
  /** Garbage collections under load, in all threads of the process. */
  readonly collections: number;
}

/** The figures, or the reason why there are none. */
export interface ManyReport {
  readonly result: ManyResult | undefined;
  readonly leftOut: readonly string[];
}

const IMAGE_BYTES = 16 * 2 ** 20;
/** 4 KiB random reads, 32 in flight on each disk. */
export const READS: LoadSpec = {
  seed: 1,
  pattern: "random",
  readShare: 1,
  blockBytes: [4096],
  depth: 32,
  flushEvery: 0,
  barrierEvery: 0,
};
/** A pause before the idle time, in which V8 finishes compiling and collecting. */
const SETTLE_MS = 3000;

/** Runs part three. `progress` is called with what is measured next. */
export async function runMany(plan: ManyPlan, progress: (text: string) => void): Promise<ManyReport> {
  const missing = missingParts();
  if (missing !== undefined) return { result: undefined, leftOut: [`many disks: ${missing}`] };
  progress(`many disks: connecting ${plan.domains * plan.disksPerDomain}`);
  await using xen = await NativeXen.start();
  const trace = `${xen.directory}/gc.log`;
  const { program: { command }, serveArguments } = plan;
  await using backend = new BackendProcess(xen, ["serve", ...serveArguments], tracedTo(trace), 0, command);
  await backend.says(/serving/);
  const before = residentBytes(backend.pid);
  await using guests = new AsyncDisposableStack();
  const disks: GuestDisk[] = [];
  for (let domain = 1; domain <= plan.domains; domain++) {
    await xen.createDomain(domain);
    const guest = guests.use(new GuestProcess(xen, domain));
    for (let i = 0; i < plan.disksPerDomain; i++) disks.push(await connect(xen, guest, `${domain}-${i}.img`));
  }
  await Promise.all(disks.map((disk) => disk.measure({ ...READS, requests: 10_000 }))); // compiles both ends
  const connected = residentBytes(backend.pid);
  progress("many disks: idle");
  const idle = await watchIdle(backend.pid, plan.idleMs);
  progress("many disks: loaded");
  const collectedBefore = await collectionsIn(trace);
  const underLoad = await load(disks, backend.pid, plan.loadMs);
  const collections = await collectionsIn(trace) - collectedBefore;
  const loaded = residentBytes(backend.pid);
  const { domains } = plan;
  const workers = workerUsage(backend.pid).size;
  const memory = { before, connected, loaded };
  return {
    result: { domains, disks: disks.length, workers, residentBytes: memory, idle, ...underLoad, collections },
    leftOut: [],
  };
}

/** The start of a command for a process with V8's trace of garbage collections, which goes to `path` line by line. */
function tracedTo(path: string): string[] {
  return ["env", "DENO_V8_FLAGS=--trace-gc", "stdbuf", "-oL", "sh", "-c", `exec "$@" > ${path}`, "sh"];
}

async function collectionsIn(trace: string): Promise<number> {
  return (await Deno.readTextFile(trace)).split("\n").filter((line) => /(Scavenge|Mark-Compact|Minor)/.test(line))
    .length;
}

async function connect(xen: NativeXen, guest: GuestProcess, name: string): Promise<GuestDisk> {
  const params = `aio:${sparseImage(xen.directory, name, IMAGE_BYTES)}`;
  const device = await attach(xen, { domain: guest.domid as DomId, params });
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  return disk;
}

async function watchIdle(pid: number, ms: number): Promise<ManyResult["idle"]> {
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const sleeps = (usage: ReadonlyMap<number, WorkerUsage>): number =>
    [...usage.values()].reduce((sum, worker) => sum + worker.sleeps, 0);
  const [cpu, slept] = [processorSeconds(pid), sleeps(workerUsage(pid))];
  await new Promise((resolve) => setTimeout(resolve, ms));
  return { ms, cpuMs: (processorSeconds(pid) - cpu) * 1000, wakeUps: sleeps(workerUsage(pid)) - slept };
}

/** Loads all disks at once. Throws {@linkcode XenblkError} if a request fails. */
async function load(
  disks: readonly GuestDisk[],
  pid: number,
  durationMs: number,
): Promise<Pick<ManyResult, "operations" | "iops" | "cpuUs">> {
  const before = processorSeconds(pid);
  const outcomes = await Promise.all(disks.map((disk, seed) => disk.measure({ ...READS, seed, durationMs })));
  const cpuSeconds = processorSeconds(pid) - before;
  const failed = outcomes.find(({ errors, protocolErrors }) => errors + protocolErrors > 0);
  if (failed !== undefined) throw new XenblkError("Cannot measure many disks: a request failed");
  const operations = outcomes.reduce((sum, { reads }) => sum + reads, 0);
  return {
    operations,
    iops: outcomes.map(({ reads, elapsedMs }) => reads / elapsedMs * 1000),
    cpuUs: cpuSeconds * 1e6 / operations,
  };
}
