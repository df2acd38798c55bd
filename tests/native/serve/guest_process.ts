/**
 * A process of a guest domain with any number of disks. It reads orders as JSON lines on standard input: it connects as
 * blkfront does, runs loads in Workers and verifies. It uses the same FFI as the backend, with the libraries that its
 * environment names. guest.ts starts it and sends the orders.
 */

import type { AbiName } from "../../../lib/blkif/abi.ts";
import { errorText } from "../../../lib/errors.ts";
import type { Xenstore } from "../../../lib/hypervisor.ts";
import { DiskModel } from "../../../lib/guest/disk_model.ts";
import { Frontend } from "../../../lib/guest/frontend.ts";
import { LoadThread } from "../../../lib/guest/load_thread.ts";
import { type LoadOutcome, type LoadProgress, type LoadSpec, loadTarget } from "../../../lib/guest/load_types.ts";
import { verifyImageFile } from "../../../lib/guest/verify_image.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";
import type { RingShape } from "./guest.ts";
import { PauseMeter } from "./pause_meter.ts";

const platform = openNativePlatform();
let store: Xenstore = platform.openXenstore();

/** Time limit for a backend that is still starting on a busy machine. */
const PATIENCE_MS = 60_000;

class GuestDisk {
  readonly #thread: LoadThread;
  readonly #frontend: Frontend;
  #model: DiskModel | undefined;
  #loading: Promise<LoadOutcome> | undefined;
  #progress: LoadProgress | undefined;
  #pauses: PauseMeter | undefined;

  private constructor(thread: LoadThread, { disk, abi, override, shape }: Order) {
    this.#thread = thread;
    const quiesce = (): Promise<void> => thread.quiesce();
    const path = disk;
    this.#frontend = new Frontend({
      ...shape,
      platform,
      store,
      path,
      abi,
      override,
      endpoint: thread,
      quiesce,
      timeoutMs: PATIENCE_MS,
    });
  }

  static async open(order: Order): Promise<GuestDisk> {
    return new GuestDisk(await LoadThread.start(platform), order);
  }

  async connect(seed: number): Promise<unknown> {
    const { disk } = await this.#frontend.connect();
    this.#model ??= DiskModel.create(disk.sectors, seed, "zeroes");
    return disk;
  }

  async reconnect(): Promise<void> {
    await this.#frontend.reconnect();
  }

  /** A defiant load writes even to a disk announced as read-only. An unverified load only moves data. */
  startLoad({ spec, defiant, unverified, sectors }: Order): void {
    const target = loadTarget(this.#frontend.connection!);
    const facts = defiant ? { ...target.disk, readOnly: false } : target.disk;
    const disk = sectors === undefined ? facts : { ...facts, sectors };
    // The added part of a disk holds zeroes. The load must not touch the part that was there before.
    const known = sectors === undefined ? this.#model : DiskModel.create(sectors, spec.seed, "zeroes");
    const model = unverified === true ? undefined : known;
    const { outcome, progress } = this.#thread.run({ ...target, disk }, spec, model);
    this.#progress = progress;
    this.#loading = outcome.finally(() => this.#pauses = void this.#pauses?.[Symbol.dispose]());
    this.#loading.catch(() => {});
  }

  /** Measures from the first call on, so that a load without it costs nothing extra. */
  pauses(): unknown {
    return (this.#pauses ??= new PauseMeter(this.#progress!)).take();
  }

  finishLoad(): Promise<LoadOutcome> {
    return this.#loading!;
  }

  async stopLoad(): Promise<LoadOutcome> {
    await this.#thread.quiesce();
    return await this.#loading!;
  }

  /** Writes the expected content to a file, or reads it from there before the disk is connected. */
  saveModel(file: string): void {
    Deno.writeFileSync(file, new Uint8Array(this.#model!.buffer).slice());
  }

  loadModel(file: string): void {
    const bytes = Deno.readFileSync(file);
    const buffer = new SharedArrayBuffer(bytes.length);
    new Uint8Array(buffer).set(bytes);
    this.#model = new DiskModel(buffer);
  }

  useStore(): void {
    this.#frontend.useStore(store);
  }

  async disconnect(): Promise<void> {
    await this.#frontend.disconnect();
  }

  verify(image: string): unknown {
    return verifyImageFile(image, this.#model!);
  }
}

const disks = new Map<string, GuestDisk>();

/** One line of standard input. */
interface Order {
  readonly id: number;
  readonly verb: string;
  readonly disk: string;
  readonly abi: AbiName;
  readonly seed: number;
  readonly spec: LoadSpec;
  readonly defiant: boolean;
  readonly unverified?: boolean;
  /** The disk's size that the guest assumes, if not the one at connect. */
  readonly sectors?: number;
  readonly image: string;
  readonly override: Record<string, string>;
  readonly shape: RingShape;
}

async function obey(order: Order): Promise<unknown> {
  if (order.verb === "reopen-store") {
    store = platform.openXenstore();
    return disks.forEach((disk) => disk.useStore());
  }
  if (order.verb === "open") {
    disks.set(order.disk, await GuestDisk.open(order));
    return undefined;
  }
  const disk = disks.get(order.disk)!;
  switch (order.verb) {
    case "connect":
      return await disk.connect(order.seed);
    case "reconnect":
      return await disk.reconnect();
    case "start-load":
      return disk.startLoad(order);
    case "finish-load":
      return await disk.finishLoad();
    case "pauses":
      return disk.pauses();
    case "stop-load":
      return await disk.stopLoad();
    case "disconnect":
      return await disk.disconnect();
    case "save-model":
      return disk.saveModel(order.image);
    case "load-model":
      return disk.loadModel(order.image);
    case "verify":
      return disk.verify(order.image);
    default:
      throw new Error(`unknown order ${order.verb}`);
  }
}

async function answer(order: Order): Promise<void> {
  const say = (reply: unknown): number => Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(reply)}\n`));
  try {
    say({ id: order.id, result: await obey(order) ?? null });
  } catch (error) {
    say({ id: order.id, error: errorText(error) });
  }
}

let rest = "";
for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + text).split("\n");
  rest = lines.pop()!;
  for (const line of lines) void answer(JSON.parse(line) as Order);
}
Deno.exit(0);
