/**
 * What the tests of devices stand on: a simulated xenstore whose writes are recorded, a data plane that only records
 * which rings it was asked to serve (the real one is tested in its own room), real disks whose opening and closing is
 * counted, and simulated frontends. It asserts nothing.
 */

import { DEFAULT_SETTINGS, type DeviceSettings } from "../../lib/backend/settings.ts";
import { deviceLabel } from "../../lib/backend/journals.ts";
import { BackendKind, type BackendKindOptions } from "../../lib/backend/kind.ts";
import { type Clock, SYSTEM_CLOCK } from "../../lib/clock.ts";
import type { DataPlane, QueueHandle, QueueSpec } from "../../lib/dataplane/types.ts";
import type { DomId, Xenstore, XenstoreOperations } from "../../lib/hypervisor.ts";
import type { Logger } from "../../lib/log.ts";
import { Frontend, type FrontendOptions } from "../../lib/guest/frontend.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";
import type { Disk, DiskProperties, DiskRequest } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { attachDevice, type AttachRequest } from "../../lib/toolstack/attach.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../lib/xenbus/paths.ts";

export const DOM0 = 0 as DomId;
export const GUEST = 5 as DomId;

/** Ends a test that waits for something that does not come. */
const PATIENCE_MS = 30_000;

// Under `deno test` the first setTimeout of a process runs other code before it returns: let that be this one.
clearTimeout(setTimeout(() => {}, 0));

/** Waits until it is so. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  for (const start = performance.now(); !isSo();) {
    if (performance.now() - start > PATIENCE_MS) throw new Error(`waited ${PATIENCE_MS} ms, but not until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** One turn of the event loop: whatever waits only for promises goes on as far as it can. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Lets promises go on by so many steps. */
export async function steps(count: number): Promise<void> {
  for (let step = 0; step < count; step++) await Promise.resolve();
}

/** Time that goes fifty times as fast: what waits for seconds need not be waited for. */
export const FAST_CLOCK: Clock = {
  now: () => SYSTEM_CLOCK.now() * 50,
  sleep: (ms, signal) => SYSTEM_CLOCK.sleep(ms / 50, signal),
};

/** A ring that the data plane was asked for. */
export class RecordedQueue implements QueueHandle {
  readonly stopped: Promise<string>;
  readonly stop: (reason: string) => void;
  readonly latched: Promise<void>;
  readonly latch: () => void;
  closed = false;
  inFlight = 0;
  /** It takes requests. */
  started: boolean;
  /** Whether it can be released. */
  mayRelease: (limitMs: number) => Promise<boolean> = () => Promise.resolve(true);
  /** Of its disk. */
  sectors: number;

  constructor(readonly spec: QueueSpec) {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.stopped = promise;
    this.stop = resolve;
    const latched = Promise.withResolvers<void>();
    this.latched = latched.promise;
    this.latch = latched.resolve;
    this.sectors = spec.disk.properties.sectors;
    this.started = spec.held !== true;
  }

  grow(sectors: number): Promise<void> {
    this.sectors = sectors;
    return Promise.resolve();
  }

  start(): void {
    this.started = true;
  }

  async release(limitMs: number): Promise<boolean> {
    if (!await this.mayRelease(limitMs)) return false;
    this.closed = true;
    return true;
  }

  async close(): Promise<void> {
    await Promise.resolve();
    this.closed = true;
  }
}

/** Records what it is asked for. */
export class RecordingDataPlane implements DataPlane {
  readonly queues: RecordedQueue[] = [];
  /** Makes the next openings fail with this message. */
  refuse: string | undefined;

  async openQueue(spec: QueueSpec, _signal?: AbortSignal): Promise<QueueHandle> {
    await Promise.resolve();
    if (this.refuse !== undefined) throw new Error(this.refuse);
    const queue = new RecordedQueue(spec);
    this.queues.push(queue);
    return queue;
  }

  get open(): RecordedQueue[] {
    return this.queues.filter((queue) => !queue.closed);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

/** A write or removal that the backend made. */
export interface RecordedWrite {
  readonly path: string;
  /** Undefined for a removal. */
  readonly value: string | undefined;
}

/** A connection to xenstore that notes every change made through it, once committed, and each look at a device. */
function recording(store: Xenstore, writes: RecordedWrite[], looked: (path: string) => void): Xenstore {
  const noting = (operations: XenstoreOperations, to: RecordedWrite[]): XenstoreOperations => ({
    read: (path) => {
      if (path.endsWith("/online")) looked(path);
      return operations.read(path);
    },
    list: (path) => operations.list(path),
    permissions: (path) => operations.permissions(path),
    setPermissions: (path, permissions) => operations.setPermissions(path, permissions),
    makeDirectory: (path) => operations.makeDirectory(path),
    write: (path, value) => {
      operations.write(path, value);
      to.push({ path, value });
    },
    remove: (path) => {
      const removed = operations.remove(path);
      if (removed) to.push({ path, value: undefined });
      return removed;
    },
  });
  return {
    ...noting(store, writes),
    transaction: (body) => {
      let noted: RecordedWrite[] = [];
      const result = store.transaction((transaction) => body(noting(transaction, noted = [])));
      writes.push(...noted);
      return result;
    },
    watch: (path) => store.watch(path),
    domainPath: (domain) => store.domainPath(domain),
    isDomainIntroduced: (domain) => store.isDomainIntroduced(domain),
    lost: store.lost,
    [Symbol.dispose]: () => store[Symbol.dispose](),
  };
}

/** A host with one guest, domain 5, a toolstack's connection, and as many backends as a test starts. */
export class Rig implements AsyncDisposable {
  readonly simulated = new SimulatedStore();
  readonly machine = createMachine();
  /** As the backend has it. */
  readonly platform = openSimulatedPlatform(this.machine, DOM0);
  readonly plane = new RecordingDataPlane();
  readonly writes: RecordedWrite[] = [];
  readonly lines: string[] = [];
  /** Each look at a device is one: `vbd3/5/51712: frontend Connected, backend Connected: none`. Limited per guest. */
  readonly debugLines: string[] = [];
  readonly disks: { readonly request: DiskRequest; closed: boolean }[] = [];
  /** Is awaited before a disk is opened, so that a test can act meanwhile. */
  beforeOpen: (request: DiskRequest) => Promise<void> = () => Promise.resolve();
  /** Replaces parts of a disk that was opened. */
  wrapDisk: (request: DiskRequest, disk: Disk) => Partial<Disk> = () => ({});
  /** Of disks that are opened from now on. */
  changeProperties: Partial<DiskProperties> = {};
  readonly #looks = new Map<string, number>();
  readonly #kinds: BackendKind[] = [];
  readonly #frontends: Frontend[] = [];

  constructor() {
    this.simulated.createGuest(GUEST);
  }

  /** Domain 0's own connection; a new one each time, as the store may have been lost. */
  get toolstack(): Xenstore {
    return this.simulated.connect(DOM0);
  }

  /** The toolstack writes a disk's nodes. */
  attach(request: Partial<AttachRequest> = {}): DeviceAddress {
    return attachDevice(this.toolstack, {
      domain: GUEST,
      backendDomain: DOM0,
      kind: "vbd3",
      params: "null:64M",
      readOnly: false,
      cdrom: false,
      ...request,
    });
  }

  /** Starts a backend, as a process would. */
  serve(settings: Partial<DeviceSettings> = {}, options: Partial<BackendKindOptions> = {}): BackendKind {
    const kind = new BackendKind({
      kind: "vbd3",
      openXenstore: () =>
        recording(this.simulated.connect(DOM0), this.writes, (path) => {
          this.#looks.set(path, (this.#looks.get(path) ?? 0) + 1);
        }),
      dataPlane: this.plane,
      openDisk: (request) => this.#openDisk(request),
      journals: this.platform.journals,
      keepJournals: false,
      settings: { ...DEFAULT_SETTINGS, ...settings },
      logger: this.#logger,
      ...options,
    });
    this.#kinds.push(kind);
    return kind;
  }

  /** A frontend in the guest; it moves no data. */
  frontend(device: DeviceAddress, options: Partial<FrontendOptions> = {}): Frontend {
    const frontend = new Frontend({
      platform: openSimulatedPlatform(this.machine, device.frontendDomain),
      store: this.simulated.connect(device.frontendDomain),
      path: frontendPath(device),
      timeoutMs: PATIENCE_MS,
      requests: 1,
      ...options,
    });
    this.#frontends.push(frontend);
    return frontend;
  }

  /** A node of the backend's directory. */
  backend(device: DeviceAddress, name: string): string | undefined {
    return this.toolstack.read(`${backendPath(device)}/${name}`);
  }

  /** Writes nodes of the frontend's directory, as the guest. */
  guestWrites(device: DeviceAddress, nodes: Readonly<Record<string, string>>): void {
    using store = this.simulated.connect(device.frontendDomain);
    store.transaction((transaction) => {
      for (const [name, value] of Object.entries(nodes)) transaction.write(`${frontendPath(device)}/${name}`, value);
    });
  }

  /** Waits for a state of the backend's node. */
  async backendReaches(device: DeviceAddress, state: number): Promise<void> {
    await until(`the backend of ${device.vdev} is at ${state}`, () => this.backend(device, "state") === String(state));
  }

  /**
   * Waits until the device, knowing all that was written so far, has nothing to do. It is made to look for that, unless
   * something that happened `since` so many debug lines makes it look anyway. `as` is what it decides.
   */
  async idle(device: DeviceAddress, { since = -1, as = /: (none|wait|unknown-state)$/ } = {}): Promise<void> {
    const from = since < 0 ? this.debugLines.length : since;
    if (since < 0) this.#touch(device);
    const label = deviceLabel(device);
    const looked = (line: string): boolean => line.startsWith(`${label}: frontend `) && as.test(line);
    await until(`${label} has nothing to do`, () => this.debugLines.slice(from).some(looked));
  }

  /** Waits until the device has looked at all that was written so far. */
  async looked(device: DeviceAddress): Promise<void> {
    const looks = (): number => this.#looks.get(`${backendPath(device)}/online`) ?? 0;
    const before = looks();
    this.#touch(device);
    await until(`${deviceLabel(device)} has looked`, () => looks() > before);
  }

  /** Writes a node of the device as it is. */
  #touch(device: DeviceAddress): void {
    this.toolstack.write(`${backendPath(device)}/online`, this.backend(device, "online") ?? "1");
  }

  /** Waits for a line of the log that contains the words, after the first `since` lines. */
  async says(words: string, since = 0): Promise<void> {
    await until(`the log says ${words}`, () => this.lines.slice(since).some((line) => line.includes(words)));
  }

  /** The values that the backend wrote to its state node, in order. */
  statesWritten(device: DeviceAddress): string[] {
    const path = `${backendPath(device)}/state`;
    return this.writes.flatMap((write) => write.path === path ? [write.value ?? "removed"] : []);
  }

  get openDisks(): number {
    return this.disks.filter((disk) => !disk.closed).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const frontend of this.#frontends) frontend[Symbol.dispose]();
    for (const kind of this.#kinds) await kind.close({ leave: "connected", timeoutMs: 0 }, PATIENCE_MS);
    await turn(); // a search for devices may have left the event loop its turn
  }

  get #logger(): Logger {
    const at = (level: string) => (line: string): void => void this.lines.push(`${level}: ${line}`);
    const debug = (line: string): void => void this.debugLines.push(line);
    return { debug, info: at("info"), warning: at("warning"), error: at("error") };
  }

  async #openDisk(request: DiskRequest): Promise<Disk> {
    await this.beforeOpen(request);
    const disk = await openDisk(request);
    const changed = this.wrapDisk(request, disk);
    const { changeProperties } = this;
    const { grow = disk.grow?.bind(disk), watchTrouble } = changed;
    const dispose = changed[Symbol.asyncDispose] ?? disk[Symbol.asyncDispose].bind(disk);
    const entry = { request, closed: false };
    this.disks.push(entry);
    return {
      get properties() {
        return { ...disk.properties, ...changeProperties };
      },
      get description() {
        return disk.description;
      },
      get trouble() {
        return changed.trouble;
      },
      ...(watchTrouble === undefined ? {} : { watchTrouble }),
      ...(grow === undefined ? {} : { grow }),
      ...(disk.image === undefined ? {} : { image: disk.image }),
      attachment: (lane) => disk.attachment(lane),
      [Symbol.asyncDispose]: async () => {
        entry.closed = true;
        await dispose();
      },
    };
  }
}

/** The nodes that a frontend publishes with its ring. */
export const RING_NODES = { "ring-ref": "8", "event-channel": "15", "protocol": "x86_64-abi" } as const;
