/**
 * One row of the isolation table: a `serve` with one reactor, a neighbour that reads one block at a time, and a guest
 * that turns hostile. Measures the neighbour's slowest answer and how long another guest's disk takes to connect, then
 * sends SIGTERM and measures when serve says so, when it has ended, and when the next serve answers the neighbour.
 */

import type { DomId } from "../../../lib/hypervisor.ts";
import type { LoadSpec } from "../../../lib/guest/load_types.ts";
import { type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { NativeXen } from "../harness.ts";
import { attach, BackendProcess, sparseImage } from "../serve/backend.ts";
import { type GuestDisk, GuestProcess, type RingShape } from "../serve/guest.ts";

/** The guests of a scene. */
export const HOSTILE = 7;
export const NEIGHBOUR = 8;
export const NEWCOMER = 9;

const IMAGE_BYTES = 2 ** 26;
/** What the neighbour does: one small read at a time. */
const ONE_READ: LoadSpec = {
  seed: 1,
  pattern: "random",
  readShare: 1,
  blockBytes: [4096],
  depth: 1,
  flushEvery: 0,
  barrierEvery: 0,
};
const ALONE_MS = 1000;
/** The least time that both are watched together. */
const TOGETHER_MS = 2000;

/** After this long a wait counts as endless. */
export const LIMITS = { answerMs: 8000, attachMs: 12_000, heardMs: 5000, goneMs: 25_000, takenOverMs: 20_000 };

/** The figures of a row, in milliseconds; Infinity if it took longer than the limit; undefined if not measured. */
export interface Figures {
  /** The neighbour's slowest read before the hostile guest begins. */
  readonly aloneMs: number;
  /** The same while it is hostile, and 99 of 100 reads; reads per second before and meanwhile. */
  readonly worstMs: number;
  readonly p99Ms: number;
  readonly aloneRate: number;
  readonly rate: number;
  /** From the nodes of another guest's disk until it is connected. */
  readonly attachMs: number | undefined;
  /** From SIGTERM until the log says so. */
  readonly heardMs: number;
  /** From SIGTERM until the process has ended. */
  readonly goneMs: number;
  /** From SIGTERM until another serve answers the neighbour. */
  readonly takenOverMs: number | undefined;
  /** Pages of the neighbour that the first process still maps then. */
  readonly leftPages: number | undefined;
}

/** What makes one row. */
export interface Hostility {
  readonly name: string;
  /** Also part of the short form. */
  readonly short?: boolean;
  /** Arguments of serve. */
  readonly args?: readonly string[];
  /** The kernel keeps threads of the process, so that it may not end. */
  readonly kept?: boolean;
  /** The store does not answer, so that no disk can be attached or taken over. */
  readonly noStore?: boolean;
  /** Prepares, and returns what begins the hostile part and resolves when it has its effect. */
  prepare(scene: Scene): Promise<() => Promise<void>>;
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** The value, or undefined after the time. */
export async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) => timer = setTimeout(() => resolve(undefined), milliseconds));
  promise.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Milliseconds until the promise resolves, from `sinceMs` on; Infinity if that takes longer than the limit. */
async function timed(sinceMs: number, limitMs: number, promise: Promise<unknown>): Promise<number> {
  const ended = within(limitMs, promise.then(() => performance.now() - sinceMs));
  return await ended ?? Infinity;
}

/** A machine with a serve, a neighbour and a hostile guest. */
export class Scene implements AsyncDisposable {
  /** What makes storage and the store go on. Disposed first, because processes wait for it in the kernel. */
  readonly media = new AsyncDisposableStack();
  readonly #processes = new AsyncDisposableStack();
  readonly #args: readonly string[];
  readonly #guests = new Map<number, GuestProcess>();
  #images = 0;

  private constructor(readonly xen: NativeXen, args: readonly string[]) {
    this.#args = ["serve", "--workers", "1", "--queues", "4", ...args];
  }

  /** Measures a row. */
  static async measure(hostility: Hostility): Promise<Figures> {
    await using scene = new Scene(await NativeXen.start(), hostility.args ?? []);
    return await scene.#run(hostility);
  }

  /** The process of a guest, which starts on first use. */
  async guest(domid: number): Promise<GuestProcess> {
    let guest = this.#guests.get(domid);
    if (guest === undefined) {
      await this.xen.createDomain(domid);
      this.#guests.set(domid, guest = this.#processes.use(new GuestProcess(this.xen, domid)));
    }
    return guest;
  }

  /** Writes the nodes of a disk, and returns it: not connected yet. */
  async disk(
    domid: number,
    image?: string,
    shape: RingShape = {},
  ): Promise<{ disk: GuestDisk; device: DeviceAddress; attachedMs: number }> {
    const guest = await this.guest(domid);
    const path = image ?? sparseImage(this.xen.directory, `${this.#images++}.img`, IMAGE_BYTES);
    const params = path.startsWith("plugin:") ? path : `aio:${path}`;
    const device = await attach(this.xen, { domain: domid as DomId, params });
    const attachedMs = performance.now();
    return { disk: await guest.disk(frontendPath(device), "x86_64-abi", {}, shape), device, attachedMs };
  }

  /** A connected disk of the hostile guest. */
  async connected(image?: string, shape: RingShape = {}): Promise<GuestDisk> {
    const { disk } = await this.disk(HOSTILE, image, shape);
    await disk.connect();
    return disk;
  }

  /** Starts a program as a process of the hostile guest; it is killed at the end. Resolves with its first line. */
  async program(name: string, ...args: string[]): Promise<void> {
    await this.guest(HOSTILE);
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", new URL(name, import.meta.url).pathname, ...args],
      env: this.xen.env(HOSTILE),
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#processes.defer(async () => {
      child.kill("SIGKILL");
      await child.status;
    });
    const reader = child.stdout.getReader();
    const { done } = await reader.read();
    await reader.cancel();
    if (done) throw new Error(`${name} ended`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.media.disposeAsync();
    await this.#processes.disposeAsync();
    await this.xen[Symbol.asyncDispose]();
  }

  async #run(hostility: Hostility): Promise<Figures> {
    const serve = this.#processes.use(new BackendProcess(this.xen, this.#args));
    await serve.says(/serving all/);
    const { disk: neighbour } = await this.disk(NEIGHBOUR);
    await neighbour.connect();
    const newcomer = await this.guest(NEWCOMER);
    await newcomer.order({ verb: "reopen-store" });
    const begin = await hostility.prepare(this);
    const alone = await neighbour.measure({ ...ONE_READ, durationMs: ALONE_MS });

    await neighbour.startMeasure(ONE_READ);
    await within(LIMITS.answerMs, begin());
    const [attachMs] = await Promise.all([hostility.noStore ? undefined : this.#attachTime(), pause(TOGETHER_MS)]);
    const outcome = await within(LIMITS.answerMs, neighbour.stopLoad());
    const ending = await this.#endAndTakeOver(serve, outcome === undefined ? undefined : neighbour, hostility);
    const { latency, reads = 0, elapsedMs = 1 } = outcome ?? {};
    return {
      aloneMs: alone.latency.maxNs / 1e6,
      worstMs: latency === undefined ? Infinity : latency.maxNs / 1e6,
      p99Ms: latency === undefined ? Infinity : latency.p99Ns / 1e6,
      aloneRate: alone.reads / ALONE_MS * 1000,
      rate: reads / elapsedMs * 1000,
      attachMs,
      ...ending,
    };
  }

  async #attachTime(): Promise<number> {
    const attached = await within(LIMITS.attachMs, this.disk(NEWCOMER));
    if (attached === undefined) return Infinity;
    return await timed(attached.attachedMs, LIMITS.attachMs, attached.disk.connect());
  }

  /** `neighbour` is undefined if it waits for answers already. */
  async #endAndTakeOver(
    serve: BackendProcess,
    neighbour: GuestDisk | undefined,
    { noStore, kept }: Hostility,
  ): Promise<Pick<Figures, "heardMs" | "goneMs" | "takenOverMs" | "leftPages">> {
    const pages = await this.#neighbourPages();
    await neighbour?.startMeasure(ONE_READ);
    const since = performance.now();
    const gone = timed(since, LIMITS.goneMs, serve.stop());
    const heardMs = await timed(since, LIMITS.heardMs, serve.says(/ending: SIGTERM/));
    if (noStore || neighbour === undefined) {
      return { heardMs, goneMs: await gone, takenOverMs: undefined, leftPages: undefined };
    }
    const next = this.#processes.use(new BackendProcess(this.xen, this.#args));
    const takenOverMs = await this.#takenOver(since, next, neighbour);
    const leftPages = takenOverMs === Infinity ? undefined : await this.#neighbourPages() - pages;
    // Where the kernel keeps the process, there is nothing to wait for.
    return { heardMs, goneMs: kept ? await within(0, gone) ?? Infinity : await gone, takenOverMs, leftPages };
  }

  /** Pages of the neighbour that backends map. */
  async #neighbourPages(): Promise<number> {
    const { domains } = await this.xen.stats();
    return domains.find(({ domid }) => domid === NEIGHBOUR)!.mappedPages;
  }

  async #takenOver(since: number, next: BackendProcess, neighbour: GuestDisk): Promise<number> {
    const connected = new RegExp(`\\b${NEIGHBOUR}/\\d+.* connected:|guest-${NEIGHBOUR}.* connected:`);
    if (await timed(since, LIMITS.takenOverMs, next.says(connected)) === Infinity) return Infinity;
    const { answered } = await neighbour.pauses();
    while (performance.now() < since + LIMITS.takenOverMs) {
      if ((await neighbour.pauses()).answered > answered) return performance.now() - since;
      await pause(5);
    }
    return Infinity;
  }
}
