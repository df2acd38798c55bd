/**
 * A disk that was opened for io_uring, in a reactor that could not make its ring: served by engine file where the
 * engine was left open, refused with the reason where it was asked for. A reactor on a simulated platform has no ring.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { ABIS, OP_WRITE } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { QueueSpec } from "../../lib/dataplane/types.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { Disk, DiskRequest } from "../../lib/storage/disk.ts";
import { IoPool } from "../../lib/storage/pool/pool.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { Folder, pretendFiles } from "../storage/rig.ts";

const BACKEND = 0 as DomId;
const GUEST = 3 as DomId;
const PATIENCE_MS = 30_000;

/** Says that io_uring is there, as it was when the process began. */
const RING_WAS_THERE = pretendFiles(() => ({ routes: { direct: false, reads: "call", writes: "call" } }));

/** A guest's ring with one page of data, and a data plane whose one reactor has no ring of its own. */
class Bench implements AsyncDisposable {
  readonly warnings: string[] = [];
  readonly folder = new Folder();
  readonly image = this.folder.file("disk", 1 << 20);
  readonly #machine = createMachine({ memoryBytes: 64 << 20 });
  readonly #backend = openSimulatedPlatform(this.#machine, BACKEND);
  readonly #guest = openSimulatedPlatform(this.#machine, GUEST);
  readonly #shares = this.#guest.openGrantShares();
  readonly #page = this.#shares.share(BACKEND, 1, true);
  readonly #data = this.#shares.share(BACKEND, 1, true);
  readonly #front = FrontRing.initialise(this.#page.view, ABIS["x86_64-abi"]);
  readonly #events = this.#guest.openEventChannels(BACKEND);
  readonly #port = this.#events.bindUnbound(BACKEND);
  readonly #warn = (message: string): void => void this.warnings.push(message);
  readonly #pool = new IoPool({ platform: this.#backend.descriptor, workers: 2, warn: this.#warn });
  readonly plane = new WorkerDataPlane({
    platform: this.#backend,
    workers: 1,
    addLane: (lane, token) => this.#pool.addLane(lane, token),
    uring: true,
    warn: this.#warn,
  });

  open(request: Partial<DiskRequest>): Promise<Disk> {
    const whole = { format: "raw", target: this.image, readOnly: false, engine: "auto", ...request } as const;
    return openDisk(whole, { native: RING_WAS_THERE, pool: this.#pool, warn: this.#warn });
  }

  spec(disk: Disk): QueueSpec {
    return {
      label: "vbd3/3/51712 queue 0",
      guest: GUEST,
      ringRefs: this.#page.refs,
      eventChannel: this.#port,
      abi: "x86_64-abi",
      disk,
      grants: "copy",
      stats: createStats(),
    };
  }

  /** Writes a page of that byte to sector 8; resolves with the response's status. */
  async write(byte: number): Promise<number> {
    this.#data.view.fill(byte);
    const fields = new RequestFields();
    fields.operation = OP_WRITE;
    fields.segmentCount = 1;
    fields.sectorLow = 8;
    fields.grefs[0] = this.#data.refs[0]!;
    fields.lastSectors[0] = 7;
    this.#front.putRequest(fields);
    if (this.#front.push()) this.#events.notify(this.#port);
    for (const end = performance.now() + PATIENCE_MS; this.#front.unconsumedResponses() === 0;) {
      if (performance.now() > end) throw new Error("no response");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const response = new ResponseFields();
    this.#front.takeResponse(response);
    this.#front.finalCheck();
    return response.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.plane[Symbol.asyncDispose]();
    await this.#pool[Symbol.asyncDispose]();
    this.#events[Symbol.dispose]();
    this.#shares[Symbol.dispose]();
    this.folder[Symbol.dispose]();
  }
}

Deno.test("a disk opened for io_uring is served by engine file where a reactor has no ring", async () => {
  await using bench = new Bench();
  await using disk = await bench.open({});
  assertMatch(disk.description, /engine uring.*cache writeback/);
  for (let round = 1; round <= 3; round++) {
    const queue = await bench.plane.openQueue(bench.spec(disk));
    assertEquals(await bench.write(round), 0);
    await queue.close();
    assertEquals(Deno.readFileSync(bench.image)[4096 + 4095], round);
  }
  assertEquals(bench.warnings.length, 1, bench.warnings.join("\n"));
  assertMatch(bench.warnings[0]!, /^image \/.*\/disk: engine file in place of uring: .*; see `xenblk doctor`$/);
});

// What other reactors serve past the page cache is not to be written through it, whoever asked for that.
for (const asked of [{ engine: "uring" }, { cache: "none" }, { directIoSafe: true }] as const) {
  Deno.test(`a disk with ${JSON.stringify(asked)} is refused where a reactor has no ring, with the reason`, async () => {
    await using bench = new Bench();
    await using disk = await bench.open(asked);
    const error = await assertRejects(() => bench.plane.openQueue(bench.spec(disk)), XenblkError);
    assertMatch(error.message, /^Cannot open image \/.*\/disk: engine uring cannot be used: its reactors go without$/);
    assertEquals(error.remedy, "see `xenblk doctor`; or use engine auto or file");
  });
}
