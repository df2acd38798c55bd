/**
 * The part `start` of the bench: how soon the program of the packages offers a disk that a toolstack wrote, with its
 * files in the page cache and without, and how long a restart under load keeps a guest waiting. What is measured is the
 * code and the command line of the Debian package, not the checkout's sources.
 */

import { NativeXenstore } from "../ffi/xen/xenstore.ts";
import { XenblkError } from "../lib/errors.ts";
import type { DomId } from "../lib/hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../lib/xenbus/paths.ts";
import { readProject } from "../pack/manifest.ts";
import { packageFiles } from "../pack/package.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { attach, BackendProcess, sparseImage } from "../tests/native/serve/backend.ts";
import { killAgainAndAgain } from "../tests/native/serve/kill_loop.ts";
import { NARROW } from "../tests/native/serve/scenes.ts";

/** How often. */
export interface StartPlan {
  readonly warmStarts: number;
  readonly coldStarts: number;
  readonly restarts: number;
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
}

/** The figures, or the reason why there are none. */
export interface StartReport {
  readonly result: StartResult | undefined;
  readonly leftOut: readonly string[];
}

const ROOT = new URL("../", import.meta.url).pathname;
const DOMAIN = 7 as DomId;
const IMAGE_BYTES = 2 ** 26;
const PATIENCE_MS = 60_000;

/** Runs the part. `progress` is called with what is measured next. */
export async function runStart(plan: StartPlan, progress: (text: string) => void): Promise<StartReport> {
  const missing = missingParts();
  if (missing !== undefined) return { result: undefined, leftOut: [`starts: ${missing}`] };
  progress("starts: packing the program");
  const folder = await Deno.makeTempDir({ prefix: "xenblk-bench-start-" });
  try {
    const program = await install(folder);
    const [warm, cold] = await starts(program, folder, plan, progress);
    progress("starts: restarts under load");
    const args = plan.serveArguments;
    const loop = { signal: "SIGTERM", times: plan.restarts, loading: NARROW, args, program } as const;
    const { pausesMs, outcome } = await killAgainAndAgain(loop);
    if (outcome.errors + outcome.miscompares + outcome.unanswered > 0) {
      throw new XenblkError(`Cannot measure restarts: the guest saw faults: ${JSON.stringify(outcome)}`);
    }
    return { result: { warm, cold, pausesMs }, leftOut: [] };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Writes the program into the folder as the Debian package has it. Returns the command, as that package's launcher. */
async function install(folder: string): Promise<string[]> {
  const { files } = await packageFiles(ROOT, readProject(ROOT));
  for (const [path, text] of files) {
    if (path.endsWith(".d.ts")) continue;
    const place = `${folder}/node_modules/xenblk/${path}`;
    await Deno.mkdir(place.replace(/[^/]+$/, ""), { recursive: true });
    await Deno.writeTextFile(place, text);
  }
  // A copy: pages of a program that runs, as this one does, stay in the page cache.
  await Deno.copyFile(Deno.execPath(), `${folder}/deno`);
  const launcher = await Deno.readTextFile(`${ROOT}pack/deb/debian/launcher.sh`);
  const command = /^exec ([^]*) "\$@"$/m.exec(launcher)?.[1];
  if (command === undefined) throw new XenblkError("Cannot find the command in pack/deb/debian/launcher.sh");
  const words = command.replaceAll("\\\n", " ").replaceAll("@PROGRAM@", folder).split(/\s+/);
  return ["env", `DENO_DIR=${folder}/cache`, "DENO_NO_UPDATE_CHECK=1", ...words];
}

/** Starts with warm files, then with cold ones. The first start of all fills caches and does not count. */
async function starts(
  program: readonly string[],
  folder: string,
  { warmStarts, coldStarts, serveArguments }: StartPlan,
  progress: (text: string) => void,
): Promise<[Start[], Start[]]> {
  await using xen = await NativeXen.start();
  await xen.createDomain(DOMAIN);
  const image = sparseImage(xen.directory, "disk.img", IMAGE_BYTES);
  const device = await attach(xen, { domain: DOMAIN, params: `aio:${image}` });
  for (const [name, value] of Object.entries(xen.env())) Deno.env.set(name, value);
  using store = new NativeXenstore();
  const one = async (): Promise<Start> => await start(xen, store, device, [...program, "serve", ...serveArguments]);
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
