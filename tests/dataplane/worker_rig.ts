/**
 * A data plane in real Workers over a simulated machine, and a guest's end of one ring, driven by hand from the main
 * thread.
 */

import { ABIS } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { QueueSpec } from "../../lib/dataplane/types.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import type { DomId, EventChannels, EvtchnPort, Platform, SharedPages } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { Disk } from "../../lib/storage/disk.ts";

export const BACKEND = 0 as DomId;
const DEADLINE_MS = 10_000;

/** A guest's end of one ring, with two pages of data. */
export class Guest implements Disposable {
  readonly ringPage: SharedPages;
  readonly data: SharedPages;
  readonly front: FrontRing;
  readonly port: EvtchnPort;
  readonly #events: EventChannels;
  readonly #resources = new DisposableStack();

  constructor(machine: SharedArrayBuffer, readonly domain: DomId) {
    const platform = openSimulatedPlatform(machine, domain);
    const shares = this.#resources.use(platform.openGrantShares());
    this.ringPage = shares.share(BACKEND, 1, true);
    this.data = shares.share(BACKEND, 2, true);
    this.front = FrontRing.initialise(this.ringPage.view, ABIS["x86_64-abi"]);
    this.#events = this.#resources.use(platform.openEventChannels(BACKEND));
    this.port = this.#events.bindUnbound(BACKEND);
  }

  spec(disk: Disk, stats = createStats()): QueueSpec {
    return {
      label: `domain ${this.domain}`,
      guest: this.domain,
      ringRefs: this.ringPage.refs,
      eventChannel: this.port,
      abi: "x86_64-abi",
      disk,
      grants: "copy",
      stats,
    };
  }

  /** One page to or from a sector; resolves with the response's status. */
  async request(operation: number, page: number, sector = 0): Promise<number> {
    const fields = new RequestFields();
    fields.operation = operation;
    fields.segmentCount = 1;
    fields.sectorLow = sector;
    fields.grefs[0] = this.data.refs[page]!;
    fields.lastSectors[0] = 7;
    this.front.putRequest(fields);
    if (this.front.push()) this.#events.notify(this.port);
    const end = performance.now() + DEADLINE_MS;
    while (this.front.unconsumedResponses() === 0) {
      if (performance.now() > end) throw new Error("no response");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const response = new ResponseFields();
    this.front.takeResponse(response);
    this.front.finalCheck();
    return response.status;
  }

  kick(): void {
    this.#events.notify(this.port);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** A machine with a data plane of its own. */
export class Bench implements AsyncDisposable {
  readonly machine = createMachine({ memoryBytes: 64 * 2 ** 20 });
  readonly lanes: number[] = [];
  readonly warnings: string[] = [];
  readonly plane: WorkerDataPlane;

  constructor(workers = 1, change: (platform: Platform) => Platform = (platform) => platform, entry?: URL) {
    this.plane = new WorkerDataPlane({
      platform: change(openSimulatedPlatform(this.machine, BACKEND)),
      workers,
      addLane: (lane) => Promise.resolve(void this.lanes.push(lane)),
      warn: (message) => this.warnings.push(message),
      ...(entry && { entry }),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.plane[Symbol.asyncDispose]();
  }
}

/** A disk of 1 MiB in memory. */
export const openMemoryDisk = (): Promise<Disk> =>
  openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
