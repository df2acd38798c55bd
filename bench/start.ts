/**
 * The part `start` of the bench: how soon the program of the packages offers a disk that a toolstack wrote, with its
 * files in the page cache and without, how long a restart under load keeps a guest waiting, and how soon a fresh process
 * is at its speed.
 */

import { NativeXenstore } from "../ffi/xen/xenstore.ts";
import { XenblkError } from "../lib/errors.ts";
import type { DomId } from "../lib/hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../lib/xenbus/paths.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { attach, BackendProcess, sparseImage } from "../tests/native/serve/backend.ts";
import { killAgainAndAgain } from "../tests/native/serve/kill_loop.ts";
import { NARROW } from "../tests/native/serve/scenes.ts";
import type { PackedProgram } from "./packed_program.ts";
import { runWarm, type WarmResult } from "./warm.ts";

/** How often. */
export interface StartPlan {
  readonly warmStarts: number;
  readonly coldStarts: number;
  readonly restarts: number;
  /** Fresh processes whose first seconds are measured, and the length of such a second. */
  readonly processes: number;
  readonly secondMs: number;
  readonly program: PackedProgram;
  /** More arguments for `serve`. */
  readonly serveArguments: readonly string[];
}

/** One start, from the program's execution. */
export interface Start {
  /** Until the device was in InitWait, and until its image was open. */
  readonly initWaitMs: number;
  readonly openMs: number;
  /** Processor time of all its threads until the image was open. */
  readonly cpuMs: number;
}

/** The figures. */
export interface StartResult {
  readonly warm: readonly Start[];
  readonly cold: readonly Start[];
  /** The guest's longest time without a response at each restart by TERM. */
  readonly pausesMs: readonly number[];
  readonly speeds: readonly WarmResult[];
}

/** The figures, or the reason why there are none. */
export interface StartReport {
  readonly result: StartResult | undefined;
  readonly leftOut: readonly string[];
}

const DOMAIN = 7 as DomId;
const IMAGE_BYTES = 2 ** 26;
const PATIENCE_MS = 60_000;

/** Runs the part. `progress` is called with what is measured next. */
export async function runStart(plan: StartPlan, progress: (text: string) => void): Promise<StartReport> {
  const missing = missingParts();
  if (missing !== undefined) return { result: undefined, leftOut: [`starts: ${missing}`] };
  const [warm, cold] = await starts(plan, progress);
  progress("starts: restarts under load");
  const { restarts: times, serveArguments: args, program: { command: program } } = plan;
  const { pausesMs, outcome } = await killAgainAndAgain({ signal: "SIGTERM", times, loading: NARROW, args, program });
  if (outcome.errors + outcome.miscompares + outcome.unanswered > 0) {
    throw new XenblkError(`Cannot measure restarts: the guest saw faults: ${JSON.stringify(outcome)}`);
  }
  return { result: { warm, cold, pausesMs, speeds: await runWarm(plan, progress) }, leftOut: [] };
}

/** Starts with warm files, then with cold ones. The first start of all fills caches and does not count. */
async function starts(
  { warmStarts, coldStarts, program: { command, folder }, serveArguments }: StartPlan,
  progress: (text: string) => void,
): Promise<[Start[], Start[]]> {
  await using xen = await NativeXen.start();
  await xen.createDomain(DOMAIN);
  const image = sparseImage(xen.directory, "disk.img", IMAGE_BYTES);
  const device = await attach(xen, { domain: DOMAIN, params: `aio:${image}` });
  for (const [name, value] of Object.entries(xen.env())) Deno.env.set(name, value);
  using store = new NativeXenstore();
  const one = async (): Promise<Start> => await start(xen, store, device, [...command, "serve", ...serveArguments]);
  const [warm, cold]: [Start[], Start[]] = [[], []];
  await one();
  for (let run = 1; run <= warmStarts; run++) {
    progress(`starts: warm, ${run} of ${warmStarts}`);
    warm.push(await one());
  }
  for (let run = 1; run <= coldStarts; run++) {
    progress(`starts: cold, ${run} of ${coldStarts}`);
    await forgetFiles(folder);
    cold.push(await one());
  }
  return [warm, cold];
}

/** Starts the program once, beside a device as a toolstack has written it, and kills it. */
async function start(
  xen: NativeXen,
  store: NativeXenstore,
  device: DeviceAddress,
  command: readonly string[],
): Promise<Start> {
  const backend = backendPath(device);
  store.write(`${frontendPath(device)}/state`, "1");
  store.write(`${backend}/state`, "1");
  store.remove(`${backend}/hotplug-status`);
  const beganMs = performance.now();
  await using serve = new BackendProcess(xen, [], [], 0, command);
  const until = async (node: string, value: string): Promise<number> => {
    while (store.read(`${backend}/${node}`) !== value) {
      if (performance.now() - beganMs > PATIENCE_MS) throw new XenblkError(`Cannot start: ${serve.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return performance.now() - beganMs;
  };
  const initWaitMs = await until("state", "2");
  const openMs = await until("hotplug-status", "connected");
  return { initWaitMs, openMs, cpuMs: runMs(serve.pid) };
}

/** What the threads that a process has now have run. */
function runMs(pid: number): number {
  const of = (thread: string): number =>
    Number(Deno.readTextFileSync(`/proc/${pid}/task/${thread}/schedstat`).split(" ")[0]) / 1e6;
  return [...Deno.readDirSync(`/proc/${pid}/task`)].reduce((sum, { name }) => sum + of(name), 0);
}

/** Takes the files of a folder from the page cache. The system's own libraries stay. */
async function forgetFiles(folder: string): Promise<void> {
  const script = 'sync; find "$1" -type f -exec dd if={} iflag=nocache count=0 status=none ";"';
  const { success, stderr } = await new Deno.Command("sh", { args: ["-c", script, "sh", folder] }).output();
  if (!success) throw new XenblkError(`Cannot empty the page cache: ${new TextDecoder().decode(stderr).trim()}`);
}
