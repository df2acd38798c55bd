/**
 * `deno run -A tests/native/serve/journal_cost.ts [--rounds N] [--seconds S]`: what journals cost. Two `serve`
 * processes, one with --no-journal, take turns under the same load; each round another one is first. For each round the
 * ratio of requests per second, and of processor time per request, is computed. Median and quartiles of the ratios are
 * printed.
 */

import { parseArgs } from "@std/cli";
import type { DomId } from "../../../lib/hypervisor.ts";
import { type LoadSpec, MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { NativeXen } from "../harness.ts";
import { attach, BackendProcess, sparseImage } from "./backend.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { DiskFolder, GUEST } from "./scenes.ts";

const DEFAULT_ROUNDS = 15;
const DEFAULT_SECONDS = 2;
const IMAGE_BYTES = 2 ** 26;
/** Units of processor time in /proc. */
const TICK_US = 10_000;

/** One of the two processes, with its own disk. */
interface Subject {
  readonly backend: BackendProcess;
  readonly disk: GuestDisk;
}

/** The result of one turn. */
interface Sample {
  readonly perSecond: number;
  readonly cpuUs: number;
}

const options = parseArgs(Deno.args, { string: ["rounds", "seconds"] });
const rounds = Number(options.rounds ?? DEFAULT_ROUNDS);
const durationMs = 1000 * Number(options.seconds ?? DEFAULT_SECONDS);

await using xen = await NativeXen.start();
await xen.createDomain(GUEST);
await using guest = new GuestProcess(xen, GUEST);
using folder = new DiskFolder();
for (const [name, params] of [["no disk", () => "null:64M"], ["a file", image]] as const) {
  await using undo = new AsyncDisposableStack();
  const kept = await subject(undo, `kept-${name.length}`, params("kept"), []);
  const none = await subject(undo, `none-${name.length}`, params("none"), ["--no-journal"]);
  for (const [what, readShare] of [["reads", 1], ["reads and writes", 0.5]] as const) {
    await compare(`${name}, ${what} of 4 KiB, 32 in flight`, { kept, none }, readShare);
  }
}

function image(name: string): string {
  return `aio:${sparseImage(folder.path, name, IMAGE_BYTES)}`;
}

async function subject(
  undo: AsyncDisposableStack,
  kind: string,
  params: string,
  args: readonly string[],
): Promise<Subject> {
  const device = await attach(xen, { domain: GUEST as DomId, kind, params });
  const backend = undo.use(new BackendProcess(xen, ["serve", "--kind", kind, ...args]));
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  return { backend, disk };
}

async function compare(
  name: string,
  { kept, none }: Record<"kept" | "none", Subject>,
  readShare: number,
): Promise<void> {
  const spec: LoadSpec = { ...MIXED_LOAD, readShare, blockBytes: [4096], durationMs };
  for (const warm of [kept, none]) await measure(warm, { ...spec, durationMs: 1000 });
  const rates: number[] = [];
  const costs: number[] = [];
  const perSecond: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const first = round % 2 === 0 ? kept : none;
    const one = await measure(first, spec);
    const other = await measure(first === kept ? none : kept, spec);
    const [withJournal, without] = first === kept ? [one, other] : [other, one];
    rates.push(withJournal.perSecond / without.perSecond);
    costs.push(withJournal.cpuUs / without.cpuUs);
    perSecond.push(withJournal.perSecond);
  }
  say(
    `${name}: ${Math.round(quantile(perSecond, 0.5))} requests per second with journals; ratio with to without: ` +
      `requests per second ${summary(rates)}, processor time per request ${summary(costs)}`,
  );
}

async function measure({ backend, disk }: Subject, spec: LoadSpec): Promise<Sample> {
  const before = cpuUsOf(backend.pid);
  const { reads, writes, errors, elapsedMs } = await disk.measure(spec);
  if (errors > 0) throw new Error(`the load had ${errors} errors: ${backend.messages}`);
  return { perSecond: 1000 * (reads + writes) / elapsedMs, cpuUs: (cpuUsOf(backend.pid) - before) / (reads + writes) };
}

/** Processor time of all threads. Fields are counted after the second one, because that is a name with spaces. */
function cpuUsOf(pid: number): number {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ").at(-1)!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

function summary(ratios: readonly number[]): string {
  const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => quantile(ratios, share).toFixed(3));
  return `${middle} (${low} to ${high})`;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.round(share * (sorted.length - 1))] ?? NaN;
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
