/**
 * The frontend and its load against the real backend, with every transport feature: rings of several pages, several
 * rings, indirect requests and discards. Every byte verifies, and counters show that the features were in use.
 */

import { assert, assertEquals, assertGreater, assertLess, assertThrows } from "@std/assert";
import { DEFAULT_SETTINGS, type DeviceSettings } from "../../lib/backend/settings.ts";
import { BackendKind } from "../../lib/backend/kind.ts";
import { type AbiName, OP_DISCARD, OP_INDIRECT, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { SILENT } from "../../lib/log.ts";
import { DiskModel } from "../../lib/guest/disk_model.ts";
import { Frontend, type FrontendOptions } from "../../lib/guest/frontend.ts";
import { LoadDriver } from "../../lib/guest/load.ts";
import { LoadThread } from "../../lib/guest/load_thread.ts";
import { type LoadOutcome, LoadProgress, type LoadSpec, loadTarget, MIXED_LOAD } from "../../lib/guest/load_types.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { attachDevice } from "../../lib/toolstack/attach.ts";
import { frontendPath } from "../../lib/xenbus/paths.ts";
import { Host as UnservedHost } from "./rig.ts";

const BACKEND = 0 as DomId;
const GUEST = 3 as DomId;
const DISK = "memory:16M";

/** A host with the real backend and one guest with one disk. */
class Host implements AsyncDisposable {
  readonly machine = createMachine({ memoryBytes: 2 ** 28, grantsPerDomain: 65536 });
  readonly store = new SimulatedStore();
  readonly kind: BackendKind;
  readonly path: string;
  readonly #plane: WorkerDataPlane;

  constructor(settings: Partial<DeviceSettings> = {}) {
    const platform = openSimulatedPlatform(this.machine, BACKEND);
    this.store.createGuest(GUEST);
    this.#plane = new WorkerDataPlane({ platform, workers: 2, addLane: () => Promise.resolve(), warn: () => {} });
    this.kind = new BackendKind({
      kind: "vbd3",
      openXenstore: () => this.store.connect(BACKEND),
      dataPlane: this.#plane,
      openDisk: (request) => openDisk(request),
      journals: platform.journals,
      settings: { ...DEFAULT_SETTINGS, maxQueues: 4, ...settings },
      logger: SILENT,
    });
    using toolstack = this.store.connect(BACKEND);
    const request = {
      domain: GUEST,
      backendDomain: BACKEND,
      kind: "vbd3",
      params: DISK,
      readOnly: false,
      cdrom: false,
    };
    this.path = frontendPath(attachDevice(toolstack, request));
  }

  get front(): ReturnType<typeof openSimulatedPlatform> {
    return openSimulatedPlatform(this.machine, GUEST);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kind.close({ leave: "connected", timeoutMs: 0 }, 10_000);
    await this.#plane[Symbol.asyncDispose]();
  }
}

interface Scene {
  readonly settings?: Partial<DeviceSettings>;
  readonly frontend: Partial<FrontendOptions>;
  readonly spec: Partial<LoadSpec>;
}

/** Connects, runs the load, and reads everything back; all of it must verify. */
async function play({ settings, frontend, spec }: Scene): Promise<{ outcome: LoadOutcome; host: Host; slots: number }> {
  await using host = new Host(settings);
  await using thread = await LoadThread.start(host.front);
  const store = host.store.connect(GUEST);
  using front = new Frontend({ platform: host.front, store, path: host.path, endpoint: thread, ...frontend });
  const connection = await front.connect();
  const model = DiskModel.create(connection.disk.sectors, 7, "zeroes");
  const target = loadTarget(connection);
  const outcome = await thread.run(target, { ...MIXED_LOAD, ...spec }, model).outcome;
  const readBack = { readShare: 1, pattern: "sequential", blockBytes: [32768], requests: 512 } as const;
  const reading = await thread.run(target, { ...MIXED_LOAD, ...readBack }, model).outcome;
  for (const { errors, errorsByKind, miscompares, firstMiscompare, protocolErrors, unanswered } of [outcome, reading]) {
    assertEquals(
      { errors, errorsByKind, miscompares, firstMiscompare, protocolErrors, unanswered },
      { errors: 0, errorsByKind: {}, miscompares: 0, firstMiscompare: undefined, protocolErrors: 0, unanswered: 0 },
    );
  }
  await front.disconnect();
  return { outcome, host, slots: connection.ring.slots * connection.rings.length };
}

for (const grants of ["copy", "persistent", "map", "map-each"] as const) {
  const abi: AbiName = grants === "map" ? "x86_32-abi" : "x86_64-abi";
  Deno.test(`requests of up to 1 MiB on rings of 16 pages and four queues, with discards, verify (${grants}, ${abi})`, async () => {
    const { outcome, host, slots } = await play({
      settings: { grants },
      frontend: { ringPages: 16, queues: 4, segments: 256, requests: 64, abi },
      spec: {
        requests: 1500,
        blockBytes: { min: 512, max: 2 ** 20 },
        depth: 64,
        flushEvery: 50,
        barrierEvery: 20,
        discardEvery: 30,
      },
    });
    assertEquals(slots, 2048);
    assertEquals([outcome.flushes > 20, outcome.barriers > 5, outcome.discards > 30], [true, true, true]);
    assertGreater(outcome.bytesRead / outcome.reads, 200_000);
    const [status] = host.kind.status();
    assertEquals(status!.queues.length, 4);
    for (const { reads, writes } of status!.queues) assertGreater(reads + writes, 300, "every ring was used");
    const { totals } = status!;
    assertEquals([totals.errors, totals.discards, totals.unsupported], [0, outcome.discards, 0]);
    assertEquals(totals.flushes, status!.queues.reduce((sum, { flushes }) => sum + flushes, 0));
    assertEquals([status!.latched, totals.flushes], [false, outcome.flushes]);
  });
}

Deno.test("the frontend uses no feature that the backend does not offer", async () => {
  const { outcome, host, slots } = await play({
    settings: { maxRingPageOrder: 0, maxQueues: 1, maxIndirectSegments: 0, discard: false },
    frontend: { ringPages: 16, queues: 4, segments: 256 },
    spec: { requests: 500, discardEvery: 10 },
  });
  assertEquals([slots, outcome.discards, host.kind.status()[0]!.queues.length], [32, 0, 1]);
});

Deno.test("queues of a device on several reactors: each reads what the other wrote", async () => {
  const { host, outcome } = await play({
    frontend: { queues: 2, ringPages: 2 },
    spec: { requests: 3000, blockBytes: [4096], area: { firstSector: 0, sectors: 512 }, depth: 64 },
  });
  assertGreater(outcome.verifiedSectors, 8000);
  const [first, second] = host.kind.status()[0]!.queues;
  assertLess(Math.abs(first!.reads - second!.reads), 600);
});

/** Operations of the first 32 requests of a load, read from a ring that is not served. */
async function firstRequests(spec: Partial<LoadSpec>, verified: boolean): Promise<number[]> {
  const host = new UnservedHost();
  const path = "device/vbd/51712";
  using front = new Frontend({ platform: host.front, store: host.guest, path, segments: 32 });
  const nodes = { "feature-max-indirect-segments": "32", "feature-discard": "1" };
  const disk = new Uint8Array(2 ** 24);
  const [connection, backend] = await Promise.all([front.connect(), host.serve(disk, nodes)]);
  using _backend = backend;
  assertEquals([connection.segments, connection.indirectPages!.refs.length], [32, 32]);
  const driver = new LoadDriver({
    target: loadTarget(connection),
    spec: { ...MIXED_LOAD, ...spec },
    platform: host.front,
    events: front.events,
    ...(verified ? { model: DiskModel.create(connection.disk.sectors, 1, "zeroes") } : {}),
    progress: new LoadProgress(),
  });
  driver.step();
  return Array.from({ length: 32 }, (_, slot) => connection.ringPages.view[64 + slot * 112]!);
}

Deno.test("a request of more than 11 segments is indirect, and a barrier is always direct", async () => {
  assertEquals(await firstRequests({ blockBytes: [131072] }, false), Array(32).fill(OP_INDIRECT));
  const small = await firstRequests({ blockBytes: [45056] }, false);
  assert(small.every((operation) => operation <= 1));
  const barriers = await firstRequests({ blockBytes: [4096, 131072], readShare: 0, barrierEvery: 1 }, true);
  assert(barriers.includes(OP_WRITE_BARRIER) && barriers.includes(OP_INDIRECT));
  const discards = await firstRequests({ blockBytes: [4096], discardEvery: 1 }, false);
  assertEquals(discards.filter((operation) => operation === OP_DISCARD).length, 16);
});

Deno.test("blocks larger than a request can hold are refused with the largest size", async () => {
  await using host = new Host();
  const store = host.store.connect(GUEST);
  using front = new Frontend({ platform: host.front, store, path: host.path, segments: 32, requests: 1 });
  const target = loadTarget(await front.connect());
  const { events } = front;
  const load = (blockBytes: number[]): LoadDriver =>
    new LoadDriver({
      target,
      spec: { ...MIXED_LOAD, blockBytes },
      platform: host.front,
      events,
      progress: new LoadProgress(),
    });
  load([131072]);
  assertThrows(() => load([131584]), XenblkError, "a request holds 512 to 131072");
});

Deno.test("after a discard a sector holds zeroes or its earlier data, and nothing else", () => {
  const model = DiskModel.create(16, 3, "zeroes");
  const words = new Uint32Array(128);
  const write = model.takeWrite();
  model.writing(0, 8);
  model.written(0, 8, write);
  model.discarding(2, 10);
  model.writing(4, 1);
  model.discarding(4, 1);
  assertEquals([2, 9, 4, 0].map((sector) => model.check(words, 0, sector)), [0, 0, 2, 1], "zeroes");
  model.fill(words, 0, 2, write);
  assertEquals([2, 3, 9].map((sector) => model.check(words, 0, sector)), [0, 1, 1], "what sector 2 held before");
  words[77]! ^= 1;
  assertEquals(model.check(words, 0, 2), 1);
  assertEquals(model.describe(words, 0, 2).expected, `zeroes by a discard, or write ${write}`);
  assertEquals(model.describe(words, 0, 9).expected, "zeroes by a discard, or zeroes");
});
