/**
 * Guests on a data plane with one real Worker, each with its own ring and disk, driven from the main thread: for tests
 * of what one of them can do to the others.
 */

import { type AbiName, ABIS } from "../../lib/blkif/abi.ts";
import { createStats, type QueueStats, readStats } from "../../lib/dataplane/stats.ts";
import type { DataPlane, GrantMode, QueueHandle } from "../../lib/dataplane/types.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import type { DomId, EventChannels, EvtchnPort, SharedPages } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { destroyDomain, machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { readAnswer, type WireAnswer, type WireRequest, writeRequest } from "./wire.ts";

const BACKEND = 0 as DomId;
const DEADLINE_MS = 20_000;

/** Waits until the Worker has done something. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  for (const end = performance.now() + DEADLINE_MS; !isSo();) {
    if (performance.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

/** A host with a data plane of one Worker. */
export class Host implements AsyncDisposable {
  readonly machine = createMachine({ memoryBytes: 64 * 2 ** 20 });
  readonly warnings: string[] = [];
  readonly plane: WorkerDataPlane;
  readonly #owned = new AsyncDisposableStack();

  constructor() {
    this.plane = this.#owned.use(
      new WorkerDataPlane({
        platform: openSimulatedPlatform(this.machine, BACKEND),
        workers: 1,
        addLane: () => Promise.resolve(),
        warn: (message) => this.warnings.push(message),
      }),
    );
  }

  get usage(): ReturnType<typeof machineUsage> {
    return machineUsage(this.machine);
  }

  /** A connected guest. */
  async guest(domain: number, grants: GrantMode = "copy", abi: AbiName = "x86_64-abi"): Promise<Guest> {
    const disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
    const guest = new Guest(this.machine, domain as DomId, abi, disk);
    await guest.connect(this.plane, grants);
    return guest;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#owned.disposeAsync();
  }
}

/** A guest with one ring. */
export class Guest {
  readonly ring: SharedPages;
  readonly data: SharedPages;
  readonly port: EvtchnPort;
  readonly statsMemory = createStats();
  queue!: QueueHandle;
  readonly #header: Int32Array;
  readonly #slots: readonly DataView[];
  readonly #events: EventChannels;
  #produced = 0;
  #consumed = 0;
  #nextId = 1n;

  constructor(
    readonly machine: SharedArrayBuffer,
    readonly domain: DomId,
    readonly abi: AbiName,
    readonly disk: Disk,
  ) {
    const platform = openSimulatedPlatform(machine, domain);
    const shares = platform.openGrantShares();
    this.ring = shares.share(BACKEND, 1, true);
    this.data = shares.share(BACKEND, 4, true);
    const stride = ABIS[abi].requestSizeBytes;
    const { buffer, byteOffset } = this.ring.view;
    this.#header = new Int32Array(buffer, byteOffset, 4);
    this.#header.set([0, 1, 0, 1]);
    this.#slots = Array.from({ length: 32 }, (_, i) => new DataView(buffer, byteOffset + 64 + i * stride, stride));
    this.#events = platform.openEventChannels(BACKEND);
    this.port = this.#events.bindUnbound(BACKEND);
  }

  /** Has a data plane serve the ring. */
  async connect(plane: DataPlane, grants: GrantMode): Promise<void> {
    this.queue = await plane.openQueue({
      label: `domain ${this.domain}`,
      guest: this.domain,
      ringRefs: this.ring.refs,
      eventChannel: this.port,
      abi: this.abi,
      disk: this.disk,
      grants,
      stats: this.statsMemory,
    });
  }

  /** Free slots, until responses are taken. */
  get free(): number {
    return 32 - (this.#produced - this.#consumed);
  }

  /** Responses taken so far. */
  get answered(): number {
    return this.#consumed;
  }

  get stats(): QueueStats {
    return readStats(this.statsMemory);
  }

  /** A valid request for one page to or from sector 8, with changes. */
  request(operation: number, change: Partial<WireRequest> = {}): WireRequest {
    const segments = [{ gref: this.data.refs[0]!, first: 0, last: 7 }];
    return { form: "direct", operation, id: this.#nextId++, sector: 8n, segments, ...change } as WireRequest;
  }

  /** {@linkcode put}, then waits for as many responses. */
  async ask(...requests: WireRequest[]): Promise<WireAnswer[]> {
    this.put(...requests);
    const answers: WireAnswer[] = [];
    await until(`domain ${this.domain} has ${requests.length} answers`, () => {
      answers.push(...this.takeAnswers());
      return answers.length >= requests.length;
    });
    return answers;
  }

  /** Writes requests, publishes them and notifies. */
  put(...requests: WireRequest[]): void {
    for (const request of requests) writeRequest(this.#slots[this.#produced++ & 31]!, this.abi, request);
    Atomics.store(this.#header, 0, this.#produced);
    this.kick();
  }

  /** Takes the responses on the ring. */
  takeAnswers(): WireAnswer[] {
    const answers: WireAnswer[] = [];
    while (this.#consumed !== Atomics.load(this.#header, 2)) {
      answers.push(readAnswer(this.#slots[this.#consumed++ & 31]!));
    }
    return answers;
  }

  /** Publishes any producer index, and notifies. */
  publish(index: number): void {
    Atomics.store(this.#header, 0, index | 0);
    this.kick();
  }

  kick(): void {
    this.#events.notify(this.port);
  }

  /** Destroys the domain. */
  die(): void {
    destroyDomain(this.machine, this.domain);
  }
}
