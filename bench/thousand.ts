/**
 * `deno task bench:thousand [GUESTS [DISKS]]`: one `serve` with the disks of many guests, 200 guests with 5 disks each by
 * default. Prints how soon all are offered, what a disk costs, how soon one more is served beside loaded ones, how long
 * a restart keeps guests waiting, and whether the goals are reached. Figures go to stdout, progress to stderr.
 */

import { Output } from "../lib/cli/output.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { BackendProcess } from "../tests/native/serve/backend.ts";
import { Crowd } from "../tests/native/serve/crowd.ts";
import { GuestProcess } from "../tests/native/serve/guest.ts";
import { newDisk } from "../tests/native/serve/scenes.ts";
import { describeMachine, machineLine, processorSeconds, residentBytes } from "./machine.ts";
import { READS } from "./many.ts";
import { median } from "./statistics.ts";

const [guests = 200, disksEach = 5] = Deno.args.map(Number);
const disks = guests * disksEach;
/** A pause in which collections and idle threads end. */
const SETTLE_MS = 5_000;
const IDLE_MS = 60_000;
/** Between an answer and the next read of a disk, while a restart is measured: a pause is seen shorter by that at most. */
const READ_EVERY_MS = 200;
/** Disks that are loaded while one more is attached. */
const LOADED = 4;

/** What a process has open and in memory. */
interface Holding {
  readonly residentBytes: number;
  /** Of that, what is no file's: the simulated machine's pages are a file. */
  readonly privateBytes: number;
  readonly descriptors: number;
  readonly mappings: number;
}

const output = new Output();
const say = (text: string): void => output.data(`${text}\n`);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function holding(pid: number): Holding {
  const rollup = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
  return {
    residentBytes: residentBytes(pid),
    privateBytes: Number(/^Anonymous:\s+(\d+)/m.exec(rollup)?.[1] ?? 0) * 1024,
    descriptors: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
    mappings: Deno.readTextFileSync(`/proc/${pid}/maps`).split("\n").length,
  };
}

function verdict(what: string, value: number, unit: string, most: number): void {
  say(`${value <= most ? "reached" : "MISSED "}  ${what}: ${value.toFixed(value < 10 ? 2 : 0)} ${unit} (goal ${most})`);
}

function spread(values: readonly number[]): string {
  return `median ${(median(values) ?? 0).toFixed(0)} ms, worst ${Math.max(...values).toFixed(0)} ms`;
}

/** Disks that appear while the process runs, and what they cost once their guests use them. */
async function appear(xen: NativeXen, backend: BackendProcess, crowd: Crowd, folder: string): Promise<void> {
  const before = holding(backend.pid);
  const storeBefore = processorSeconds(xen.xenstoredPid!);
  const cpuBefore = processorSeconds(backend.pid);
  const waitedMs = await crowd.attach(1, guests, disksEach, folder);
  verdict("longest time from a disk's nodes to its open image", Math.max(...waitedMs) / 1000, "s", 10);
  say(`         connecting all: ${(await crowd.connect() / 1000).toFixed(1)} s`);
  const storeMs = (processorSeconds(xen.xenstoredPid!) - storeBefore) * 1000 / disks;
  say(
    `         xenstored's own time: ${storeMs.toFixed(1)} ms a disk, for what toolstack, guest and backend ask of it`,
  );
  await sleep(SETTLE_MS);
  const cpuMs = (processorSeconds(backend.pid) - cpuBefore) * 1000 / disks;
  const after = holding(backend.pid);
  const per = (key: keyof Holding): number => (after[key] - before[key]) / disks;
  verdict("private memory of an idle disk", per("privateBytes") / 1024, "KiB", 300);
  say(
    `         a disk: ${per("descriptors").toFixed(1)} descriptors, ${per("mappings").toFixed(1)} mappings, ` +
      `${(per("residentBytes") / 1024).toFixed(0)} KiB resident with pages of the simulated machine, ` +
      `${cpuMs.toFixed(1)} ms of processor time until it is used`,
  );
}

async function idle(backend: BackendProcess): Promise<void> {
  const before = processorSeconds(backend.pid);
  await sleep(IDLE_MS);
  verdict("processor while all are idle", (processorSeconds(backend.pid) - before) / IDLE_MS * 1e5, "%", 0.5);
}

/** One disk more, of a guest of its own, beside disks that use all the processor there is. */
async function oneMore(xen: NativeXen, crowd: Crowd, folder: string): Promise<void> {
  await using loaders = new AsyncDisposableStack();
  const domain = guests + 1;
  await xen.createDomain(domain);
  const guest = loaders.use(new GuestProcess(xen, domain));
  const loaded: Awaited<ReturnType<typeof newDisk>>[] = [];
  for (let i = 0; i < LOADED; i++) {
    loaded.push(await newDisk(xen, guest, `load-${i}.img`, { folder, sizeBytes: 2 ** 24 }));
  }
  await Promise.all(loaded.map(({ disk }) => disk.connect()));
  for (const { disk } of loaded) await disk.startMeasure({ ...READS, durationMs: 120_000 });
  await crowd.create(guests + 2, 1);
  const [offeredMs] = await crowd.attach(guests + 2, 1, 1, folder);
  const connectedMs = await crowd.connect();
  verdict(
    `one disk more while ${LOADED} are loaded, until its guest uses it`,
    (offeredMs! + connectedMs) / 1000,
    "s",
    1,
  );
  await Promise.all(loaded.map(({ disk }) => disk.stopLoad()));
  await Promise.all(loaded.map(({ disk }) => disk.disconnect()));
}

/** Ends the process while all disks read now and then, and starts the next one. */
async function restart(
  xen: NativeXen,
  crowd: Crowd,
  old: BackendProcess,
  signal: Deno.Signal,
): Promise<BackendProcess> {
  await crowd.beginReads(READ_EVERY_MS);
  await sleep(1_000);
  await old.stop(signal);
  const backend = new BackendProcess(xen, ["serve"]);
  await backend.says(/serving/);
  await sleep(1_000);
  say(`         ${signal} with all connected, then another process: reads waited ${spread(await crowd.endReads())}`);
  return backend;
}

async function measure(xen: NativeXen, folder: string): Promise<void> {
  let backend = new BackendProcess(xen, ["serve"]);
  await using processes = new AsyncDisposableStack();
  processes.defer(() => backend[Symbol.asyncDispose]());
  await backend.says(/serving/);
  await using crowd = new Crowd(xen);
  await crowd.create(1, guests);
  await sleep(SETTLE_MS);
  await appear(xen, backend, crowd, folder);
  await idle(backend);
  await oneMore(xen, crowd, folder);
  for (const signal of ["SIGTERM", "SIGKILL"] as const) backend = await restart(xen, crowd, backend, signal);
  say(`         detaching all: ${(await crowd.detach() / 1000).toFixed(1)} s`);
  await sleep(SETTLE_MS);
  const { ports, mappedPages } = await backend.holdings();
  verdict("ports and pages of guests that are left", ports + mappedPages, "", 0);
  verdict("exit status", await backend.stop(), "", 0);
}

const missing = missingParts();
if (missing !== undefined) {
  output.message(`Cannot measure many disks: ${missing}`, "error");
  Deno.exit(1);
}
say(`${machineLine(await describeMachine({}))}; load ${Deno.loadavg()[0]!.toFixed(1)} before`);
say(`${disks} disks of ${guests} guests`);
const folder = Deno.makeTempDirSync({ prefix: "xenblk-disks-" });
try {
  await using xen = await NativeXen.start();
  await measure(xen, folder);
} finally {
  Deno.removeSync(folder, { recursive: true });
}
