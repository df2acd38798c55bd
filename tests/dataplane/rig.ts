/**
 * A guest and a queue on one thread, stepped by hand: the guest's end of a ring, its granted pages, and a channel whose
 * operations complete when the test says so.
 */

import { type AbiName, ABIS, OP_DISCARD, OP_READ, STATUS_OKAY } from "../../lib/blkif/abi.ts";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import {
  DiscardFields,
  FrontRing,
  IndirectFields,
  RequestFields,
  ResponseFields,
  writeSegment,
} from "../../lib/blkif/front_ring.ts";
import type { DiskLimits } from "../../lib/blkif/request.ts";
import { createGrantStrategy } from "../../lib/dataplane/grants/create.ts";
import { IndirectPages } from "../../lib/dataplane/indirect_pages.ts";
import { Latch, LATCH_BYTES } from "../../lib/dataplane/latch.ts";
import { Journal, journalBytes, type Outstanding } from "../../lib/dataplane/journal.ts";
import { Queue } from "../../lib/dataplane/queue.ts";
import { RequestTimes } from "../../lib/dataplane/request_times.ts";
import { SlotTable } from "../../lib/dataplane/slot_table.ts";
import { createStats, type Durations, durationsIn, type QueueStats, readStats } from "../../lib/dataplane/stats.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import type { DomId, GrantShares, GrantTable, Platform, SharedPages } from "../../lib/hypervisor.ts";
import { createMachine, type MachineUsage } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { IoChannel, IoVectors } from "../../lib/storage/disk.ts";

export const GUEST = 5 as DomId;
const BACKEND = 0 as DomId;
const DATA_PAGES = 32 * 11;

/** An operation that a queue started, in words: `write 1024+512`. */
export interface StartedOperation {
  readonly text: string;
  readonly tag: number;
  /** Ranges of memory. */
  readonly vectors: number;
}

/** A disk in memory. It records its operations, and they complete when the test says so. */
export class ManualChannel implements IoChannel {
  readonly data: Uint8Array;
  readonly started: StartedOperation[] = [];
  readonly history: string[] = [];
  readonly tags = new Uint32Array(512);
  readonly results = new Int32Array(512);
  disposed = false;
  #done = 0;

  constructor(sectors: number, readonly vectors: IoVectors, readonly platform: Platform) {
    this.data = new Uint8Array(sectors * 512);
  }

  get inFlight(): number {
    return this.started.length + this.#done;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    const length = this.#move(
      offsetBytes,
      first,
      count,
      (view, at) => view.set(this.data.subarray(at, at + view.length)),
    );
    this.#start(tag, `read ${offsetBytes}+${length}`, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    const length = this.#move(offsetBytes, first, count, (view, at) => this.data.set(view, at));
    this.#start(tag, `write ${offsetBytes}+${length}`, count);
  }

  flush(tag: number): void {
    this.#start(tag, "flush");
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#start(tag, `discard ${offsetBytes}+${lengthBytes}${secure ? " secure" : ""}`);
  }

  submit(): void {}

  /** Completes the oldest operation that is under way. */
  complete(result = 0): void {
    const operation = this.started.shift();
    if (operation === undefined) throw new Error("nothing is under way");
    this.history.push(`${operation.text} done`);
    this.tags[this.#done] = operation.tag;
    this.results[this.#done++] = result;
  }

  reap(): number {
    const done = this.#done;
    this.#done = 0;
    return done;
  }

  [Symbol.dispose](): void {
    this.disposed = true;
  }

  #start(tag: number, text: string, vectors = 0): void {
    this.started.push({ text, tag, vectors });
    this.history.push(text);
  }

  #move(offsetBytes: number, first: number, count: number, move: (view: Uint8Array, at: number) => void): number {
    let at = offsetBytes;
    for (let i = first; i < first + count; i++) {
      const length = this.vectors.lengths[i]!;
      move(this.platform.memory.view(this.vectors.addresses[i]!, length), at);
      at += length;
    }
    return at - offsetBytes;
  }
}

/** One request in a test's words; `segments` are [page, first sector, last sector] of the guest's data pages. */
export interface TestRequest {
  /** Of an indirect request the inner one. */
  readonly operation: number;
  readonly id?: number;
  readonly sector?: number;
  /** Of a discard. */
  readonly sectors?: number;
  readonly flag?: number;
  /** Makes it indirect: the data page that its segments are written into and read from. */
  readonly indirectPage?: number;
  readonly segments?: readonly (readonly [page: number, first: number, last: number])[];
  /** Wire count when it shall differ from the segments given. */
  readonly segmentCount?: number;
}

/** What a rig is made with. */
export interface RigOptions {
  readonly abi?: AbiName;
  readonly grants?: GrantMode;
  readonly maxPersistentGrants?: number;
  readonly maxRequests?: number;
  readonly ringPages?: number;
  readonly maxIndirectSegments?: number;
  readonly limits?: Partial<DiskLimits>;
  readonly wrapGrantTable?: (table: GrantTable) => GrantTable;
  /** Shared with another rig: queues of one device. */
  readonly latch?: Latch;
  /** Where the ring's indices begin. */
  readonly startIndex?: number;
  /** Called before each store that matters to a crash: what it throws is the crash. */
  readonly beforeStore?: () => void;
}

const NONCE = Uint32Array.of(1, 2, 3, 4);

/** Calls `before` ahead of every store that records what the process has taken or answered. */
function watchStores(journal: Journal, ring: BackRing, before: () => void): void {
  const { taken, consumed, committing, answering, committed } = journal;
  const watched = { taken, consumed, committing, answering, committed };
  for (const [name, method] of Object.entries(watched)) {
    Object.defineProperty(journal, name, {
      value: (...args: [number, number]) => {
        before();
        method.apply(journal, args);
      },
    });
  }
  const { putResponse, push } = ring;
  ring.putResponse = (...args): void => {
    before();
    putResponse.apply(ring, args);
  };
  ring.push = (): boolean => {
    before();
    return push.apply(ring);
  };
}

/** A guest with one ring, and the queue that serves it. */
export class Rig implements Disposable {
  queue!: Queue;
  channel!: ManualChannel;
  readonly front: FrontRing;
  readonly ringPage: SharedPages;
  readonly pages: SharedPages;
  readonly complaints: string[] = [];
  readonly latch: Latch;
  notified = 0;
  /** What the queue's clock shows. */
  nowMs = 0;
  readonly #machine = createMachine({ memoryBytes: 32 * 2 ** 20 });
  readonly #stats = createStats();
  readonly #resources = new DisposableStack();
  readonly #shares: GrantShares;
  readonly #options: RigOptions;
  readonly #backend: Platform;
  readonly #journal = new Uint8Array(journalBytes(512));
  #nextId = 1;

  constructor(options: RigOptions = {}) {
    const abi = ABIS[options.abi ?? "x86_64-abi"];
    const guest = openSimulatedPlatform(this.#machine, GUEST);
    const backend = openSimulatedPlatform(this.#machine, BACKEND);
    this.#shares = this.#resources.use(guest.openGrantShares());
    this.ringPage = this.#shares.share(BACKEND, options.ringPages ?? 1, true);
    this.pages = this.#shares.share(BACKEND, DATA_PAGES, true);
    this.front = FrontRing.initialise(this.ringPage.view, abi);
    if (options.startIndex !== undefined) this.front = this.#restartAt(options.startIndex);
    this.latch = options.latch ?? new Latch(new Uint8Array(LATCH_BYTES));
    this.#options = options;
    this.#backend = backend;
    this.#serve(false);
  }

  /** The process dies, and another one takes its place; the disk keeps what reached it. */
  crash(): void {
    const { data } = this.channel;
    this.queue[Symbol.dispose](); // the kernel frees the memory of the dead process
    this.#serve(true);
    this.channel.data.set(data);
  }

  #serve(resume: boolean): void {
    const options = this.#options;
    const backend = this.#backend;
    const abi = ABIS[options.abi ?? "x86_64-abi"];
    const limits = { sectors: 1024, readOnly: false, logicalSectorBytes: 512, ...options.limits };
    const realTable = this.#resources.use(backend.openGrantTable(GUEST));
    const table = options.wrapGrantTable?.(realTable) ?? realTable;
    const ringMemory = this.#resources.use(realTable.mapPages(this.ringPage.refs, true));
    const ring = new BackRing(ringMemory.view, abi);
    const journal = new Journal(this.#journal, ring.slots);
    const open = resume ? journal.recover(NONCE, ring.slots, ring.responseProducer) : undefined;
    if (open === undefined) journal.begin(NONCE, ring.slots, ring.responseProducer);
    else ring.resume(open.requestConsumer);
    if (options.beforeStore !== undefined) watchStores(journal, ring, options.beforeStore);
    const inFlight = Math.min(options.maxRequests ?? ring.slots, ring.slots);
    const maxIndirectSegments = options.maxIndirectSegments ?? 0;
    const slots = new SlotTable(inFlight, Math.max(11, maxIndirectSegments), maxIndirectSegments, open?.slots);
    const indirect = maxIndirectSegments > 0 ? new IndirectPages(slots, table, backend.memory) : undefined;
    const grants = createGrantStrategy(options.grants ?? "copy", {
      slots,
      grants: table,
      memory: backend.memory,
      maxPersistentGrants: options.maxPersistentGrants ?? 1056,
      stats: this.#stats,
    });
    this.channel = new ManualChannel(limits.sectors, slots.vectors, backend);
    this.queue = this.#resources.use(
      new Queue({
        ring,
        abi,
        slots,
        grants,
        ...(indirect && { indirect }),
        channel: this.channel,
        limits,
        journal,
        stats: this.#stats,
        times: new RequestTimes({ slots: inFlight, stats: this.#stats, platform: { now: () => this.nowMs } }),
        latch: this.latch,
        notify: () => {
          options.beforeStore?.();
          this.notified++;
        },
        complain: (line) => this.complaints.push(line),
      }),
    );
  }

  /** What a next process would find in the journal if rsp_prod were so; undefined if that cannot be. */
  outstanding(responseProducer: number): Outstanding | undefined {
    return new Journal(this.#journal.slice(), this.front.slots).recover(NONCE, this.front.slots, responseProducer);
  }

  get stats(): QueueStats {
    return readStats(this.#stats);
  }

  get durations(): Durations {
    return durationsIn(this.#stats);
  }

  get usage(): MachineUsage {
    return machineUsage(this.#machine);
  }

  /** Another page, which the backend may only read. Its reference does for a page in a request's segments. */
  grantReadOnly(): SharedPages {
    return this.#shares.share(BACKEND, 1, false);
  }

  /** Bytes of one of the guest's data pages. */
  page(index: number): Uint8Array {
    return this.pages.view.subarray(index * 4096, (index + 1) * 4096);
  }

  /** Puts requests on the ring and publishes them. Returns whether the backend asked to be notified. */
  send(...requests: TestRequest[]): boolean {
    for (const request of requests) this.#put(request);
    return this.front.push();
  }

  #put(request: TestRequest): void {
    const id = request.id ?? this.#nextId++;
    const sector = request.sector ?? 0;
    const common = { idLow: id, sectorLow: sector >>> 0, sectorHigh: Math.floor(sector / 2 ** 32) };
    if (request.indirectPage !== undefined) return this.#putIndirect(request, request.indirectPage, common);
    if (request.operation === OP_DISCARD) {
      const sectors = request.sectors ?? 0;
      const count = { sectorCountLow: sectors >>> 0, sectorCountHigh: Math.floor(sectors / 2 ** 32) };
      return this.front.putDiscard(Object.assign(new DiscardFields(), common, count, { flag: request.flag ?? 0 }));
    }
    const fields = Object.assign(new RequestFields(), common, { operation: request.operation });
    const segments = request.segments ?? [];
    fields.segmentCount = request.segmentCount ?? segments.length;
    segments.forEach(([page, first, last], i) => {
      fields.grefs[i] = this.#ref(page);
      fields.firstSectors[i] = first;
      fields.lastSectors[i] = last;
    });
    this.front.putRequest(fields);
  }

  #putIndirect(request: TestRequest, indirectPage: number, common: Partial<IndirectFields>): void {
    const fields = Object.assign(new IndirectFields(), common, { innerOperation: request.operation });
    const segments = request.segments ?? [];
    fields.segmentCount = request.segmentCount ?? segments.length;
    fields.grefs[0] = this.#ref(indirectPage);
    if (indirectPage < this.pages.refs.length) this.writeSegments(indirectPage, segments);
    this.front.putIndirect(fields);
  }

  /** Writes segments into one of the guest's pages, as an indirect request has them. */
  writeSegments(indirectPage: number, segments: NonNullable<TestRequest["segments"]>): void {
    const page = this.page(indirectPage);
    const words = new Uint32Array(page.buffer, page.byteOffset, page.length / 4);
    segments.forEach(([page, first, last], i) => writeSegment(words, 2 * i, this.#ref(page), first, last));
  }

  /** A page that is none stands for a bad reference. */
  #ref(page: number): number {
    return this.pages.refs[page] ?? page;
  }

  /** Steps until there is nothing to do without a completion. */
  stepUntilIdle(): void {
    this.queue.interrupted();
    for (let steps = 0; this.queue.step() || this.queue.rest(); steps++) {
      if (steps > 1000) throw new Error("the queue does not become idle");
    }
  }

  /** Completes everything until nothing is under way. */
  run(): void {
    this.stepUntilIdle();
    while (this.channel.started.length > 0) {
      this.channel.complete();
      this.stepUntilIdle();
    }
  }

  /** Responses since the last call: `[id, operation, status]`. */
  responses(): [id: number, operation: number, status: number][] {
    const answers: [number, number, number][] = [];
    const fields = new ResponseFields();
    for (let count = this.front.unconsumedResponses(); count > 0; count--) {
      this.front.takeResponse(fields);
      answers.push([fields.idLow, fields.operation, fields.status]);
    }
    return answers;
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }

  #restartAt(index: number): FrontRing {
    const header = new Int32Array(this.ringPage.view.buffer, this.ringPage.view.byteOffset, 4);
    header.set([index | 0, (index + 1) | 0, index | 0, (index + 1) | 0]);
    return new FrontRing(this.ringPage.view, ABIS["x86_64-abi"]);
  }
}

/** A read of one whole page. */
export const READ_PAGE: TestRequest = { operation: OP_READ, segments: [[0, 0, 7]] };

/** Statuses of responses, for the common assertion that all went well. */
export function allOkay(responses: readonly (readonly [number, number, number])[]): boolean {
  return responses.every(([, , status]) => status === STATUS_OKAY);
}
