/**
 * A minimal host for tests of the frontend and its loads: the nodes of one device, a backend that goes through the
 * handshake as the test says, and one that serves a ring from an array, correctly or with faults.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import { type AbiName, ABIS, OP_FLUSH_DISKCACHE, OP_READ, STATUS_ERROR, STATUS_OKAY } from "../../lib/blkif/abi.ts";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import type {
  DomId,
  EventChannels,
  EvtchnPort,
  GrantRef,
  GrantTable,
  OwnedMemory,
  Platform,
  Xenstore,
} from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";

export const BACKEND = 0 as DomId;
export const GUEST = 3 as DomId;
export const FRONT_PATH = "/local/domain/3/device/vbd/51712";
export const BACK_PATH = "/local/domain/0/backend/vbd3/3/51712";

/** Lets all promises settle: the simulated xenstore needs no timers. */
export async function settled(): Promise<void> {
  for (let tick = 0; tick < 100; tick++) await null;
}

/** One machine, one store, and the nodes of one device as a toolstack writes them. */
export class Host {
  readonly machine = createMachine({ memoryBytes: 1 << 24, domains: 4, grantsPerDomain: 8192, portsPerDomain: 32 });
  readonly store = new SimulatedStore();
  readonly dom0: Xenstore;
  readonly guest: Xenstore;
  readonly back: Platform = openSimulatedPlatform(this.machine, BACKEND);
  readonly front: Platform = openSimulatedPlatform(this.machine, GUEST);

  constructor() {
    this.store.createGuest(GUEST);
    this.dom0 = this.store.connect(BACKEND);
    this.guest = this.store.connect(GUEST);
    const owned = (domain: DomId, reader: DomId) => [
      { domain, read: false, write: false },
      { domain: reader, read: true, write: false },
    ];
    this.dom0.transaction((transaction) => {
      transaction.makeDirectory(FRONT_PATH);
      transaction.setPermissions(FRONT_PATH, owned(GUEST, BACKEND));
      transaction.makeDirectory(BACK_PATH);
      transaction.setPermissions(BACK_PATH, owned(BACKEND, GUEST));
      transaction.write(`${FRONT_PATH}/backend`, BACK_PATH);
      transaction.write(`${FRONT_PATH}/backend-id`, "0");
      transaction.write(`${FRONT_PATH}/state`, "1");
      transaction.write(`${BACK_PATH}/frontend`, FRONT_PATH);
      transaction.write(`${BACK_PATH}/state`, "1");
    });
  }

  backState(state: number): void {
    this.dom0.write(`${BACK_PATH}/state`, String(state));
  }

  /** The backend publishes its features and goes to InitWait. */
  offer(nodes: Readonly<Record<string, string>> = {}): void {
    const features = { "feature-flush-cache": "1", "feature-barrier": "1", ...nodes };
    for (const [name, value] of Object.entries(features)) this.dom0.write(`${BACK_PATH}/${name}`, value);
    this.backState(2);
  }

  /** The backend publishes the disk's properties and goes to Connected. */
  present(nodes: Readonly<Record<string, string>>): void {
    for (const [name, value] of Object.entries({ info: "0", ...nodes })) {
      this.dom0.write(`${BACK_PATH}/${name}`, value);
    }
    this.backState(4);
  }

  /** Resolves when the frontend is in one of the states. */
  async frontState(...states: number[]): Promise<void> {
    using watch = this.dom0.watch(`${FRONT_PATH}/state`);
    for await (const _path of watch) {
      if (states.includes(Number(this.dom0.read(`${FRONT_PATH}/state`)))) return;
    }
  }

  /** Makes a backend for the ring that the frontend published. */
  attach(disk: Uint8Array): TinyBackend {
    const read = (name: string): string => this.dom0.read(`${FRONT_PATH}/${name}`)!;
    const order = Number(this.dom0.read(`${FRONT_PATH}/ring-page-order`) ?? 0);
    const names = order === 0 ? ["ring-ref"] : Array.from({ length: 2 ** order }, (_, i) => `ring-ref${i}`);
    const refs = names.map((name) => Number(read(name)) as GrantRef);
    return new TinyBackend(
      this.back,
      refs,
      Number(read("event-channel")) as EvtchnPort,
      disk,
      read("protocol") as AbiName,
    );
  }

  /** Goes through the whole handshake as the backend. */
  async serve(disk: Uint8Array, nodes: Readonly<Record<string, string>> = {}): Promise<TinyBackend> {
    this.offer(nodes);
    await this.frontState(3);
    const backend = this.attach(disk);
    this.present({ "sectors": String(disk.length / SECTOR_BYTES), "sector-size": "512", ...nodes });
    return backend;
  }
}

/** Faults of a backend; each function gets the number of the request. */
export interface Mischief {
  readonly dropWrite?: (request: number) => boolean;
  readonly corruptRead?: (request: number) => boolean;
  readonly status?: (request: number) => number;
  /** Changes id or operation of the response. */
  readonly answer?: (request: number, id: number, operation: number) => { id: number; operation: number };
}

/** Serves a ring from an array when it is stepped. Requests of one step are answered in reverse order. */
export class TinyBackend implements Disposable {
  readonly events: EventChannels;
  readonly port: EvtchnPort;
  readonly ring: BackRing;
  mischief: Mischief = {};
  notifications = 0;
  flushes = 0;
  requests = 0;
  mostAtOnce = 0;
  readonly #platform: Platform;
  readonly #grants: GrantTable;
  readonly #ringMemory: OwnedMemory;
  readonly #disk: Uint8Array;
  readonly #abi: AbiName;
  readonly #snapshot = new DataView(new ArrayBuffer(112));
  readonly #ports = new Uint32Array(4);

  constructor(platform: Platform, refs: GrantRef[], port: EvtchnPort, disk: Uint8Array, abi: AbiName) {
    this.#platform = platform;
    this.#disk = disk;
    this.#abi = abi;
    this.#grants = platform.openGrantTable(GUEST);
    this.#ringMemory = this.#grants.mapPages(refs, true);
    this.events = platform.openEventChannels(GUEST);
    this.port = this.events.bindInterdomain(GUEST, port);
    this.ring = new BackRing(this.#ringMemory.view, ABIS[abi]);
  }

  /** Serves all requests on the ring. False: there were none. */
  step(): boolean {
    while (this.events.take(this.#ports) > 0);
    const answers: [number, number, number, number][] = [];
    const count = this.ring.unconsumed();
    if (count < 0) throw new Error("the ring is broken");
    this.mostAtOnce = Math.max(this.mostAtOnce, count);
    for (let i = 0; i < count; i++) answers.push(this.#serveOne());
    for (const answer of answers.reverse()) this.ring.putResponse(...answer);
    if (this.ring.push()) {
      this.notifications++;
      this.events.notify(this.port);
    }
    return this.ring.finalCheck() || count > 0;
  }

  [Symbol.dispose](): void {
    this.events[Symbol.dispose]();
    this.#grants[Symbol.dispose]();
  }

  #serveOne(): [number, number, number, number] {
    const abi = ABIS[this.#abi];
    const view = this.#snapshot;
    this.ring.take(new Uint32Array(view.buffer), 0);
    const number = this.requests++;
    const operation = view.getUint8(abi.operationOffset);
    const idLow = view.getUint32(abi.idOffset, true);
    const idHigh = view.getUint32(abi.idOffset + 4, true);
    const answer = this.mischief.answer?.(number, idLow, operation) ?? { id: idLow, operation };
    if (operation === OP_FLUSH_DISKCACHE) this.flushes++;
    let status = this.mischief.status?.(number) ?? STATUS_OKAY;
    if (status === STATUS_OKAY) status = this.#move(view, operation, number);
    return [answer.id, idHigh, answer.operation, status];
  }

  #move(view: DataView, operation: number, number: number): number {
    const abi = ABIS[this.#abi];
    let at = Number(view.getBigUint64(abi.sectorOffset, true)) * SECTOR_BYTES;
    const segments = view.getUint8(abi.segmentCountOffset);
    const address = new Float64Array(1);
    for (let i = 0; i < segments; i++) {
      const segment = abi.segmentsOffset + 8 * i;
      const first = view.getUint8(segment + 4) * SECTOR_BYTES;
      const length = (view.getUint8(segment + 5) + 1) * SECTOR_BYTES - first;
      if (at + length > this.#disk.length || length <= 0) return STATUS_ERROR;
      const writable = operation === OP_READ;
      const ref = Uint32Array.of(view.getUint32(segment, true));
      if (this.#grants.map(ref, 0, 1, writable, address) !== 0) return STATUS_ERROR;
      const page = this.#platform.memory.view(address[0]! + first, length);
      const disk = this.#disk.subarray(at, at + length);
      if (writable) page.set(disk);
      else if (this.mischief.dropWrite?.(number) !== true) disk.set(page);
      if (writable && this.mischief.corruptRead?.(number) === true) page[length - 3]! ^= 0x10;
      this.#grants.unmap(address[0]!, 1);
      at += length;
    }
    return STATUS_OKAY;
  }
}
