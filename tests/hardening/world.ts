/**
 * A hostile guest and the real data path in one thread: a ring that the guest fills with any bytes, grants of every
 * kind, and a queue as a reactor opens it, on a disk in memory, stepped by hand. Memory that must not be touched is a
 * canary, checked after every run.
 */

import { PAGE_BYTES, SECTOR_BYTES } from "../../lib/units.ts";
import { assert, assertEquals } from "@std/assert";
import type { AbiName } from "../../lib/blkif/abi.ts";
import { type Connection, openConnection } from "../../lib/dataplane/connection.ts";
import { createStats, type QueueStats, readStats } from "../../lib/dataplane/stats.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import type { DomId, EventChannels, EvtchnPort, Platform, SharedPages } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOpener, DiskProperties } from "../../lib/storage/disk.ts";
import { type MemoryAttachment, memoryAttachment, openChannel } from "../../lib/storage/engine/memory.ts";
import {
  readAnswer,
  slotBytes,
  slotCount,
  type WireAnswer,
  type WireRequest,
  writeLists,
  writeRequest,
} from "./wire.ts";

export const ABI_NAMES: readonly AbiName[] = ["x86_64-abi", "x86_32-abi", "arm-abi"];
export const GRANT_MODES: readonly GrantMode[] = ["copy", "persistent", "map", "map-each"];
export const SECTOR_SIZES: readonly SectorBytes[] = [512, 4096];

/** Opens the channels of memory disks. */
export const openMemory: ChannelOpener = (attachment, options) => openChannel(attachment as MemoryAttachment, options);

export const BACKEND = 0 as DomId;
export const GUEST = 1 as DomId;
const NEIGHBOUR = 2 as DomId;
export const PAGE = PAGE_BYTES;
export const SECTOR = SECTOR_BYTES;
/** Bytes after the end of the disk that nothing may touch. */
const TAIL_BYTES = 64 * SECTOR;
const TAIL_FILL = 0xc5;
const STEPS = 100_000;
/** One for each slot of a ring of one page. */
const LIST_PAGES = 32;

const DISCARD = { granularityBytes: 4096, alignmentBytes: 0, secure: false };

/** Supported sizes of a logical sector. */
export type SectorBytes = 512 | 4096;

/** Every ABI with every size of logical sectors. */
export const SHAPES: readonly { readonly abi: AbiName; readonly sectorBytes: SectorBytes }[] = ABI_NAMES.flatMap((
  abi,
) => SECTOR_SIZES.map((sectorBytes) => ({ abi, sectorBytes })));

/** Options of a {@linkcode World}. */
interface WorldOptions {
  readonly abi?: AbiName;
  readonly grants?: GrantMode;
  readonly sectorBytes?: SectorBytes;
  readonly readOnly?: boolean;
  readonly sectors?: number;
  readonly maxRequests?: number;
  /** A power of two; default 1. */
  readonly ringPages?: number;
  readonly maxPersistentGrants?: number;
  /** Initial value of the ring's indices. */
  readonly startIndex?: number;
  /** Wraps the platform that the queue uses. */
  readonly wrap?: (platform: Platform) => Platform;
  /** Pages granted for reading and writing. */
  readonly dataPages?: number;
  /** Most segments offered for indirect requests; 0: not offered. Default 256. */
  readonly indirectSegments?: number;
  /** Discards are offered, in granules of 4096 bytes. Default true. */
  readonly discard?: boolean;
  /** Opens the queue's channel to the disk. Default: the engine `memory`. */
  readonly openChannel?: ChannelOpener;
}

/** Grants of every kind that a guest can use. */
export interface Grants {
  /** Granted to the backend for reading and writing. */
  readonly data: SharedPages;
  /** Granted to the backend for reading. */
  readonly readOnly: SharedPages;
  /** Granted to the backend for reading: for the segments of indirect requests. */
  readonly lists: SharedPages;
  /** Granted to the backend, but in no request. */
  readonly unnamed: SharedPages;
  /** Granted to another domain. */
  readonly foreign: SharedPages;
  /** Revoked. */
  readonly revoked: number;
}

/** A hostile guest with one ring, and the queue that serves it. */
export class World implements Disposable {
  readonly abi: AbiName;
  readonly machine: SharedArrayBuffer;
  readonly ring: SharedPages;
  readonly grants: Grants;
  /** The disk and the canary after its end. */
  readonly bytes: Uint8Array;
  readonly disk: Uint8Array;
  readonly properties: DiskProperties;
  readonly connection: Connection;
  readonly complaints: string[] = [];
  readonly port: EvtchnPort;
  readonly #header: Int32Array;
  readonly #slots: readonly DataView[];
  readonly #events: EventChannels;
  readonly #fired = new Uint32Array(8);
  readonly #stats = createStats();
  readonly #resources = new DisposableStack();
  /** Pages mapped while nothing is in flight. */
  readonly #idlePages: number;
  #canaries: readonly Canary[] = [];
  #produced: number;
  #consumed: number;
  #nextId = 1n;

  constructor(options: WorldOptions = {}) {
    this.abi = options.abi ?? "x86_64-abi";
    this.machine = createMachine({ memoryBytes: 32 * 2 ** 20, domains: 4, grantsPerDomain: 1024, portsPerDomain: 16 });
    const guest = openSimulatedPlatform(this.machine, GUEST);
    const shares = this.#resources.use(guest.openGrantShares());
    const pages = options.ringPages ?? 1;
    this.ring = shares.share(BACKEND, pages, true);
    const revoked = shares.share(BACKEND, 1, true);
    this.grants = {
      data: shares.share(BACKEND, options.dataPages ?? 24, true),
      readOnly: shares.share(BACKEND, 4, false),
      lists: shares.share(BACKEND, LIST_PAGES, false),
      unnamed: shares.share(BACKEND, 2, true),
      foreign: shares.share(NEIGHBOUR, 1, true),
      revoked: revoked.refs[0]!,
    };
    revoked[Symbol.dispose]();
    this.#header = new Int32Array(this.ring.view.buffer, this.ring.view.byteOffset, 4);
    this.#slots = Array.from({ length: slotCount(this.abi, pages) }, (_, slot) => {
      const size = slotBytes(this.abi);
      return new DataView(this.ring.view.buffer, this.ring.view.byteOffset + 64 + slot * size, size);
    });
    const start = (options.startIndex ?? 0) | 0;
    this.#produced = this.#consumed = start;
    this.#header.set([start, start + 1, start, start + 1]);
    this.#events = this.#resources.use(guest.openEventChannels(BACKEND));
    this.port = this.#events.bindUnbound(BACKEND);
    const sectors = options.sectors ?? 256;
    const shared = new SharedArrayBuffer(sectors * SECTOR + TAIL_BYTES);
    this.bytes = new Uint8Array(shared);
    this.disk = this.bytes.subarray(0, sectors * SECTOR);
    this.properties = {
      sectors,
      logicalSectorBytes: options.sectorBytes ?? 512,
      physicalSectorBytes: 4096,
      readOnly: options.readOnly ?? false,
      ...(options.discard === false ? {} : { discard: DISCARD }),
    };
    this.#paint();
    this.connection = this.#connect(options, shared);
    this.#idlePages = this.usage.mappedPages;
  }

  /** What the queue counts. */
  get stats(): QueueStats {
    return readStats(this.#stats);
  }

  get usage(): ReturnType<typeof machineUsage> {
    return machineUsage(this.machine);
  }

  /** Bytes of one of the guest's data pages. */
  page(index: number): Uint8Array {
    return this.grants.data.view.subarray(index * PAGE, (index + 1) * PAGE);
  }

  /** The page for segments with this grant. */
  listPage(gref: number): Uint8Array | undefined {
    const { refs, view } = this.grants.lists;
    const index = refs.findIndex((ref) => ref === gref);
    return index < 0 ? undefined : view.subarray(index * PAGE, (index + 1) * PAGE);
  }

  /** An unused id. */
  nextId(): bigint {
    return this.#nextId++;
  }

  /** Slots of the ring, a power of two. */
  get slots(): number {
    return this.#slots.length;
  }

  /** Free slots, until the guest takes responses. */
  get free(): number {
    return this.slots - ((this.#produced - this.#consumed) >>> 0);
  }

  /** The slot of a ring index. */
  slot(index: number): DataView {
    return this.#slots[index & (this.slots - 1)]!;
  }

  /** Index of the next request, a u32. */
  get produced(): number {
    return this.#produced >>> 0;
  }

  /** Writes requests and publishes them. */
  send(...requests: WireRequest[]): void {
    for (const request of requests) {
      if (request.form === "indirect") writeLists(request, (gref) => this.listPage(gref));
      writeRequest(this.slot(this.#produced++), this.abi, request);
    }
    this.publish(this.#produced);
  }

  /** Stores any producer index. */
  publish(index: number): void {
    this.#produced = index | 0;
    Atomics.store(this.#header, 0, this.#produced);
  }

  /** One pass of the queue; false: it may sleep. */
  step(): boolean {
    return this.connection.queue.step() || this.connection.queue.rest();
  }

  /** Steps the queue until it is idle, then checks the ring and the canaries. */
  run(): void {
    const before = words(this.ring.view).slice();
    const answered = this.#header[2]!;
    const { queue } = this.connection;
    for (let steps = 0; this.step() || queue.inFlight > 0; steps++) {
      assert(steps < STEPS, "the queue does not become idle");
    }
    this.#checkRing(before, answered);
    this.checkCanaries();
  }

  /** As {@linkcode run}, but checks only the canaries: for a guest that names its ring as data. */
  survive(): void {
    const { queue } = this.connection;
    for (let steps = 0; this.step() || queue.inFlight > 0; steps++) {
      assert(steps < STEPS, "the queue does not become idle");
    }
    this.checkCanaries();
  }

  /** {@linkcode run}; returns the responses since the last call. */
  answers(): WireAnswer[] {
    this.run();
    return this.takeAnswers();
  }

  takeAnswers(): WireAnswer[] {
    const answers: WireAnswer[] = [];
    const end = this.#header[2]!;
    assert(((end - this.#consumed) >>> 0) <= this.slots, "more answers than a ring holds");
    while (this.#consumed !== end) {
      answers.push(readAnswer(this.slot(this.#consumed)));
      this.#consumed = (this.#consumed + 1) | 0;
    }
    this.#header[3] = this.#consumed + 1;
    return answers;
  }

  /** Whether the guest was notified since the last call: 0 or 1. */
  takeEvents(): number {
    return this.#events.take(this.#fired);
  }

  /** Checks that no canary changed and no mapping is left. */
  checkCanaries(): void {
    for (const { name, now, before } of this.#canaries) {
      for (let i = 0; i < before.length; i++) if (now[i] !== before[i]) throw new Error(`${name} changed`);
    }
    assertEquals(this.usage.mappedPages, this.#idlePages + this.stats.persistentGrants, "pages stay mapped");
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }

  #paint(): void {
    this.bytes.fill(TAIL_FILL);
    this.disk.forEach((_, i) => this.disk[i] = diskByte(i));
    const { readOnly, unnamed, foreign } = this.grants;
    for (const { view } of [readOnly, unnamed, foreign]) view.forEach((_, i) => view[i] = canary(i));
    this.#canaries = [
      new Canary("a page granted read-only", readOnly.view),
      new Canary("a page that was never named", unnamed.view),
      new Canary("another domain's page", foreign.view),
      new Canary("the bytes after the disk", this.bytes.subarray(this.disk.length)),
    ];
  }

  #connect(options: WorldOptions, data: SharedArrayBuffer): Connection {
    const real = openSimulatedPlatform(this.machine, BACKEND);
    const platform = options.wrap?.(real) ?? real;
    const handles = {
      grants: this.#resources.use(platform.openGrantTable(GUEST)),
      events: this.#resources.use(platform.openEventChannels(GUEST)),
    };
    const request = {
      label: "hostile",
      guest: GUEST,
      ringRefs: this.ring.refs,
      eventChannel: this.port,
      abi: this.abi,
      attachment: memoryAttachment(data, false),
      properties: this.properties,
      grants: options.grants ?? "copy",
      ...(options.maxPersistentGrants === undefined ? {} : { maxPersistentGrants: options.maxPersistentGrants }),
      maxRequests: options.maxRequests ?? this.slots,
      maxIndirectSegments: options.indirectSegments ?? 256,
      discard: options.discard ?? true,
      stats: this.#stats,
    };
    return this.#resources.use(
      openConnection(
        request,
        platform,
        handles,
        options.openChannel ?? openMemory,
        (line) => this.complaints.push(line),
      ),
    );
  }

  /** Only responses, rsp_prod and req_event of the ring may have changed. */
  #checkRing(before: Int32Array, answered: number): void {
    const now = words(this.ring.view);
    const allowed = new Set([1, 2]);
    for (let index = answered; index !== this.#header[2]!; index = (index + 1) | 0) {
      const begin = (this.slot(index).byteOffset - this.ring.view.byteOffset) >>> 2;
      allowed.add(begin).add(begin + 1);
      const rest = before[begin + 2]! ^ now[begin + 2]!;
      if ((rest & 0xff00) === 0) allowed.add(begin + 2); // a response may change all bytes of this word but the second
    }
    for (let i = 0; i < now.length; i++) {
      if (now[i] !== before[i] && !allowed.has(i)) throw new Error(`word ${i} of the ring changed`);
    }
  }
}

/** Bytes that must not change. */
class Canary {
  readonly now: Int32Array;
  readonly before: Int32Array;

  constructor(readonly name: string, bytes: Uint8Array) {
    this.now = words(bytes);
    this.before = this.now.slice();
  }
}

/** Bytes as 32-bit words, for fast comparisons. */
export function words(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
}

/** Initial contents of the disk. */
export function diskByte(offset: number): number {
  return (offset >>> 9) * 7 + offset & 0xff;
}

function canary(offset: number): number {
  return offset * 13 + 5 & 0xff;
}
