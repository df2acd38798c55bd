/**
 * Ends one `serve` after another under a guest's verified load, by kill -9 at random points or by SIGTERM. Counts what
 * the guest saw: responses that were lost or came twice, errors, wrong bytes, and the times without a response.
 * kills.ts judges the counts.
 */

import type { LoadOutcome } from "../../../lib/guest/load_types.ts";
import { NativeXen } from "../harness.ts";
import { BackendProcess, detach } from "./backend.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { DiskFolder, GUEST, type Loading, newDisk, received } from "./scenes.ts";

/** The settings of a loop. */
export interface KillLoop {
  readonly signal: "SIGKILL" | "SIGTERM";
  readonly times: number;
  readonly loading: Loading;
  /** Arguments of `serve` in addition to the loading's. */
  readonly args: readonly string[];
  /** What is run, with its arguments. Absent: the checkout. */
  readonly program?: readonly string[];
}

/** The result of a loop. */
export interface KillLoopResult {
  /** Processes that were ended. */
  readonly ended: number;
  /** Processes that were killed by kill -9 before they had connected. */
  readonly beforeConnected: number;
  /** Requests that were in flight when a process ended, and that the next one carried out again. */
  readonly recovered: number;
  /** For each process that was ended: the guest's longest time without a response, if the next process served. */
  readonly pausesMs: readonly number[];
  /** The same, if the next process or several of them were killed while they started. */
  readonly longerPausesMs: readonly number[];
  readonly outcome: LoadOutcome;
  /** Wrong sectors in the image at the end, in addition to the load's own miscompares. */
  readonly imageMiscompares: number;
}

const IMAGE_BYTES = 2 ** 26;
const PATIENCE_MS = 60_000;
/** The longest time from serving to the kill; for one in five, the longest time from its start to the kill. */
const SERVES_MS = 300;
const STARTS_MS = 300;
const STARTS_SHARE = 0.2;
/** One in ten is killed at most this long after a SIGTERM. */
const ENDS_SHARE = 0.1;
const ENDS_MS = 60;

/** Runs a loop. Rejects if a process does not serve, or the guest gets no response, within a minute. */
export async function killAgainAndAgain({ signal, times, loading, args, program }: KillLoop): Promise<KillLoopResult> {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  using folder = new DiskFolder();
  const options = { sizeBytes: IMAGE_BYTES, shape: loading.shape, folder: folder.path };
  const { disk, device, image } = await newDisk(xen, guest, "disk.img", options);
  let backend = serve(xen, loading, args, program);
  try {
    await disk.connect();
    await disk.startLoad(loading.load);
    await served(disk, backend);
    const counts = { beforeConnected: 0, recovered: 0 };
    const pauses = { pausesMs: [] as number[], longerPausesMs: [] as number[] };
    let since = 0; // processes ended since the guest's last response
    for (let time = 0; time < times; time++) {
      if (signal === "SIGKILL" && Math.random() < STARTS_SHARE) {
        await sleep(Math.random() * STARTS_MS);
        if (!/connected:/.test(backend.messages)) counts.beforeConnected++;
      } else {
        const pauseMs = await served(disk, backend);
        if (since > 0) pauses[since === 1 ? "pausesMs" : "longerPausesMs"].push(pauseMs);
        since = 0;
        await sleep(Math.random() * SERVES_MS);
      }
      since++;
      const whileEnding = signal === "SIGKILL" && Math.random() < ENDS_SHARE;
      const status = await (whileEnding ? backend.killAsItEnds(Math.random() * ENDS_MS) : backend.stop(signal));
      if (signal === "SIGTERM" && status !== 0) throw new Error(`serve ended with ${status}: ${backend.messages}`);
      counts.recovered += recoveredBy(backend);
      backend = serve(xen, loading, args, program);
    }
    pauses[since === 1 ? "pausesMs" : "longerPausesMs"].push(await served(disk, backend));
    counts.recovered += recoveredBy(backend);
    const outcome = received(await within(disk.stopLoad(), `the load's end: ${backend.messages}`));
    await detach(xen, device);
    const { miscompares } = await disk.verify(image);
    await backend.stop("SIGTERM");
    return { ended: times, ...counts, ...pauses, outcome, imageMiscompares: miscompares };
  } finally {
    await backend[Symbol.asyncDispose]();
  }
}

function serve(
  xen: NativeXen,
  { args }: Loading,
  more: readonly string[],
  program: readonly string[] | undefined,
): BackendProcess {
  return new BackendProcess(xen, ["serve", ...args, ...more], [], 0, program);
}

/** Waits until the guest gets responses by this process. Returns its longest time without one since the last call. */
async function served(disk: GuestDisk, backend: BackendProcess): Promise<number> {
  await backend.says(/connected:/, PATIENCE_MS);
  let { answered, longestMs } = await disk.pauses();
  for (const patience = performance.now() + PATIENCE_MS;;) {
    await sleep(5);
    const now = await disk.pauses();
    longestMs = Math.max(longestMs, now.longestMs);
    if (now.answered > answered) return longestMs;
    if (performance.now() > patience) throw new Error(await noAnswers(disk, backend));
    answered = now.answered;
  }
}

/** The reason: a load that ended by itself has seen something that no frontend can continue with. */
async function noAnswers(disk: GuestDisk, { messages }: BackendProcess): Promise<string> {
  const ended = await Promise.race([disk.finishLoad(), sleep(1000)]);
  const load = ended === undefined ? "its load still runs" : `its load ended: ${JSON.stringify(ended)}`;
  return `the guest gets no responses; ${load}; ${messages}`;
}

function recoveredBy({ messages }: BackendProcess): number {
  let count = 0;
  for (const [, requests] of messages.matchAll(/recovered after a crash: (\d+) requests/g)) count += Number(requests);
  return count;
}

async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out waiting for ${what}`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
