/**
 * A process of a guest domain, as a test uses it: its disks connect, run loads and verify. The process runs
 * guest_process.ts.
 */

import type { AbiName } from "../../../lib/blkif/abi.ts";
import type { DiskFacts } from "../../../lib/guest/disk_facts.ts";
import type { FrontendOptions } from "../../../lib/guest/frontend.ts";
import type { LoadOutcome, LoadSpec } from "../../../lib/guest/load_types.ts";
import type { ImageVerdict } from "../../../lib/guest/verify_image.ts";
import type { NativeXen } from "../harness.ts";

/** One disk of a guest. All methods reject with the error of the guest's process. */
export class GuestDisk {
  constructor(readonly guest: GuestProcess, readonly path: string) {}

  connect(seed = 1): Promise<DiskFacts> {
    return this.guest.order({ verb: "connect", disk: this.path, seed });
  }

  reconnect(): Promise<void> {
    return this.guest.order({ verb: "reconnect", disk: this.path });
  }

  /** A `defiant` load writes even to a disk that the backend announced as read-only. */
  startLoad(spec: LoadSpec, defiant = false): Promise<void> {
    return this.guest.order({ verb: "start-load", disk: this.path, spec, defiant });
  }

  /** A load of a guest that assumes another number of sectors. */
  async loadAs(sectors: number, spec: LoadSpec): Promise<LoadOutcome> {
    await this.guest.order({ verb: "start-load", disk: this.path, spec, defiant: false, sectors });
    return await this.finishLoad();
  }

  /** A load for measurements. It fills in no data and verifies nothing, so that the guest costs little. */
  async measure(spec: LoadSpec): Promise<LoadOutcome> {
    await this.startMeasure(spec);
    return await this.finishLoad();
  }

  /** {@linkcode measure} without waiting for its end. With `sectors` the guest assumes another size. */
  startMeasure(spec: LoadSpec, sectors?: number): Promise<void> {
    const size = sectors === undefined ? {} : { sectors };
    return this.guest.order({
      verb: "start-load",
      disk: this.path,
      spec,
      defiant: false,
      unverified: true,
      ...size,
    });
  }

  finishLoad(): Promise<LoadOutcome> {
    return this.guest.order({ verb: "finish-load", disk: this.path });
  }

  /** Requests answered by the running load, and the longest time without a response since the last call. */
  pauses(): Promise<{ readonly answered: number; readonly longestMs: number }> {
    return this.guest.order({ verb: "pauses", disk: this.path });
  }

  stopLoad(): Promise<LoadOutcome> {
    return this.guest.order({ verb: "stop-load", disk: this.path });
  }

  async load(spec: LoadSpec, defiant = false): Promise<LoadOutcome> {
    await this.startLoad(spec, defiant);
    return await this.finishLoad();
  }

  /** Goes on as that disk, which is not used any more, of a guest on another host; this one is not connected yet. */
  async continueAs(other: GuestDisk, file: string): Promise<void> {
    await other.guest.order({ verb: "save-model", disk: other.path, image: file });
    await this.guest.order({ verb: "load-model", disk: this.path, image: file });
  }

  disconnect(): Promise<void> {
    return this.guest.order({ verb: "disconnect", disk: this.path });
  }

  verify(image: string): Promise<ImageVerdict> {
    return this.guest.order({ verb: "verify", disk: this.path, image });
  }
}

/** The size of a guest's rings and requests. */
export type RingShape = Pick<FrontendOptions, "ringPages" | "queues" | "segments" | "requests">;

interface Awaited {
  readonly resolve: (result: never) => void;
  readonly reject: (error: Error) => void;
}

/** A running process of a guest domain. It executes orders for any number of disks. */
export class GuestProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #awaited = new Map<number, Awaited>();
  readonly #reading: Promise<void>;
  #lastId = 0;

  /**
   * `confinement` is a program with arguments that executes Deno at its end, such as setpriv. `entry` is the
   * program, in this folder, that obeys the orders.
   */
  constructor(
    xen: NativeXen,
    readonly domid: number,
    confinement: readonly string[] = [],
    entry = "guest_process.ts",
  ) {
    const program = new URL(entry, import.meta.url).pathname;
    const [command, ...args] = [...confinement, Deno.execPath(), "run", "-A", "--no-check", program];
    this.#child = new Deno.Command(command!, {
      args,
      env: xen.env(domid),
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#reading = this.#read();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Opens a disk; the toolstack has written its frontend nodes. */
  async disk(
    path: string,
    abi: AbiName = "x86_64-abi",
    override: Record<string, string> = {},
    shape: RingShape = {},
  ): Promise<GuestDisk> {
    await this.order({ verb: "open", disk: path, abi, override, shape });
    return new GuestDisk(this, path);
  }

  /** Reconnects to xenstored after a restart. */
  reopenStore(): Promise<void> {
    return this.order({ verb: "reopen-store" });
  }

  order<T>(order: Record<string, unknown>): Promise<T> {
    const id = ++this.#lastId;
    const reply = new Promise<T>((resolve, reject) => this.#awaited.set(id, { resolve, reject }));
    void this.#input.write(new TextEncoder().encode(`${JSON.stringify({ id, ...order })}\n`)).catch(() => {});
    return reply;
  }

  /** Kills the process. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await this.#reading;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {});
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await this.#child.status;
    clearTimeout(timer);
    await this.#reading;
  }

  async #read(): Promise<void> {
    let rest = "";
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) this.#settle(JSON.parse(line));
    }
    for (const { reject } of this.#awaited.values()) reject(new Error(`the process of domain ${this.domid} ended`));
    this.#awaited.clear();
  }

  #settle({ id, result, error }: { id: number; result: never; error?: string }): void {
    const awaited = this.#awaited.get(id);
    this.#awaited.delete(id);
    if (error === undefined) awaited?.resolve(result);
    else awaited?.reject(new Error(error));
  }
}
