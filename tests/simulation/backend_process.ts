/**
 * One process of the backend: the real devices and the real data plane over the simulated hypervisor, xenstore, disks
 * and clock, single-stepped. It can be stopped as by SIGTERM, or killed between two steps or two stores to memory: then
 * it has no effect any more, and the kernel releases what it held.
 */

import type { CloseOptions } from "../../lib/backend/device.ts";
import { BackendKind } from "../../lib/backend/kind.ts";
import type { DeviceStatus } from "../../lib/backend/status.ts";
import type { DeviceSettings } from "../../lib/backend/settings.ts";
import { InlineDataPlane } from "../../lib/dataplane/inline_dataplane.ts";
import type { DataPlane, QueueHandle, QueueSpec } from "../../lib/dataplane/types.ts";
import type { DomId, Platform, Xenstore } from "../../lib/hypervisor.ts";
import type { Logger } from "../../lib/log.ts";
import { withFaults } from "../../lib/sim/faults.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOptions, Disk, DiskRequest, IoChannel } from "../../lib/storage/disk.ts";
import type { ImageLocks } from "../../lib/storage/image/lock.ts";
import type { BlockFile } from "../../lib/storage/engine/executor.ts";
import { Crasher, ProcessKilled } from "./crash_points.ts";
import type { DiskWatch } from "./disk_watch.ts";
import { GatedStore, type GatedWatch } from "./gated_store.ts";
import { type JournalAccount, ProcessPlatform } from "./process_platform.ts";
import type { Run } from "./run.ts";
import { SimulatedClock } from "./simulated_clock.ts";
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

/** An image that is being opened. */
interface Opening {
  readonly watch: DiskWatch;
  readonly answer: PromiseWithResolvers<Disk>;
}

const NOTHING = new SharedArrayBuffer(4);
/** Time limit for guests when the process detaches its devices. */
const DETACH_MS = 10_000;
/** Time limit of a process for its devices when it stops: never reached in a simulation. */
const GRACE_MS = 1e12;

/** One process of the backend, from its start to its end. */
export class BackendProcess {
  readonly clock = new SimulatedClock();
  readonly log: string[] = [];
  readonly #options: ProcessOptions;
  readonly #platform: ProcessPlatform;
  readonly #plane: InlineDataPlane;
  readonly #stores: GatedStore[] = [];
  readonly #openings: Opening[] = [];
  /** Number of rings served, by domain. */
  readonly #rings = new Map<DomId, number>();
  readonly #unmapFaults: number;
  readonly #crasher: Crasher;
  #kind: BackendKind | undefined;
  #state: "running" | "stopping" | "ended" = "running";
  #busy = false;

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
    this.#plane = new InlineDataPlane({
      platform: seen,
      openChannel: ({ disk }, channelOptions) => this.#openChannel(options.disks.get(String(disk))!, channelOptions),
      warn: (line) => this.#say(line),
    });
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

  /** Number of images that are being opened. */
  get openings(): number {
    return this.#openings.length;
  }

  /** One turn of the data plane. False: it sleeps, and nothing wakes it, or the process has ended. */
  turn(): boolean {
    if (this.#gone || (!this.#busy && !this.#platform.wouldWake)) return false;
    const { run } = this.#options;
    try {
      this.#crasher.run(() => {
        if (!this.#busy) this.#plane.sleep(-1);
        this.#busy = this.#plane.turn();
      });
    } catch (error) {
      if (!this.#crasher.dead) run.fail(`the data plane threw ${error instanceof Error ? error.stack : error}`);
    }
    if (this.#crasher.dead) this.kill();
    return true;
  }

  /** A completion wakes the data plane. */
  wake(): void {
    this.#busy = true;
  }

  /** Finishes opening the oldest image, with success or a fault. */
  finishOpening(): void {
    const opening = this.#openings.shift();
    if (opening === undefined) return;
    if (this.#options.run.faults.strikes("image not opened")) opening.answer.reject(new Error("simulated failure"));
    else opening.answer.resolve(this.#diskOf(opening.watch));
  }

  /** SIGTERM: drains, leaves the devices Connected or detaches them, and ends. */
  async stop(leave: CloseOptions["leave"]): Promise<void> {
    if (this.#state !== "running") return;
    this.#state = "stopping";
    await this.#kind?.close({ leave, timeoutMs: DETACH_MS }, GRACE_MS);
    await this.#plane[Symbol.asyncDispose]();
    if (this.#gone || this.#options.run.violation !== undefined) return;
    this.#checkLeaks();
    this.#end();
  }

  /** SIGKILL: the process has no effect any more; writes that are in flight continue in the kernel. */
  kill(): void {
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
    this.#openings.length = 0;
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
    });
    this.#stores.push(store);
    return breakage.store?.(store) ?? store;
  }

  #openDisk(request: DiskRequest): Promise<Disk> {
    const watch = this.#options.disks.get(request.target);
    if (watch === undefined) return Promise.reject(new Error(`there is no ${request.target}`));
    const answer = Promise.withResolvers<Disk>();
    this.#openings.push({ watch, answer });
    return answer.promise;
  }

  #diskOf({ disk, channels }: DiskWatch): Disk {
    const { run } = this.#options;
    return {
      properties: disk.properties,
      image: { path: disk.name, identity: { device: 1, inode: 1 }, locked: NOTHING },
      description: disk.name,
      attachment: () => Promise.resolve({ module: "simulated", disk: disk.name }),
      [Symbol.asyncDispose]: () => {
        if (!this.#gone) {
          run.require(channels.length === 0, `${disk.name} was closed with ${channels.length} channels open`);
        }
        return Promise.resolve();
      },
    };
  }

  #openChannel(watch: DiskWatch, options: ChannelOptions): IoChannel {
    this.#assertAlive();
    const { run, breakage } = this.#options;
    const file = new SimulatedFile(watch.disk, run);
    const channel = new SteppedChannel({ file, calls: breakage.file?.(file) ?? file, observer: watch, run }, options);
    watch.channels.push(channel);
    return channel;
  }

  /** As in the kernel: a lock stays held until the last write of its killed owner is over. */
  get #imageLocks(): ImageLocks {
    const { disks, breakage } = this.#options;
    if (breakage.unlocked) {
      return { tryLock: () => Promise.resolve({ [Symbol.asyncDispose]: () => Promise.resolve() }) };
    }
    return {
      // deno-lint-ignore require-await -- a check that fails rejects
      tryLock: async ({ path }) => {
        this.#assertAlive();
        const watch = disks.get(path)!;
        if (watch.locked || watch.orphans.length > 0) return "a process that was killed has it";
        watch.locked = true;
        return {
          // deno-lint-ignore require-await
          [Symbol.asyncDispose]: async () => {
            if (!this.#gone) watch.locked = false;
          },
        };
      },
    };
  }

  /** The data plane that the devices use: counts the rings of each domain. */
  get #observed(): DataPlane {
    const { breakage, released } = this.#options;
    return {
      openQueue: async (spec) => {
        this.#assertAlive();
        const { guest } = spec;
        this.#rings.set(guest, (this.#rings.get(guest) ?? 0) + 1);
        const closed = (): void => {
          if (this.#gone) return;
          this.#rings.set(guest, (this.#rings.get(guest) ?? 0) - 1);
          if (!this.serves(guest)) released(guest);
        };
        const handle = await this.#plane.openQueue(breakage.spec?.(spec) ?? spec).catch((error) => {
          closed();
          throw error;
        });
        let closing: Promise<void> | undefined;
        const close = (): Promise<void> => handle.close().then(closed);
        return {
          stopped: handle.stopped,
          grow: (sectors) => handle.grow(sectors),
          close: () => closing ??= close(),
        } satisfies QueueHandle;
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
