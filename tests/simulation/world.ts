/**
 * The whole of one simulated run: the host with its hypervisor and xenstore, the backend's process, the guests and
 * their disks, and everything that can happen to them, one step after the other. How a run ends is in ending.ts.
 */

import type { DomId } from "../../lib/hypervisor.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import type { DeviceSettings } from "../../lib/backend/settings.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { BackendProcess, type Breakage } from "./backend_process.ts";
import type { DiskWatch } from "./disk_watch.ts";
import type { Guest } from "./guest.ts";
import { chooseProfile } from "./profile.ts";
import type { Run } from "./run.ts";
import { type Host, Slot } from "./slot.ts";
import { stateFault } from "./state_rule.ts";

const DOMAIN_0 = 0 as DomId;
const MACHINE = { memoryBytes: 32 * 2 ** 20, domains: 8, grantsPerDomain: 256, portsPerDomain: 32 } as const;
/** Of 1000 steps of the disks, how many finish a write of a killed process. */
const ORPHAN_PACE = 8;
/** Connecting takes fewer calls to storage. */
const MOST_CALLS_LEFT = 8;
/** All promises settle within so many microtasks. */
const SETTLING_TICKS = 80;

type Act = (world: World) => void | Promise<void>;

/** Ordinary steps, with weights; the first is the least eventful. */
const USUAL: readonly (readonly [weight: number, act: Act])[] = [
  [300, (world) => world.turn()],
  [300, (world) => world.carryOut()],
  [400, (world) => world.stepGuest()],
  [120, (world) => world.deliver()],
  [40, (world) => world.stepToolstack()],
  [20, (world) => world.passTime()],
  [30, (world) => world.process?.finishCall()],
  [20, (world) => world.startProcess()],
  [15, (world) => world.process?.moveQueue()],
  [10, (world) => world.pick().guest?.correctState()],
];

/** Steps that disturb, with weights. */
const DISTURBANCES: readonly (readonly [weight: number, act: Act])[] = [
  [4, (world) => world.pick().guest?.beginClose(false)],
  [2, (world) => world.misbehave((guest) => guest.beginClose(true))],
  [2, (world) => world.misbehave((guest) => guest.overrun())],
  [4, (world) => world.misbehave((guest) => guest.writeWrongState())],
  [2, (world) => world.pick().kill()],
  [3, (world) => world.pick().requestRemoval()],
  [1, (world) => world.pick().remove()],
  [4, (world) => world.stopProcess()],
  [1, (world) => world.stopProcess("detached")],
  [8, (world) => world.killProcess()],
  [4, (world) => world.hangDisk()],
  [4, (world) => world.releaseDisks()],
  [3, (world) => world.loseStore()],
  [2, (world) => world.restartStore()],
  [1, (world) => world.failPower()],
];
const USUAL_WEIGHTS = USUAL.map(([weight]) => weight);
const DISTURBANCE_WEIGHTS = DISTURBANCES.map(([weight]) => weight);

/** The simulated world of one run. */
export class World {
  readonly run: Run;
  readonly slots: readonly Slot[];
  readonly settings: DeviceSettings;
  process: BackendProcess | undefined;
  readonly #disks: ReadonlyMap<string, DiskWatch>;
  readonly #breakage: Breakage;
  readonly #hostility: number;
  /** The backend keeps journals. */
  readonly journals: boolean;
  readonly #ticks: number;
  readonly #unrest: number;
  #host: Host | undefined;
  #stopping: Promise<void> | undefined;
  #stopFailure: unknown;
  #storeStopped = false;

  constructor(run: Run, breakage: Breakage) {
    this.run = run;
    this.#breakage = breakage;
    const profile = chooseProfile(run);
    this.settings = profile.settings;
    this.#disks = new Map(profile.disks.map((watch) => [watch.disk.name, watch]));
    this.#hostility = profile.hostility;
    this.journals = profile.journals;
    this.#ticks = profile.patient ? SETTLING_TICKS : 2;
    this.#unrest = profile.unrest;
    this.slots = profile.disks.map((watch, index) =>
      new Slot({
        run,
        watch,
        // Slots share no domain id; each has several, which are reused.
        domains: [1 + index, 3 + index, 5 + index] as DomId[],
        host: () => this.host,
        serves: (domain) => this.process?.serves(domain) ?? false,
        defaultAbi: profile.settings.defaultProtocol,
        hostility: profile.hostility,
      })
    );
  }

  /** One step, chosen by the decisions. */
  async step(): Promise<void> {
    const { decisions } = this.run;
    const [, act] = decisions.chance(this.#unrest)
      ? DISTURBANCES[decisions.weighted(DISTURBANCE_WEIGHTS)]!
      : USUAL[decisions.weighted(USUAL_WEIGHTS)]!;
    await this.attempt(() => act(this));
    await this.settle(this.#ticks);
  }

  /** Calls `act`; it is no failure if it finds no xenstore. */
  async attempt(act: () => void | Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof XenstoreError) || error.code !== "EDISCONNECTED") throw error;
      for (const { guest } of this.slots) guest?.forgetStore();
    }
    this.#failIfStopFailed();
  }

  /** Lets promises settle, by which the backend's control plane advances. */
  async settle(ticks = SETTLING_TICKS): Promise<void> {
    for (let i = 0; i < ticks; i++) await null;
    this.#failIfStopFailed();
  }

  /** Chooses a slot. */
  pick(): Slot {
    return this.run.decisions.pick(this.slots);
  }

  /** A guest misbehaves, if this run has hostile guests. */
  misbehave(act: (guest: Guest) => void): void {
    const { guest } = this.pick();
    if (this.#hostility > 0 && guest !== undefined) act(guest);
  }

  turn(): void {
    if (this.process?.turn()) this.run.note("turn");
  }

  /** A disk carries out one operation in flight. */
  carryOut(): void {
    this.#endOrphan();
    const channels = [...this.#disks.values()].flatMap((watch) => watch.hangs ? [] : watch.channels)
      .filter((each) => each.underWay > 0);
    if (channels.length === 0) return;
    const channel = this.run.decisions.pick(channels);
    channel.carryOut(this.run.decisions.below(channel.underWay));
    this.process?.wake();
  }

  stepGuest(): void {
    this.pick().guest?.step();
  }

  /** One watch delivers one event. */
  deliver(): void {
    const deliverable = this.process?.deliverable ?? [];
    if (deliverable.length > 0) this.run.decisions.pick(deliverable).deliver();
  }

  stepToolstack(): void {
    this.pick().toolstackStep();
  }

  passTime(): void {
    this.process?.clock.advance(this.run.decisions.pick([10, 50, 200, 5_000, 60_000]));
  }

  /** Starts a process, unless one runs. */
  startProcess(): void {
    if (this.process !== undefined && this.process.state !== "ended") return;
    this.run.note("process starts");
    for (const { latched } of this.#disks.values()) if (latched !== Infinity) this.run.faults.count("latch inherited");
    this.process = new BackendProcess({
      run: this.run,
      machine: this.host.machine,
      journalAccount: this.host.journals,
      connect: () => this.host.store.connect(DOMAIN_0),
      disconnect: () => this.host.store.disconnect(DOMAIN_0, "simulated loss"),
      settings: this.settings,
      journals: this.journals,
      disks: this.#disks,
      breakage: this.#breakage,
      wrote: (path, before, value) => this.#checkState(path, before, value),
      released: (domain) => this.slots.forEach((slot) => slot.released(domain)),
    });
  }

  /** SIGTERM. */
  stopProcess(leave: "connected" | "detached" = "connected", graceMs?: number): void {
    if (this.process?.state !== "running") return;
    this.run.faults.count(leave === "connected" ? "process stopped" : "process detached");
    this.run.note(`process stops, leaves its devices ${leave}`);
    this.#stopping = this.process.stop(leave, graceMs);
    this.#stopping.catch((error) => this.#stopFailure = error);
  }

  /**
   * SIGKILL. Without journals the requests that the process had taken are lost with it, so a guest with requests in
   * flight is killed too.
   */
  killProcess(): void {
    const { process } = this;
    if (process === undefined || process.state === "ended") return;
    this.run.faults.count("process killed");
    this.run.note("process is killed");
    process.kill();
    if (this.journals) return this.#startAgain();
    for (const slot of this.slots) if ((slot.guest?.connection?.inFlight ?? 0) > 0) this.#killUnserved(slot);
  }

  /** The storage of a disk stops answering, at once or after a few more calls and operations. */
  hangDisk(): void {
    const { watch } = this.pick();
    if (!watch.hangs) watch.hangAfter(this.run.decisions.below(MOST_CALLS_LEFT));
  }

  /** All storage answers again. */
  releaseDisks(): void {
    for (const watch of this.#disks.values()) watch.release();
  }

  /** The backend's connections to xenstore break. */
  loseStore(): void {
    if (this.#storeStopped) return;
    this.run.faults.count("store disconnected");
    this.run.note("store disconnects");
    this.host.store.disconnect(DOMAIN_0, "simulated loss");
  }

  /** xenstored ends, or is started again. */
  restartStore(): void {
    if (!this.#storeStopped) {
      this.run.faults.count("store restarted");
      this.host.store.stop();
      for (const { guest } of this.slots) guest?.forgetStore();
    } else this.host.store.start();
    this.#storeStopped = !this.#storeStopped;
    this.run.note("store", this.#storeStopped ? 0 : 1);
  }

  /** Starts xenstored if it has ended. */
  ensureStore(): void {
    if (this.#storeStopped) this.restartStore();
  }

  /** Everything is lost but what the disks have made durable, and perhaps some unflushed writes. */
  failPower(): void {
    const { run } = this;
    run.faults.count("power failure");
    run.note("power fails");
    if (this.process?.state !== "ended") this.process?.kill();
    this.process = undefined;
    for (const slot of this.slots) slot.powerFailed();
    for (const watch of this.#disks.values()) {
      watch.release();
      const { disk, history } = watch;
      while (watch.orphans.length > 0) watch.endOrphan();
      disk.crash(run.decisions);
      const fault = history.crashed((sector) => disk.idOf(sector), run.tick());
      if (fault !== undefined) run.fail(`after a power failure ${disk.name} is wrong: ${fault}`);
    }
    this.#host = undefined;
    this.#storeStopped = false;
  }

  /** The host; a new one after a power failure. */
  get host(): Host {
    return this.#host ??= { machine: createMachine(MACHINE), store: new SimulatedStore(), journals: new Map() };
  }

  /** The service manager mostly restarts the process at once. */
  #startAgain(): void {
    if (!this.#storeStopped && !this.run.decisions.chance(300)) this.startProcess();
  }

  /** Sometimes finishes a write of a killed process; always once faults are off. */
  #endOrphan(): void {
    const { decisions, faults } = this.run;
    const orphaned = [...this.#disks.values()].filter((watch) => watch.orphans.length > 0 && !watch.hangs);
    if (orphaned.length === 0 || (faults.enabled && !decisions.chance(ORPHAN_PACE))) return;
    decisions.pick(orphaned).endOrphan();
  }

  #killUnserved(slot: Slot): void {
    this.ensureStore();
    slot.kill();
  }

  #checkState(path: string, before: string | undefined, value: string): void {
    for (const { address, watch } of this.slots) {
      if (address === undefined || path !== `${backendPath(address)}/state`) continue;
      const { run } = this;
      run.note(`backend of ${address.frontendDomain} state ${before} ${value}`);
      using store = this.host.store.connect(DOMAIN_0);
      const fault = stateFault(before, value, {
        serving: this.process?.serves(address.frontendDomain) ?? false,
        node: (name) => store.read(`${backendPath(address)}/${name}`),
        sectors: watch.disk.properties.sectors,
      });
      if (fault !== undefined) run.fail(`domain ${address.frontendDomain}: ${fault}`);
    }
  }

  #failIfStopFailed(): void {
    if (this.#stopFailure !== undefined) throw this.#stopFailure;
  }
}
