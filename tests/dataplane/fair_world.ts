/**
 * Guests on one reactor in virtual time: the reactor is the product's, on the simulated hypervisor; what it does costs
 * time by a model of an engine, and guests answer after a time of their own. The same world gives the same figures.
 */

import {
  ABIS,
  MAX_SEGMENTS_PER_REQUEST,
  OP_FLUSH_DISKCACHE,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
} from "../../lib/blkif/abi.ts";
import { FrontRing, IndirectFields, RequestFields, ResponseFields, writeSegment } from "../../lib/blkif/front_ring.ts";
import { Weight } from "../../lib/dataplane/fairness.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats, STAT } from "../../lib/dataplane/stats.ts";
import { EIO } from "../../lib/errno.ts";
import type { DomId, Parker } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOptions, IoChannel, IoVectors } from "../../lib/storage/disk.ts";
import { nullAttachment } from "../../lib/storage/engine/null.ts";

/** Microseconds that the reactor takes, about as measured on page-cache reads: docs/results.md. */
const TURN_US = 0.1;
const PASS_US = 1;
const REQUEST_US = 2.5;
/** Between the disk and the buffer; and as much between the buffer and the guest. */
const KIB_US = 0.1;
const BAD_US = 2;
/** A sleeping thread takes so long to run. */
const WAKE_US = 20;
const BACKEND = 0 as DomId;
/** Completions that a channel hands over at a time; the time of their copies passes then. */
const KIB_PER_REAP = 128;

/** What a guest asks for, over and over. */
export interface Demand {
  readonly operation: "read" | "write" | "barrier" | "flush" | "bad" | "nothing";
  readonly depth: number;
  /** Pages of a request; more than 11, or `indirect`, make it an indirect one. */
  readonly segments?: number;
  readonly indirect?: boolean;
  /** Sectors of each segment. Absent: 8. */
  readonly sectors?: number;
  readonly ringPages?: number;
  /** From an answer to the next request. Absent: 5. */
  readonly thinkUs?: number;
  readonly weight?: number;
  /** The number of the domain; absent: one of its own. */
  readonly domain?: number;
  /** Its disk fails every request. */
  readonly fails?: boolean;
}

const OPERATIONS = {
  read: OP_READ,
  write: OP_WRITE,
  barrier: OP_WRITE_BARRIER,
  flush: OP_FLUSH_DISKCACHE,
  bad: OP_READ,
  nothing: OP_READ,
};

/** A guest's ring, and what its guest does. */
export class Load {
  answered = 0;
  readonly latenciesUs: number[] = [];
  readonly weight: Weight;
  readonly #put: () => void;
  readonly #front: FrontRing;
  readonly #notify: () => void;
  readonly #response = new ResponseFields();
  readonly #thinkUs: number;
  /** When requests will be put, and were. */
  readonly #due: number[];
  readonly #sentUs: number[] = [];

  constructor(readonly demand: Demand, front: FrontRing, put: () => void, notify: () => void) {
    this.#front = front;
    this.#put = put;
    this.#notify = notify;
    this.#thinkUs = demand.thinkUs ?? 5;
    this.#due = Array(demand.depth).fill(0);
    this.weight = new Weight(demand.weight);
  }

  /** When it acts next, unless it is answered. */
  get nextUs(): number {
    return this.#due[0] ?? Infinity;
  }

  act(nowUs: number): void {
    if (this.demand.operation === "nothing") return this.#storm(nowUs);
    for (let count = this.#front.unconsumedResponses(); count > 0; count--) {
      this.#front.takeResponse(this.#response);
      this.answered++;
      this.latenciesUs.push(nowUs - this.#sentUs.shift()!);
      this.#due.push(nowUs + this.#thinkUs);
    }
    if (this.nextUs > nowUs) return;
    for (; this.nextUs <= nowUs; this.#due.shift()) {
      this.#put();
      this.#sentUs.push(nowUs);
    }
    if (this.#front.push()) this.#notify();
  }

  /** Notifies without any request. */
  #storm(nowUs: number): void {
    if (this.nextUs > nowUs) return;
    this.#due[0] = nowUs + this.#thinkUs;
    this.#notify();
  }

  percentileUs(share: number): number {
    const sorted = this.latenciesUs.toSorted((one, other) => one - other);
    return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Infinity;
  }
}

/** A disk that takes time: the reactor's for each request and byte, and then its own. */
class CostlyChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #vectors: IoVectors;
  readonly #waiting: { tag: number; kib: number; doneUs: number }[] = [];
  readonly #world: World;

  constructor(world: World, { depth, vectors }: ChannelOptions, fails: boolean) {
    this.#world = world;
    this.#vectors = vectors;
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth).fill(fails ? -EIO : 0);
  }

  get inFlight(): number {
    return this.#waiting.length;
  }

  get nextUs(): number {
    return this.#waiting[0]?.doneUs ?? Infinity;
  }

  read(tag: number, _offsetBytes: number, first: number, count: number): void {
    let kib = 0;
    for (let i = first; i < first + count; i++) kib += this.#vectors.lengths[i]! / 1024;
    this.#world.spend(REQUEST_US + kib * KIB_US);
    this.#waiting.push({ tag, kib, doneUs: this.#world.nowUs + this.#world.deviceUs });
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.read(tag, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.read(tag, 0, 0, 0);
  }

  discard(tag: number): void {
    this.read(tag, 0, 0, 0);
  }

  submit(): void {
    this.#world.spend(PASS_US);
  }

  reap(): number {
    let count = 0;
    let kib = 0;
    for (const { nowUs } = this.#world; this.nextUs <= nowUs && kib < KIB_PER_REAP; count++) {
      const done = this.#waiting.shift()!;
      this.tags[count] = done.tag;
      kib += done.kib;
    }
    this.#world.spend(kib * KIB_US);
    return count;
  }

  [Symbol.dispose](): void {}
}

/** All of it. */
export class World implements Disposable {
  nowUs = 0;
  readonly loads: Load[] = [];
  readonly reactor: Reactor;
  readonly #machine: SharedArrayBuffer;
  readonly #channels: CostlyChannel[] = [];
  readonly #stats: Float64Array[] = [];
  readonly #owned = new DisposableStack();
  #bad = 0;
  #acting = false;

  /** `deviceUs`: how long a disk takes, beside what the reactor does. */
  constructor(demands: readonly Demand[], readonly deviceUs = 0) {
    this.#machine = createMachine({ domains: demands.length + 1, memoryBytes: (16 + 12 * demands.length) * 2 ** 20 });
    const nothing = (): void => {};
    const parker: Parker = {
      watch: nothing,
      unwatch: nothing,
      park: () => this.#idle(),
      submit: nothing,
      [Symbol.dispose]: nothing,
    };
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const host = { closed: nothing, stopped: fail, warn: nothing, debug: fail };
    const platform = openSimulatedPlatform(this.#machine, BACKEND);
    platform.now = (): number => this.nowUs / 1000;
    platform.readClock = (into, index): void => void (into[index] = this.nowUs / 1000);
    const openChannel = (_: unknown, options: ChannelOptions): IoChannel => {
      const channel = new CostlyChannel(this, options, demands[this.#channels.length]!.fails ?? false);
      this.#channels.push(channel);
      return channel;
    };
    this.reactor = this.#owned.use(new Reactor(platform, parker, host, { openChannel }));
    demands.forEach((demand, index) => this.#open(demand, index + 1));
  }

  /** Runs so long, and forgets what was measured before. */
  run(us: number): void {
    for (const load of this.loads) {
      load.answered = 0;
      load.latenciesUs.length = 0;
    }
    const endUs = this.nowUs + us;
    this.turnUntil(() => this.nowUs >= endUs);
  }

  /** Goes on until something is so. */
  turnUntil(isSo: () => boolean): void {
    this.#act();
    while (!isSo()) {
      if (!this.reactor.turn()) this.reactor.sleep(-1);
      this.spend(TURN_US);
    }
  }

  /** The reactor has worked so long; guests go on meanwhile. */
  spend(us: number): void {
    const bad = this.#badAnswers();
    const endUs = this.nowUs + us + (bad - this.#bad) * BAD_US;
    this.#bad = bad;
    this.#act();
    for (let nextUs = this.#nextUs; nextUs < endUs; nextUs = this.#nextUs) {
      this.nowUs = nextUs;
      this.#act();
    }
    this.nowUs = endUs;
    this.#act();
  }

  /** When the next guest acts. */
  get #nextUs(): number {
    return this.loads.reduce((least, { nextUs }) => Math.min(least, nextUs), Infinity);
  }

  #badAnswers(): number {
    return this.#stats.reduce((sum, stats) => sum + stats[STAT.errors]!, 0);
  }

  #act(): void {
    if (this.#acting) return;
    this.#acting = true;
    for (const load of this.loads) load.act(this.nowUs);
    this.#acting = false;
  }

  /** Until somebody has something for the reactor. */
  #idle(): void {
    const nextUs = Math.min(this.#nextUs, ...this.#channels.map((channel) => channel.nextUs));
    if (nextUs <= this.nowUs || nextUs === Infinity) return;
    this.nowUs = nextUs;
    this.#act();
    this.nowUs += WAKE_US;
  }

  #open(demand: Demand, index: number): void {
    const domain = (demand.domain ?? index) as DomId;
    const guest = openSimulatedPlatform(this.#machine, domain);
    const shares = this.#owned.use(guest.openGrantShares());
    const events = this.#owned.use(guest.openEventChannels(BACKEND));
    const ring = shares.share(BACKEND, demand.ringPages ?? 1, true);
    const page = shares.share(BACKEND, 1, true).refs[0]!;
    const front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
    const eventChannel = events.bindUnbound(BACKEND);
    const segments = demand.segments ?? 1;
    const put = segments > MAX_SEGMENTS_PER_REQUEST || demand.indirect
      ? putIndirect(front, demand, page, shares.share(BACKEND, 1, true))
      : putDirect(front, demand, page);
    const load = new Load(demand, front, put, () => events.notify(eventChannel));
    this.loads.push(load);
    const stats = createStats();
    this.#stats.push(new Float64Array(stats));
    this.reactor.open(index, {
      label: `domain ${domain}`,
      guest: domain,
      ringRefs: ring.refs,
      eventChannel,
      abi: "x86_64-abi",
      attachment: nullAttachment(),
      properties: { sectors: 4096, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
      grants: "copy",
      stats,
      maxIndirectSegments: 256,
      weight: load.weight.memory,
    });
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

function putDirect(front: FrontRing, { operation, segments = 1, sectors = 8 }: Demand, page: number): () => void {
  const fields = new RequestFields();
  fields.operation = OPERATIONS[operation];
  fields.segmentCount = operation === "flush" ? 0 : segments;
  if (operation === "bad") fields.sectorHigh = 1;
  fields.grefs.fill(page);
  fields.lastSectors.fill(sectors - 1);
  return () => front.putRequest(fields);
}

function putIndirect(
  front: FrontRing,
  { operation, segments = 1, sectors = 8 }: Demand,
  page: number,
  table: { readonly refs: readonly number[]; readonly view: Uint8Array },
): () => void {
  const { buffer, byteOffset } = table.view;
  const words = new Uint32Array(buffer, byteOffset, 1024);
  for (let i = 0; i < segments; i++) writeSegment(words, 2 * i, page, 0, sectors - 1);
  const fields = new IndirectFields();
  fields.innerOperation = OPERATIONS[operation];
  fields.segmentCount = segments;
  fields.grefs[0] = table.refs[0]!;
  return () => front.putIndirect(fields);
}
