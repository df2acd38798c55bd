/**
 * One process of the backend: the real devices and the real data plane over the simulated hypervisor, xenstore, disks
 * and clock, single-stepped. It can be stopped as by SIGTERM, or killed between two steps or two stores to memory: then
 * it has no effect any more, and the kernel releases what it held.
 */

import type { CloseOptions } from "../../lib/backend/close_options.ts";
import { BackendKind } from "../../lib/backend/kind.ts";
import type { DeviceStatus } from "../../lib/backend/status.ts";
import type { DeviceSettings } from "../../lib/backend/settings.ts";
import { InlineDataPlane } from "../../lib/dataplane/inline_dataplane.ts";
import type { PlacedQueue } from "../../lib/dataplane/placed_queue.ts";
import type { DataPlane, QueueSpec } from "../../lib/dataplane/types.ts";
import type { DomId, Platform, Xenstore } from "../../lib/hypervisor.ts";
import type { Logger } from "../../lib/log.ts";
import { withFaults } from "../../lib/sim/faults.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOptions, Disk, DiskAttachment, DiskRequest, IoChannel } from "../../lib/storage/disk.ts";
import type { ImageLocks } from "../../lib/storage/image/lock.ts";
import type { BlockFile } from "../../lib/storage/engine/executor.ts";
import { Crasher, ProcessKilled } from "./crash_points.ts";
import type { DiskWatch } from "./disk_watch.ts";
import { GatedStore, type GatedWatch } from "./gated_store.ts";
import { type JournalAccount, ProcessPlatform } from "./process_platform.ts";
import type { Run } from "./run.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { SimulatedFile } from "./simulated_file.ts";
import { SteppedChannel } from "./stepped_channel.ts";

/** Parts that a test may break, to show that the simulation notices. */
export interface Breakage {
  /** Wraps the platform of the process. */
  readonly platform?: (platform: Platform) => Platform;
  /** Wraps the file that its channels use. */
  readonly file?: (file: SimulatedFile) => BlockFile;
  /** Wraps the xenstore connections of its devices. */
  readonly store?: (store: Xenstore) => Xenstore;
  /** Images are not locked. */
  readonly unlocked?: boolean;
  /** Images are never closed. */
  readonly unclosed?: boolean;
  /** Calls to the storage of all disks return one after the other, as in a single thread. */
  readonly oneThread?: boolean;
  /** A process that stops waits for its devices without a limit. */
  readonly patient?: boolean;
  /** Changes what the data plane is asked to serve. */
  readonly spec?: (spec: QueueSpec) => QueueSpec;
}

/** Options of a {@linkcode BackendProcess}. */
interface ProcessOptions {
  readonly run: Run;
  readonly machine: SharedArrayBuffer;
  readonly journalAccount: JournalAccount;
  readonly connect: () => Xenstore;
  /** Breaks every connection of domain 0. */
  readonly disconnect: () => void;
  readonly settings: DeviceSettings;
  /** It keeps journals: if it is killed, the next process answers the requests that it took. */
  readonly journals: boolean;
  readonly disks: ReadonlyMap<string, DiskWatch>;
  readonly breakage: Breakage;
  /** The process writes a node that held `before`. */
  readonly wrote: (path: string, before: string | undefined, value: string) => void;
  /** The process serves no ring of the domain any more. */
  readonly released: (domain: DomId) => void;
}

/** A call to the storage of a disk that has not returned. */
interface StorageCall {
  readonly watch: DiskWatch;
  readonly finish: () => void;
}

/** A ring that is served, and the number by which its channels are known. */
interface OpenRing {
  readonly queue: PlacedQueue;
  readonly watch: DiskWatch;
  readonly number: number;
}

/** An open image: its number among all that the process opened, and the channels to it. */
interface OpenDisk {
  readonly watch: DiskWatch;
  readonly channels: Set<SteppedChannel>;
  /** It is being closed; that may be slow, or hang. */
  closing: boolean;
}

/** Reactors of a process. */
const REACTORS = 2;
/** Time limit for guests when the process detaches its devices. */
const DETACH_MS = 10_000;
/** A call to xenstored that takes longer ends the connection. */
const STORE_LIMIT_MS = 5_000;
/** Promises between an open that returns and the device that asked for it. */
const LATE_STEPS = 20;
/** Time limits of a process for its devices when it stops: never reached unless a disk hangs. */
const NO_LIMIT_MS = 1e12;

/** One process of the backend, from its start to its end. */
export class BackendProcess {
  readonly clock = new SimulatedClock();
  readonly log: string[] = [];
  readonly #options: ProcessOptions;
  readonly #platform: ProcessPlatform;
  /** Reactors, between which rings move. The first one serves each ring at first. */
  readonly #planes: readonly InlineDataPlane[];
  /** Those that are awake. */
  readonly #busy: boolean[];
  readonly #queues = new Set<OpenRing>();
  readonly #stores: GatedStore[] = [];
  /** Calls to storage that have not returned, the oldest first. */
  readonly #calls: StorageCall[] = [];
  /** Disks that it has locked; one whose lock is being released is not among them. */
  readonly #locks = new Set<DiskWatch>();
  /** By number. */
  readonly #openDisks = new Map<number, OpenDisk>();
  /** Number of rings served, by domain. */
  readonly #rings = new Map<DomId, number>();
  readonly #unmapFaults: number;
  readonly #crasher: Crasher;
  #kind: BackendKind | undefined;
  #state: "running" | "stopping" | "ended" = "running";
  /** Promises that the end of the process has waited for since a call to storage returned. */
  #stepsSinceCall = 0;

  /** Throws what connecting to xenstore throws; then the process has ended. */
  constructor(options: ProcessOptions) {
    const { run, machine, settings, breakage } = options;
    this.#options = options;
    this.#crasher = new Crasher(() => options.journals && run.faults.strikes("killed at a store"));
    this.#unmapFaults = run.faults.countOf("grant unmap");
    this.#platform = new ProcessPlatform(
      openSimulatedPlatform(machine, 0),
      options.journalAccount,
      () => this.clock.now(),
    );
    const { platform } = this.#platform;
    const seen = withFaults(breakage.platform?.(platform) ?? platform, run.faults.plan);
    this.#planes = Array.from({ length: REACTORS }, (_, lane) =>
      new InlineDataPlane({
        platform: seen,
        openChannel: (attachment, channelOptions) => this.#openChannel(attachment, channelOptions),
        warn: (line) => this.#say(line),
        lane,
      }));
    this.#busy = this.#planes.map(() => false);
    try {
      this.#kind = new BackendKind({
        kind: "vbd3",
        openXenstore: () => this.#connect(),
        dataPlane: this.#observed,
        openDisk: (request) => this.#openDisk(request),
        imageLocks: this.#imageLocks,
        journals: seen.journals,
        keepJournals: options.journals,
        settings,
        logger: this.#logger,
        clock: this.clock,
      });
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  /** "stopping": asked to stop; "ended": stopped or killed. */
  get state(): "running" | "stopping" | "ended" {
    return this.#state;
  }

  /** Whether it serves a ring of the domain. */
  serves(domain: DomId): boolean {
    return (this.#rings.get(domain) ?? 0) > 0;
  }

  /** Watches that can deliver an event. */
  get deliverable(): GatedWatch[] {
    return this.#stores.flatMap((store) => store.deliverable);
  }

  /** What each device looks like now. */
  get status(): DeviceStatus[] {
    return this.#kind?.status() ?? [];
  }

  /** Number of descriptors of the disk. */
  openedOf(watch: DiskWatch): number {
    return [...this.#openDisks.values()].filter((each) => each.watch === watch).length;
  }

  /** One turn of a reactor. False: all sleep, and nothing wakes them, or the process has ended. */
  turn(): boolean {
    if (this.#gone) return false;
    const { run } = this.#options;
    const wakes = this.#platform.wouldWake;
    const awake = this.#planes.filter((_, lane) => this.#busy[lane] || wakes[lane]);
    if (awake.length === 0) return false;
    const plane = awake.length === 1 ? awake[0]! : run.decisions.pick(awake);
    try {
      this.#crasher.run(() => {
        if (!this.#busy[plane.lane]) plane.sleep(-1);
        this.#busy[plane.lane] = plane.turn();
      });
    } catch (error) {
      if (!this.#crasher.dead) run.fail(`the data plane threw ${error instanceof Error ? error.stack : error}`);
    }
    if (this.#crasher.dead) this.kill();
    return true;
  }

  /** A completion wakes the reactors. */
  wake(): void {
    this.#busy.fill(true);
  }

  /** A ring begins to move to the other reactor. */
  moveQueue(): void {
    if (this.#state !== "running" || this.#queues.size === 0) return;
    const { run } = this.#options;
    const { queue, watch, number } = run.decisions.pick([...this.#queues]);
    const to = this.#planes[(queue.reactor + 1) % REACTORS]!;
    if (!queue.canMoveTo(to.lane)) return;
    run.note(`${watch.disk.name} moves to reactor ${to.lane}`);
    watch.moves(number);
    void queue.move({ site: to, leave: () => {} }).then((result) => {
      if (this.#gone) return;
      watch.moved(number);
      run.faults.count(result.moved ? "queue moved" : "queue not moved");
      run.note(result.moved ? `${watch.disk.name} has moved` : `${watch.disk.name} stays: ${result.reason}`);
    });
  }

  /** The oldest call to storage that does not hang returns. */
  finishCall(): void {
    const { oneThread } = this.#options.breakage;
    const at = this.#calls.findIndex(({ watch }, index) => !watch.hangs && (index === 0 || !oneThread));
    if (at < 0) return;
    this.#calls.splice(at, 1)[0]!.finish();
    this.#stepsSinceCall = 0;
  }

  /**
   * SIGTERM: drains, leaves the devices Connected or detaches them, and ends. `graceMs` bounds the wait for devices after
   * the guests' time is over: those that take longer are given up, and the process ends as if it were killed.
   */
  async stop(leave: CloseOptions["leave"], graceMs = NO_LIMIT_MS): Promise<void> {
    if (this.#state !== "running") return;
    this.#state = "stopping";
    const { patient } = this.#options.breakage;
    const finished = await this.#kind?.close({ leave, timeoutMs: DETACH_MS }, patient ? NO_LIMIT_MS : graceMs);
    if (finished === false) {
      this.#options.run.faults.count("device given up");
      return this.kill();
    }
    await Promise.all(this.#planes.map((plane) => plane[Symbol.asyncDispose]()));
    // An image that opens just now, or meanwhile, is given to a device that has ended, which begins to close it.
    for (this.#stepsSinceCall = 0; this.#stepsSinceCall < LATE_STEPS; this.#stepsSinceCall++) await Promise.resolve();
    if (this.#gone || this.#options.run.violation !== undefined) return;
    this.#checkLeaks();
    this.#end();
  }

  /** SIGKILL: the process has no effect any more; writes that are in flight continue in the kernel. */
  kill(): void {
    if (this.#gone) return;
    for (const watch of this.#options.disks.values()) watch.orphanChannels();
    this.#end();
  }

  /** A getter, so that the compiler does not narrow the state across an await. */
  get #gone(): boolean {
    return this.#state === "ended";
  }

  /** Promises of a killed process settle after its death; their continuations must have no effect. */
  #assertAlive(): void {
    if (this.#gone) throw new ProcessKilled("the process was killed");
  }

  #end(): void {
    this.#state = "ended";
    this.clock.forgetSleepers();
    this.#calls.length = 0;
    this.#openDisks.clear();
    this.#locks.clear();
    for (const store of this.#stores) store[Symbol.dispose]();
    this.#platform.releaseAll();
    const domains = [...this.#rings.keys()];
    this.#rings.clear();
    for (const watch of this.#options.disks.values()) watch.processEnded();
    for (const domain of domains) this.#options.released(domain);
  }

  /** A process that ends by itself must have released everything. */
  #checkLeaks(): void {
    const { run, disks } = this.#options;
    const { held, careless } = this.#platform;
    run.require(held.length === 0, `the process ended and left ${held.join(", ")}`);
    const excused = run.faults.countOf("grant unmap") > this.#unmapFaults;
    run.require(excused || careless.length === 0, `the process released ${careless.join(", ")}`);
    const channels = [...disks.values()].reduce((sum, watch) => sum + watch.channels.length, 0);
    run.require(channels === 0, `the process ended with ${channels} channels open`);
    for (const watch of disks.values()) {
      const left = [...this.#openDisks.values()].some((open) => open.watch === watch && !open.closing);
      run.require(!left, `the process ended and left ${watch.disk.name} open`);
      run.require(!this.#locks.has(watch), `the process ended and left ${watch.disk.name} locked`);
    }
  }

  #connect(): Xenstore {
    this.#assertAlive();
    const { run, connect, wrote, breakage } = this.#options;
    const store = new GatedStore(connect(), connect, {
      disturbs: () => run.faults.strikes("transaction conflict"),
      wrote,
      losesAnswer: () => {
        if (!run.faults.strikes("store answer lost")) return false;
        this.#options.disconnect();
        return true;
      },
      hangs: () => {
        if (!run.faults.strikes("store call slow")) return false;
        this.clock.advance(STORE_LIMIT_MS);
        this.#options.disconnect();
        return true;
      },
    });
    this.#stores.push(store);
    return breakage.store?.(store) ?? store;
  }

  /** A call to storage: it returns at once, or in a later step if it is slow or its disk hangs, or never. */
  #call<T>(watch: DiskWatch, act: () => T, slow = false): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const finish = (): void => {
      try {
        resolve(act());
      } catch (error) {
        reject(error);
      }
    };
    watch.called();
    if (slow || watch.hangs || this.#waitsForOthers || this.#options.run.faults.strikes("storage call slow")) {
      this.#calls.push({ watch, finish });
    } else finish();
    return promise;
  }

  /** In a single thread a call begins when earlier ones have returned. */
  get #waitsForOthers(): boolean {
    return this.#options.breakage.oneThread === true && this.#calls.length > 0;
  }

  #openDisk(request: DiskRequest): Promise<Disk> {
    const { disks, run } = this.#options;
    const watch = disks.get(request.target);
    if (watch === undefined) return Promise.reject(new Error(`there is no ${request.target}`));
    return this.#call(watch, () => {
      if (run.faults.strikes("image not opened")) throw new Error("simulated failure");
      return this.#diskOf(watch);
    }, true);
  }

  #diskOf(watch: DiskWatch): Disk {
    const { run } = this.#options;
    const { disk } = watch;
    const number = run.tick();
    this.#openDisks.set(number, { watch, channels: new Set(), closing: false });
    return {
      properties: disk.properties,
      image: { path: disk.name, identity: { device: 1, inode: 1 } },
      description: disk.name,
      attachment: () => this.#call(watch, () => ({ module: "simulated", disk: disk.name, number, ring: run.tick() })),
      reattach: (attachment) => attachment,
      [Symbol.asyncDispose]: () => {
        const open = this.#openDisks.get(number);
        if (open?.closing !== false && !this.#gone) run.fail(`${disk.name} is closed twice`);
        else if (open !== undefined) open.closing = true;
        return this.#call(watch, () => this.#options.breakage.unclosed ? undefined : this.#closeDisk(number));
      },
    };
  }

  #closeDisk(number: number): void {
    if (this.#gone) return;
    const { run } = this.#options;
    const open = this.#openDisks.get(number)!;
    const channels = open.watch.channels.filter((channel) => open.channels.has(channel)).length;
    run.require(channels === 0, `${open.watch.disk.name} was closed with ${channels} channels open`);
    this.#openDisks.delete(number);
  }

  #openChannel({ disk, number, ring }: DiskAttachment, options: ChannelOptions): IoChannel {
    this.#assertAlive();
    const { run, breakage, disks } = this.#options;
    const watch = disks.get(String(disk))!;
    const open = this.#openDisks.get(Number(number));
    if (open === undefined) return run.fail(`a channel to ${disk} was opened, which is closed`);
    const file = new SimulatedFile(watch.disk, run);
    const channel = new SteppedChannel({ file, calls: breakage.file?.(file) ?? file, observer: watch, run }, options);
    open.channels.add(channel);
    watch.opened(channel, Number(ring));
    return channel;
  }

  /** As in the kernel: a lock stays held until the last write of its killed owner is over. */
  get #imageLocks(): ImageLocks {
    const { disks, breakage } = this.#options;
    if (breakage.unlocked) {
      return { tryLock: () => Promise.resolve({ [Symbol.asyncDispose]: () => Promise.resolve() }) };
    }
    return {
      tryLock: ({ path }) => {
        const watch = disks.get(path)!;
        return this.#call(watch, () => this.#lock(watch));
      },
    };
  }

  #lock(watch: DiskWatch): AsyncDisposable | string {
    this.#assertAlive();
    if (watch.locked || watch.orphans.length > 0) return "a process that was killed has it";
    watch.locked = true;
    this.#locks.add(watch);
    const release = (): void => {
      if (!this.#gone) watch.locked = false;
    };
    return {
      [Symbol.asyncDispose]: () => {
        const held = this.#locks.delete(watch) || this.#gone;
        this.#options.run.require(held, `the lock of ${watch.disk.name} is released twice`);
        return this.#call(watch, release);
      },
    };
  }

  /** The data plane that the devices use: counts the rings of each domain, from when they may be mapped. */
  get #observed(): DataPlane {
    const { breakage, released } = this.#options;
    return {
      openQueue: async (spec, signal) => {
        this.#assertAlive();
        const { guest, disk } = spec;
        let counted = false;
        let number = 0;
        const closed = (): void => {
          if (!counted || this.#gone) return;
          counted = false;
          this.#rings.set(guest, (this.#rings.get(guest) ?? 0) - 1);
          if (!this.serves(guest)) released(guest);
        };
        const attachment = async (lane: number): Promise<DiskAttachment> => {
          const attachment = await disk.attachment(lane);
          this.#assertAlive();
          signal?.throwIfAborted();
          number = Number(attachment["ring"]);
          counted = true;
          this.#rings.set(guest, (this.#rings.get(guest) ?? 0) + 1);
          return attachment;
        };
        const counting = { ...spec, disk: { ...disk, attachment } };
        const queue = await this.#planes[0]!.openQueue(breakage.spec?.(counting) ?? counting, signal).catch((error) => {
          closed();
          throw error;
        });
        const ring = { queue, watch: this.#options.disks.get(disk.description)!, number };
        this.#queues.add(ring);
        let closing: Promise<void> | undefined;
        return {
          stopped: queue.stopped,
          latched: queue.latched,
          get inFlight() {
            return queue.inFlight;
          },
          grow: (sectors) => queue.grow(sectors),
          start: () => queue.start(),
          release: () => Promise.reject(new Error("the simulation exchanges no image")),
          close: () => {
            this.#queues.delete(ring);
            return closing ??= queue.close().then(closed);
          },
        };
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }

  get #logger(): Logger {
    const at = (level: string) => (line: string): void => this.#say(`${level}: ${line}`);
    return { debug: () => {}, info: at("info"), warning: at("warning"), error: at("error") };
  }

  #say(line: string): void {
    if (this.#gone) return;
    this.log.push(line);
    this.#options.run.note(`log ${line}`);
  }
}
