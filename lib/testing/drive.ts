/**
 * A simulated guest's use of one disk: reads, writes, flushes and discards by byte offsets, requests as raw as a hostile
 * guest's, and loads. Each call resolves when the response is there.
 */

import {
  type AbiName,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  SECTORS_PER_PAGE,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import { operationName } from "../blkif/refusal.ts";
import { XenblkError } from "../errors.ts";
import type { DiskFacts } from "../guest/disk_facts.ts";
import { readDiskFacts } from "../guest/disk_facts.ts";
import { DiskModel } from "../guest/disk_model.ts";
import { Frontend, type FrontendConnection } from "../guest/frontend.ts";
import type { LoadOutcome } from "../guest/load_types.ts";
import type { Platform, Xenstore } from "../hypervisor.ts";
import { SECTOR_BYTES } from "../units.ts";
import { DriveLoad, type DriveWork, type LoadCounts, type LoadOptions, type LoadStage } from "./drive_load.ts";
import { DriveReplay, type ReplayOptions, type ReplayResult } from "./drive_replay.ts";
import { HOSTILE_REQUESTS, type HostileRequest } from "./hostile.ts";
import { type RawRequest, type RawResponse, type RawSegment, RingClient, RingEndedError } from "./ring_client.ts";

/** The rings that a guest's driver asks for; fewer if the backend offers fewer. */
export interface DriveOptions {
  /** Pages per ring, a power of two up to 16; a page has 32 slots. Default 1. */
  readonly ringPages?: number;
  /** Rings, each with its event channel. Default 1. */
  readonly queues?: number;
  /** Most segments, that is pages, of a request: up to 512; above 11 it is indirect. Default 32. */
  readonly segments?: number;
  /** The driver says that it keeps grants (feature-persistent). Default true. */
  readonly persistent?: boolean;
  /** Time limit for each step of the backend, in milliseconds. Default a minute. */
  readonly timeoutMs?: number;
  /** The driver hangs: when the backend asks it to close the disk, it does nothing. Default false. */
  readonly deaf?: boolean;
}

/** As Linux's driver: requests of up to 128 KiB, indirect ones where the backend offers them. */
const DEFAULT_SEGMENTS = 32;
/** More than a step of the backend takes, on a busy machine. */
const PATIENCE_MS = 60_000;

/** An id that no other request has. */
const DOUBLE_ID = 0xFFFF_FFFF_FFFF_FFFFn;

/** A request of a {@linkcode Drive} failed. */
export class DriveError extends XenblkError {
  /** Tells it from other errors. */
  override readonly name = "DriveError";

  /** `status` as in the response, -1 an error, -2 not supported; undefined: no response comes any more. */
  constructor(message: string, readonly status: number | undefined) {
    super(message);
  }
}

/** What a drive is made of. */
export interface DriveParts {
  /** The simulated machine. */
  readonly machine: SharedArrayBuffer;
  /** As its guest sees it. */
  readonly platform: Platform;
  /** The guest's connection. */
  readonly store: Xenstore;
  /** The frontend's directory. */
  readonly path: string;
  /** Name of the virtual device. */
  readonly vdev: string;
  /** Layout of the rings. */
  readonly abi: AbiName;
  /** The rings that the driver asks for. */
  readonly options: DriveOptions;
  /** Called when the drive is used. */
  readonly used: () => void;
  /** Called when the drive is disconnected by either side. */
  readonly ended: (drive: Drive) => void;
}

/**
 * A connected disk, as a guest's driver has it. Offsets and lengths are in bytes, multiples of 512. Disposing it
 * disconnects.
 */
export class Drive implements AsyncDisposable {
  /** Name of the virtual device, such as `xvda`. */
  readonly vdev: string;
  readonly #parts: DriveParts;
  readonly #frontend: Frontend;
  #store: Xenstore;
  #connection: FrontendConnection;
  #client: RingClient;
  #model: DiskModel | undefined;
  #loading: { readonly load: DriveWork<unknown>; readonly over: Promise<void> } | undefined;
  #over: string | undefined;
  readonly #closed = Promise.withResolvers<void>();
  /** Resolves when xenstore is there again. */
  #restored = Promise.withResolvers<void>();

  private constructor(parts: DriveParts, frontend: Frontend, connection: FrontendConnection) {
    this.vdev = parts.vdev;
    this.#parts = parts;
    this.#store = parts.store;
    this.#frontend = frontend;
    this.#connection = connection;
    this.#client = this.#newClient();
  }

  /** Connects a frontend. Rejects with {@linkcode XenblkError}, of kind `timeout` if a step of the backend takes too long. */
  static async connect(parts: DriveParts): Promise<Drive> {
    const { platform, store, path, abi, options } = parts;
    const connected: { drive?: Drive } = {};
    const frontend: Frontend = new Frontend({
      platform,
      store,
      path,
      abi,
      segments: DEFAULT_SEGMENTS,
      timeoutMs: PATIENCE_MS,
      ...options,
      quiesce: async () => {
        const { drive } = connected;
        if (options.deaf === true) await new Promise<never>(() => {});
        if (drive !== undefined) await drive.#quiesce();
      },
    });
    using undo = new DisposableStack();
    undo.use(frontend);
    const drive = connected.drive = new Drive(parts, frontend, await frontend.connect());
    undo.move();
    void drive.#followEnd();
    return drive;
  }

  /** Resolves when the disk is disconnected, by either side. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** Whether the disk is connected. */
  get connected(): boolean {
    return this.#over === undefined;
  }

  /** The disk's properties and the backend's features, as its nodes say now: a resize is seen at once. */
  get facts(): DiskFacts {
    const [store, { path }] = [this.#store, this.#parts];
    return readDiskFacts(store, store.read(`${path}/backend`) ?? "");
  }

  /** Size in bytes, as the backend's nodes say now. */
  get sizeBytes(): number {
    return this.facts.sectors * SECTOR_BYTES;
  }

  /** Bytes of a logical sector: requests that are not multiples of it are refused. */
  get sectorBytes(): number {
    return this.#connection.disk.logicalSectorBytes;
  }

  /** Whether requests are in flight, or a load runs. */
  get busy(): boolean {
    return this.inFlight > 0 || this.#loading !== undefined;
  }

  /** Requests that are not answered. */
  get inFlight(): number {
    return this.#client.inFlight;
  }

  /** How far the load is that runs on it; all 0 if none does. */
  get progress(): LoadCounts {
    return this.#loading?.load.counts ?? { requests: 0, bytes: 0, errors: 0 };
  }

  /** Most bytes of one request: longer reads and writes are several. */
  get mostBytes(): number {
    return this.#connection.segments * SECTORS_PER_PAGE * SECTOR_BYTES;
  }

  /** Responses that break the protocol, in words; there should be none. */
  get protocolErrors(): readonly string[] {
    return this.#client.protocolErrors;
  }

  /**
   * What the disk must hold, as far as loads have written it; its whole content is unknown before the first load. Writes
   * and discards of the drive itself make their sectors unknown.
   */
  get model(): DiskModel {
    const { sectors } = this.facts;
    const model = this.#model ??= DiskModel.create(sectors, 1, "anything");
    return this.#model = sectors > model.sectors ? model.grown(sectors) : model;
  }

  /** Reads bytes. Rejects with {@linkcode DriveError}. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#check("read", offset, length);
    const into = new Uint8Array(length);
    await this.#eachPart(length, async (at, bytes) => {
      const { data } = await this.#okay(this.#transfer(OP_READ, offset + at, bytes), offset + at);
      into.set(data, at);
    });
    return into;
  }

  /** Writes bytes. Rejects with {@linkcode DriveError}. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#check("write", offset, bytes.length);
    this.#forget(offset, bytes.length);
    await this.#eachPart(bytes.length, async (at, length) => {
      const data = bytes.subarray(at, at + length);
      await this.#okay({ ...this.#transfer(OP_WRITE, offset + at, length), data }, offset + at);
    });
  }

  /** Makes completed writes durable. Rejects with {@linkcode DriveError}. */
  async flush(): Promise<void> {
    await this.#okay({ operation: OP_FLUSH_DISKCACHE }, 0);
  }

  /** Writes bytes, of one direct request at most (44 KiB), with a flush before and after. Without bytes, a flush. */
  async barrier(offset = 0, bytes: Uint8Array = new Uint8Array(0)): Promise<void> {
    this.#check("write", offset, bytes.length, MAX_SEGMENTS_PER_REQUEST * SECTORS_PER_PAGE * SECTOR_BYTES);
    this.#forget(offset, bytes.length);
    await this.#okay({ ...this.#transfer(OP_WRITE_BARRIER, offset, bytes.length), data: bytes }, offset);
  }

  /** Gives a range up, which may then hold zeroes or what it held. Rejects with {@linkcode DriveError}. */
  async discard(offset: number, length: number, options: { readonly secure?: boolean } = {}): Promise<void> {
    this.#check("discard", offset, length);
    this.#forget(offset, length);
    const { secure = false } = options;
    await this.#okay({
      operation: OP_DISCARD,
      sector: offset / SECTOR_BYTES,
      discardSectors: length / SECTOR_BYTES,
      secure,
    }, offset);
  }

  /** Makes any request, valid or not. Resolves with the response whatever its status. */
  async request(request: RawRequest): Promise<RawResponse> {
    return await this.#put(request);
  }

  /** Makes a request that no driver makes. Resolves with the response, which should not have status 0. */
  async hostile(name: HostileRequest): Promise<RawResponse> {
    return await this.#put(HOSTILE_REQUESTS[name]);
  }

  /** Makes two requests with the same id. Resolves with both responses. */
  async doubleId(request: RawRequest): Promise<readonly [RawResponse, RawResponse]> {
    const twice = { ...request, id: DOUBLE_ID };
    return await Promise.all([this.#put(twice), this.#put(twice)]);
  }

  /**
   * Makes random requests, and verifies every byte that they read. Resolves with what was found: nothing of the disk
   * makes it reject. Rejects with {@linkcode XenblkError} (`usage`) for options that make no sense on this disk.
   */
  async load(options: LoadOptions = {}): Promise<LoadOutcome> {
    this.#mustBeFree();
    if (this.#over !== undefined) throw this.#gone("make requests");
    return await this.#alone(new DriveLoad(this.#stage(options.verify === false ? undefined : this.model), options));
  }

  /**
   * Makes the requests of a trace, which the filter `log` has recorded. Resolves with what was found, as {@linkcode
   * Drive.load}; what is written is then unknown to the drive's model. Rejects with {@linkcode XenblkError} if the trace
   * cannot be read.
   */
  async replay(trace: string, options: ReplayOptions = {}): Promise<ReplayResult> {
    this.#mustBeFree();
    if (this.#over !== undefined) throw this.#gone("make requests");
    return await this.#alone(new DriveReplay(this.#stage(this.#model), trace, options));
  }

  #stage(model: DiskModel | undefined): LoadStage {
    const { machine, platform } = this.#parts;
    const [connection, events] = [this.#connection, this.#frontend.events];
    return { machine, platform, connection, events, disk: this.facts, model };
  }

  /** Runs it once the drive's own requests are answered. */
  async #alone<T>(load: DriveWork<T>): Promise<T> {
    const over = Promise.withResolvers<void>();
    this.#loading = { load, over: over.promise };
    try {
      await this.#client.idle();
      this.#client[Symbol.dispose]();
      return await load.run();
    } finally {
      this.#loading = undefined;
      if (this.connected) this.#client = this.#newClient();
      over.resolve();
    }
  }

  /**
   * Writes an impossible producer index to the ring, this much ahead of the right one. The backend then closes the ring
   * and, with it, the disk's connection: resolves when it has.
   */
  async breakRing(ahead = 0x10000): Promise<void> {
    this.#mustBeFree();
    this.#client.breakRing(ahead);
    this.#client.end("the guest broke the ring");
    await this.closed;
  }

  /** Closes the disk as a guest that unloads its driver. Resolves when the backend has closed it too. */
  async disconnect(): Promise<void> {
    await this.#frontend.disconnect();
    this.#end("it is disconnected");
  }

  /** Goes on with another connection to xenstore. If the disk's nodes are gone, its end is sudden. */
  useStore(store: Xenstore): void {
    this.#store = store;
    try {
      this.#frontend.useStore(store);
      this.#restored.resolve();
    } catch {
      this.drop();
    }
  }

  /** Ends at once, as the death of the guest does: what is in flight is never answered. */
  drop(): void {
    this.#end("its guest has ended");
    this.#frontend[Symbol.dispose]();
  }

  /** The same as {@linkcode Drive.disconnect}; if that fails, {@linkcode Drive.drop}. */
  async [Symbol.asyncDispose](): Promise<void> {
    using _frontend = this.#frontend;
    await this.disconnect().catch(() => this.drop());
  }

  #newClient(): RingClient {
    return new RingClient(this.#connection, this.#frontend.events, this.#parts.machine);
  }

  async #quiesce(): Promise<void> {
    this.#loading?.load.stop();
    await this.#loading?.over;
    await this.#client.idle();
    this.#client.end("the disk was closed");
  }

  /** Until the backend has closed the disk. Without xenstore the disk stays connected. */
  async #followEnd(): Promise<void> {
    for (;;) {
      await this.#frontend.closed.catch(() => {});
      if (this.#frontend.connection === undefined) return this.#end("the backend closed it");
      await this.#restored.promise;
      this.#restored = Promise.withResolvers();
    }
  }

  #end(reason: string): void {
    if (this.#over !== undefined) return;
    this.#over = reason;
    this.#loading?.load.abandon();
    this.#client.end(reason);
    this.#parts.ended(this);
    this.#closed.resolve();
  }

  #mustBeFree(): void {
    if (this.#loading === undefined) return;
    throw new XenblkError(`Cannot use ${this.vdev}: a load runs on it`, {
      kind: "usage",
      remedy: "await the load first",
    });
  }

  #forget(offset: number, length: number): void {
    if (length > 0) this.#model?.writing(offset / SECTOR_BYTES, length / SECTOR_BYTES);
  }

  /** Throws {@linkcode XenblkError} (`usage`) for what no request can say. */
  #check(verb: string, offset: number, length: number, most = Infinity): void {
    const wrong = [offset, length].find((value) => !Number.isSafeInteger(value) || value < 0 || value % SECTOR_BYTES);
    if (wrong === undefined && length <= most) return;
    const why = wrong === undefined ? `one request holds ${most}` : `${wrong} is not a multiple of ${SECTOR_BYTES}`;
    throw new XenblkError(`Cannot ${verb} ${length} bytes at ${offset} of ${this.vdev}: ${why}`, { kind: "usage" });
  }

  /** Does a range in requests, all of them at the same time. */
  async #eachPart(length: number, part: (at: number, bytes: number) => Promise<void>): Promise<void> {
    const starts = Array.from({ length: Math.ceil(length / this.mostBytes) }, (_, i) => i * this.mostBytes);
    const done = starts.map((at) => part(at, Math.min(this.mostBytes, length - at)));
    for (const outcome of await Promise.allSettled(done)) if (outcome.status === "rejected") throw outcome.reason;
  }

  /** A read or write of that range: indirect if a direct one cannot hold it. */
  #transfer(operation: number, offset: number, length: number): RawRequest {
    const segments: RawSegment[] = [];
    for (let left = length / SECTOR_BYTES; left > 0; left -= SECTORS_PER_PAGE) {
      segments.push({ first: 0, last: Math.min(left, SECTORS_PER_PAGE) - 1 });
    }
    const sector = offset / SECTOR_BYTES;
    if (segments.length <= MAX_SEGMENTS_PER_REQUEST) return { operation, sector, segments };
    return { operation: OP_INDIRECT, innerOperation: operation, sector, segments };
  }

  async #okay(request: RawRequest, offset: number): Promise<RawResponse> {
    const response = await this.#put(request);
    const { status } = response;
    if (status === STATUS_OKAY) return response;
    const name = operationName(request.innerOperation ?? request.operation);
    throw new DriveError(`Cannot ${name} at byte ${offset} of ${this.vdev}: the response has status ${status}`, status);
  }

  async #put(request: RawRequest): Promise<RawResponse> {
    this.#parts.used();
    this.#mustBeFree();
    try {
      return await this.#client.request(request);
    } catch (error) {
      if (!(error instanceof RingEndedError)) throw error;
      throw this.#gone(operationName(request.operation), error.message);
    }
  }

  #gone(verb: string, why?: string): DriveError {
    return new DriveError(`Cannot ${verb} on ${this.vdev}: ${this.#over ?? why ?? "it is gone"}`, undefined);
  }
}
