/**
 * The storage daemons of this process's guests: one for each guest, which its disks share, or one for each disk. A lock
 * gives a daemon to one process of ours; others have their own. What an earlier process left is known by its record.
 */

import { type Clock, SYSTEM_CLOCK } from "../../clock.ts";
import { errorText, XenblkError } from "../../errors.ts";
import type { DomId, JournalStore } from "../../hypervisor.ts";
import { createLogger, labelled, type Logger } from "../../log.ts";
import { LogLimiter } from "../../rate_limit.ts";
import { endsWithin } from "../../within.ts";
import type { VhostClient } from "../vhost.ts";
import { type Confinement, probeConfinement } from "./confinement.ts";
import { StorageDaemon } from "./daemon.ts";
import { lockName } from "./directory.ts";
import { endStrays, endUnfinished, lostDisks, removeUnfinishedOverlay } from "./leftovers.ts";
import { checkUnwritten, forgetLost, type Orphan, orphansOf } from "./orphans.ts";
import { type DiskPlan, planDisk } from "./plan.ts";
import { identify, isAlive } from "./process.ts";
import { type DaemonProgram, findProgram } from "./program.ts";
import { type DiskKeeper, QemuDisk } from "./qemu_disk.ts";
import { busy, fail, notPermitted, processEnds } from "./refusals.ts";
import { directoryName, guestOfDirectory, isOtherGuest, mentions, RunDirectory } from "./record.ts";
import { hasServers, renewSockets } from "./sockets.ts";
import type { DaemonEnvironment } from "./start.ts";
import { DaemonErrors } from "./stderr.ts";
import type { OpenedDisk } from "./top_change.ts";
import { daemonNames } from "./survey.ts";
import { type DaemonUser, daemonUser, passwords, userOf } from "./user.ts";
import type { DiskFile, DiskOwner } from "../disk.ts";
import type { DaemonDisk, DaemonOwner as Owner, ImageDaemons, OrphanedDisk, QemuRequest } from "./types.ts";

/** Virtqueues of an export: rings of a device, and those of its last connection that still close. */
const QUEUES = 8;
/** How long disposing waits for calls that are being carried out: less than a process waits for its threads. */
const TURNS_MS = 1_500;
/** How often the daemons' standard error is looked at, and the sockets of their disks' servers. */
const LOOK_MS = 2_000;
/** How often disks are closed that could not be, because their daemon did not answer. */
const CLOSE_REST_MS = 5_000;
/** Wait before a daemon that died soon after its start is started again: twice as long each time. */
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 5_000;
/** A daemon that ran for so long did not die of its start. */
const STEADY_MS = 10_000;

/** What the daemons of a process are made of. */
export interface StorageDaemonsOptions {
  /** The folder of all daemons' run directories: `/run/xenblk/daemons`. */
  readonly directory: string;
  /** Gives each daemon to one process. */
  readonly locks: Pick<JournalStore, "lock">;
  /** Connects to the exports. */
  readonly vhost: VhostClient;
  /** One daemon for each disk. Default: one for each guest. */
  readonly perDisk?: boolean;
  /** The user as whom daemons run, by name or number. Default: root, with CAP_DAC_OVERRIDE. */
  readonly user?: string;
  /** Virtqueues of an export: at least the most rings of a device. Default 8. */
  readonly queues?: number;
  /** Reads one of the environment's variables. Default: this process's. */
  readonly variable?: (name: string) => string | undefined;
  /** Default: LogTape's category `xenblk.storage`. */
  readonly logger?: Logger;
  readonly clock?: Clock;
  /** How long a daemon may take to start, and to answer a request. Default 10 s each. */
  readonly startMs?: number;
  readonly requestMs?: number;
}

/** A daemon that this process has the lock of. */
interface HeldDaemon {
  readonly lock: Disposable;
  daemon: StorageDaemon;
  startedMs: number;
  waitMs: number;
}

/** The daemons of one process. */
export class StorageDaemons implements ImageDaemons {
  readonly #options: StorageDaemonsOptions;
  readonly #environment: DaemonEnvironment;
  readonly #queues: number;
  readonly #logger: Logger;
  readonly #limiter: LogLimiter;
  readonly #clock: Clock;
  /** By the name of the run directory. */
  readonly #held = new Map<string, HeldDaemon>();
  /** The last call for each guest: they are carried out one at a time. */
  readonly #turns = new Map<number, Promise<unknown>>();
  /** Disks that a daemon has open that did not answer when they were to be closed; by device. */
  readonly #unclosed = new Map<string, { readonly owner: Owner; readonly settled: boolean }>();
  /** Disks that daemons have lost, of devices that are gone. Known once this process has looked for them. */
  #orphans: Promise<readonly Orphan[]> = Promise.resolve([]);
  /** Their sockets are being looked at, or will be in their guest's turn. */
  readonly #renewing = new Set<StorageDaemon>();
  readonly #timers: readonly ReturnType<typeof setInterval>[];
  #closesRest = false;
  /** Guests whose daemons are kept without disks. */
  readonly #kept = new Set<Pick<DiskOwner, "guest">>();
  /** What is being opened now is closed again. */
  #ends = false;
  #confinement: Promise<Confinement> | undefined;

  constructor(options: StorageDaemonsOptions) {
    const { startMs, requestMs, clock = SYSTEM_CLOCK, logger = createLogger("storage") } = options;
    this.#options = options;
    this.#clock = clock;
    this.#logger = logger;
    this.#limiter = new LogLimiter(logger, () => clock.now());
    this.#queues = options.queues ?? QUEUES;
    this.#environment = {
      aio: { aio: "io_uring", native: true },
      ...(startMs === undefined ? {} : { startMs }),
      ...(requestMs === undefined ? {} : { requestMs }),
    };
    this.#timers = [
      setInterval(() => this.#look(), LOOK_MS),
      setInterval(() => void this.#closeRest(), CLOSE_REST_MS),
    ];
    for (const timer of this.#timers) Deno.unrefTimer(timer as unknown as number);
  }

  async open(request: QemuRequest): Promise<DaemonDisk> {
    const { name, readOnly } = request;
    if (await identify(Deno.pid) === undefined) throw notPermitted(name);
    const home = await this.#home();
    const planOf = (wanted: QemuRequest): DiskPlan => planDisk(wanted, { queues: this.#queues, home });
    const plan = planOf(request);
    const owner = { ...request.owner, fragile: plan.fragile };
    await checkUnwritten(request, plan.files, await this.#orphans);
    return await this.#inTurn(owner.guest, async () => {
      if (this.#ends) throw processEnds(name);
      request.signal?.throwIfAborted();
      this.#unclosed.delete(owner.device); // opening it closes it before
      const { daemon } = await this.#daemonFor(owner);
      try {
        const lostBefore = (await daemon.lostBefore(owner.device, plan))?.reason;
        const other = lostBefore === undefined ? daemon.record.lost[owner.device] : undefined;
        if (other !== undefined) this.#logger.error(`${other.name}: answered writes may be lost: ${other.reason}`);
        const socket = await daemon.add(owner.device, name, plan);
        await removeUnfinishedOverlay(request);
        const warn = (message: string): void => this.#logger.warning(message);
        const writeThrough = request.cache === "writethrough";
        const use = { readOnly, queues: this.#queues, writeThrough, errorsLose: plan.fragile, warn };
        const device = await this.#options.vhost.connect({ name, socket, ...use });
        if (this.#ends || request.signal?.aborted) {
          await device[Symbol.asyncDispose]();
          throw request.signal?.reason ?? processEnds(name);
        }
        const opened = { request, plan };
        return new QemuDisk(opened, daemon, device, this.#keeper(opened, planOf), lostBefore);
      } catch (error) {
        await this.#release(owner).catch((also) => this.#logger.warning(errorText(also)));
        throw error;
      }
    });
  }

  async prepare(owner: DiskOwner, files: readonly DiskFile[]): Promise<AsyncDisposable> {
    await using undo = new AsyncDisposableStack();
    undo.defer(() => this.#inTurn(owner.guest, () => this.#endUnused(owner.guest)));
    const kept = undo.adopt({ ...owner }, (kept) => void this.#kept.delete(kept));
    this.#kept.add(kept);
    await this.#inTurn(owner.guest, async () => {
      if (this.#ends) throw processEnds(`the storage daemon of ${owner.device}`);
      const release = await (await this.#daemonFor({ ...owner, fragile: false })).daemon.hold(owner.device, files);
      undo.defer(() => this.#inTurn(owner.guest, release));
    });
    return undo.move();
  }

  async orphans(isGone: (device: string) => boolean): Promise<readonly OrphanedDisk[]> {
    const found = this.#findOrphans(isGone);
    this.#orphans = found.catch(() => []);
    return await found;
  }

  async forget(owner: DiskOwner): Promise<void> {
    await this.#inTurn(owner.guest, async () => {
      if (this.#holderOf(owner) !== undefined) return await this.#settle(owner);
      for (const name of await daemonNames(this.#options.directory)) {
        if (guestOfDirectory(name) !== owner.guest || this.#held.has(name)) continue;
        using lock = this.#options.locks.lock(lockName(name));
        const directory = this.#directory(name);
        const record = await directory.read();
        if (lock === undefined || record === undefined || !mentions(record, owner.device)) continue;
        await forgetLost(directory, record, owner.device);
      }
      this.#notOrphaned(owner);
    });
  }

  async discard(owner: DiskOwner): Promise<void> {
    if (this.#holderOf(owner) !== undefined) {
      return await this.#inTurn(owner.guest, () => this.#release({ ...owner, fragile: false }, true));
    }
    await this.sweep((device) => device === owner.device);
    await this.forget(owner);
  }

  async sweep(isGone: (device: string) => boolean): Promise<string[]> {
    const swept: string[] = [];
    for (const name of await daemonNames(this.#options.directory)) {
      if (this.#held.has(name)) continue; // its disks are removed by those who opened them
      try {
        const done = await this.#inTurn(guestOfDirectory(name)!, () => this.#sweepOne(name, isGone));
        if (done !== undefined) swept.push(done);
      } catch (error) {
        this.#logger.warning(errorText(error));
      }
    }
    return swept;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ends = true;
    for (const timer of this.#timers) clearInterval(timer);
    // What still waits for a daemon ends with its time limit, or with the process.
    await endsWithin(Promise.allSettled(this.#turns.values()), TURNS_MS);
    for (const [name, { daemon, lock }] of this.#held) {
      await daemon.lookAtErrors();
      await daemon.leave();
      lock[Symbol.dispose]();
      this.#held.delete(name);
    }
  }

  /** Carries out one call at a time for each guest. */
  async #inTurn<T>(guest: number, call: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(guest) ?? Promise.resolve()).then(call, call);
    this.#turns.set(guest, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(guest) === turn) this.#turns.delete(guest);
    }
  }

  /** What a disk asks for later. */
  #keeper(opened: OpenedDisk, planOf: DiskKeeper["planOf"]): DiskKeeper {
    const { request } = opened;
    const owner = { ...request.owner, fragile: opened.plan.fragile };
    const { guest, device } = owner;
    return {
      logger: this.#logger,
      planOf,
      release: async (settled) => await this.#inTurn(guest, () => this.#release(owner, settled)),
      settle: async () => await this.#inTurn(guest, () => this.#settle(owner)),
      exportAnew: async (daemon, change) => await daemon.exportAnew(device, opened.plan, change),
      inDaemon: async (call) => await this.#inTurn(guest, async () => await call(this.#daemonWith(request))),
      reopen: async () =>
        await this.#inTurn(guest, async () => {
          const { daemon } = await this.#daemonFor(owner);
          return { daemon, socket: await daemon.add(device, opened.request.name, opened.plan) };
        }),
    };
  }

  /** The daemon that has the disk open. Throws {@linkcode XenblkError} if there is none. */
  #daemonWith({ name, owner }: QemuRequest): StorageDaemon {
    const held = this.#holderOf(owner);
    if (held?.daemon.record.disks[owner.device]?.exported === true) return held.daemon;
    throw new XenblkError(`Cannot work on ${name}: no storage daemon has it open at present`, {
      remedy: "look at the disk with `xenblk show`, and repeat this once it is served again",
    });
  }

  /** The daemon of this process that has the device. */
  #holderOf({ guest, device }: DiskOwner): HeldDaemon | undefined {
    return [...this.#held.values()].find(({ daemon: { record } }) =>
      record.guest === guest && mentions(record, device)
    );
  }

  /** The daemon for a device, running: where the device is already, else where it belongs. */
  async #daemonFor(owner: Owner): Promise<HeldDaemon> {
    const { guest, device } = owner;
    const known = this.#holderOf(owner);
    if (known !== undefined) return await this.#running(known, owner);
    for (const name of await daemonNames(this.#options.directory)) {
      if (guestOfDirectory(name) !== guest || this.#held.has(name)) continue;
      const record = await this.#directory(name).read();
      if (record === undefined || !mentions(record, device) || isOtherGuest(record, owner)) continue;
      return await this.#take(name, owner) ?? fail(busy(owner, record));
    }
    const own = directoryName(guest, device);
    const shared = this.#options.perDisk === true || owner.fragile ? own : directoryName(guest);
    return await this.#take(shared, owner) ?? await this.#take(own, owner) ?? fail(busy(owner));
  }

  /** Takes the daemon of a run directory, found again or started; undefined if another process has it. */
  async #take(name: string, owner: Owner): Promise<HeldDaemon | undefined> {
    const known = this.#held.get(name);
    if (known !== undefined) return await this.#running(known, owner);
    const lock = this.#options.locks.lock(lockName(name));
    if (lock === undefined) return undefined;
    using undo = new DisposableStack();
    undo.use(lock);
    const daemon = await this.#findAgain(name, owner) ?? await this.#start(name, owner);
    const held = { lock, daemon, startedMs: this.#clock.now(), waitMs: FIRST_WAIT_MS };
    this.#held.set(name, held);
    undo.move();
    return held;
  }

  /** The daemon itself, or another one in its place if it died. */
  async #running(held: HeldDaemon, owner: Owner): Promise<HeldDaemon> {
    const { daemon } = held;
    if (await daemon.fate(0) === undefined) return held;
    daemon[Symbol.dispose]();
    if (this.#clock.now() - held.startedMs < STEADY_MS) {
      await this.#clock.sleep(held.waitMs);
      held.waitMs = Math.min(2 * held.waitMs, LONGEST_WAIT_MS);
    } else {
      held.waitMs = FIRST_WAIT_MS;
    }
    held.startedMs = this.#clock.now();
    held.daemon = await this.#start(daemon.directory.name, owner);
    return held;
  }

  /** The daemon that an earlier process left; undefined if there is none, after ending one of an earlier guest. */
  async #findAgain(name: string, owner: Owner): Promise<StorageDaemon | undefined> {
    const directory = this.#directory(name);
    const record = await directory.read();
    if (record === undefined || !await isAlive(record.process)) return void await endStrays(directory, this.#logger);
    const logger = this.#loggerOf(record.guest);
    if (await endUnfinished(record, logger)) return undefined;
    const isOther = isOtherGuest(record, owner);
    // What its store has lost while nobody watched it is not known.
    const isDoubtful = owner.fragile && Object.keys(record.disks).every((device) => device === owner.device);
    if (!isOther && !isDoubtful) return await StorageDaemon.adopt(this.#environment, directory, logger, record);
    using daemon = StorageDaemon.recorded(this.#environment, directory, logger, record);
    if (!isOther) return void await daemon.abandon(owner.device);
    this.#logger.warning(`${daemon.name} belongs to an earlier guest with this domid: ending it`);
    await daemon.end();
    return undefined;
  }

  async #start(name: string, owner: Owner): Promise<StorageDaemon> {
    const { guest, uuid } = owner;
    const program = await findProgram((variable) => this.#variable(variable));
    const directory = this.#directory(name);
    const record = await directory.read();
    await new DaemonErrors(directory.errors, this.#loggerOf(guest)).look(); // the last words of an earlier one
    const lost = record === undefined || isOtherGuest(record, owner) ? {} : await lostDisks(record);
    const confinement = await this.#probe(program);
    const identity = { guest, ...(uuid === undefined ? {} : { uuid }) };
    const start = { program, confinement, ...identity, lost };
    return await StorageDaemon.start(this.#environment, directory, this.#loggerOf(guest), start);
  }

  /** Once: what the host allows does not change while a process runs. */
  async #probe(program: DaemonProgram): Promise<Confinement> {
    return await (this.#confinement ??= (async () => {
      const folder = `${this.#options.directory}/probe`;
      await Deno.mkdir(folder, { recursive: true, mode: 0o700 });
      const confinement = await probeConfinement(program, folder, await this.#user());
      for (const lack of confinement.lacks) this.#logger.warning(`a storage daemon has ${lack}`);
      return confinement;
    })());
  }

  /** Those that no other process sees to. */
  async #findOrphans(isGone: (device: string) => boolean): Promise<readonly Orphan[]> {
    const found: Orphan[] = [];
    for (const name of await daemonNames(this.#options.directory)) {
      const held = this.#held.get(name);
      if (held === undefined && !this.#isFree(name)) continue;
      const record = held?.daemon.record ?? await this.#directory(name).read();
      if (record !== undefined) found.push(...await orphansOf(record, held !== undefined, isGone));
    }
    return found;
  }

  #isFree(name: string): boolean {
    using lock = this.#options.locks.lock(lockName(name));
    return lock !== undefined;
  }

  #notOrphaned({ device }: DiskOwner): void {
    this.#orphans = this.#orphans.then((orphans) => orphans.filter(({ owner }) => owner.device !== device));
  }

  async #settle(owner: DiskOwner): Promise<void> {
    await this.#holderOf(owner)?.daemon.settle(owner.device);
    this.#notOrphaned(owner);
  }

  /**
   * Removes a device from its daemon, and ends a daemon that has no other. `settled`: whatever the daemon has lost of it
   * was seen to.
   */
  async #release(owner: Owner, settled = false, pingMs?: number): Promise<void> {
    const held = this.#holderOf(owner);
    this.#unclosed.set(owner.device, { owner, settled });
    if (held !== undefined) await held.daemon.remove(owner.device, pingMs);
    this.#unclosed.delete(owner.device);
    if (settled) await this.#settle(owner);
    await this.#endUnused(owner.guest);
  }

  async #endUnused(of: number): Promise<void> {
    if ([...this.#kept].some(({ guest }) => guest === of)) return;
    for (const [name, { daemon, lock }] of this.#held) {
      const { guest, disks } = daemon.record;
      if (guest !== of || Object.keys(disks).length > 0) continue;
      this.#held.delete(name);
      this.#limiter.forget(guest as DomId);
      using _lock = lock;
      await daemon.end();
    }
  }

  #look(): void {
    for (const { daemon } of this.#held.values()) {
      void daemon.lookAtErrors();
      if (!hasServers(daemon.record) || this.#renewing.has(daemon)) continue;
      this.#renewing.add(daemon);
      const { record: { guest }, directory: { root } } = daemon;
      const renewal = this.#inTurn(guest, async () => {
        for (const line of await renewSockets(daemon.record, root)) this.#loggerOf(guest).info(line);
      });
      void renewal.finally(() => this.#renewing.delete(daemon));
    }
  }

  /** Closes disks that a daemon has open that did not answer. */
  async #closeRest(): Promise<void> {
    if (this.#closesRest) return;
    this.#closesRest = true;
    for (const [device, { owner, settled }] of this.#unclosed) {
      try {
        await this.#inTurn(owner.guest, async () => {
          if (!this.#unclosed.has(device)) return;
          await this.#release(owner, settled, CLOSE_REST_MS);
          this.#logger.info(`${device}: closed in its storage daemon, which answers again`);
        });
      } catch {
        // it was said when it did not answer first
      }
    }
    this.#closesRest = false;
  }

  async #sweepOne(name: string, isGone: (device: string) => boolean): Promise<string | undefined> {
    using lock = this.#options.locks.lock(lockName(name));
    if (lock === undefined) return undefined;
    const directory = this.#directory(name);
    const record = await directory.read();
    if (record === undefined) {
      await endStrays(directory, this.#logger);
      await directory.remove();
      return undefined;
    }
    const devices = [...Object.keys(record.disks), ...Object.keys(record.lost)];
    const gone = devices.filter(isGone);
    if (gone.length === 0 && devices.length > 0) return undefined;
    const logger = this.#loggerOf(record.guest);
    const what = `domain ${record.guest}: ${gone.join(", ") || "no device"} of its storage daemon`;
    if (!await isAlive(record.process)) {
      const isOrphaned = Object.keys(await lostDisks(record)).length > 0;
      if (gone.length < devices.length || isOrphaned) return undefined;
      await endStrays(directory, this.#logger);
      await directory.remove();
      return `${what}: removed what was left of it`;
    }
    using daemon = StorageDaemon.recorded(this.#environment, directory, logger, record);
    if (gone.length === devices.length) {
      await daemon.end();
      return `${what}: ended process ${record.process.pid}`;
    }
    for (const device of gone) await daemon.remove(device);
    return `${what}: closed`;
  }

  /** The home directory of this user, where libssh looks for it. */
  async #home(): Promise<string | undefined> {
    const user = await this.#user() ?? userOf(Deno.uid() ?? 0, await passwords());
    return user?.home ?? this.#variable("HOME");
  }

  async #user(): Promise<DaemonUser | undefined> {
    const { user } = this.#options;
    return user === undefined ? undefined : daemonUser(user, await passwords(), Deno.uid() === 0);
  }

  #variable(name: string): string | undefined {
    return (this.#options.variable ?? ((variable: string) => Deno.env.get(variable)))(name);
  }

  #directory(name: string): RunDirectory {
    return new RunDirectory(this.#options.directory, name);
  }

  #loggerOf(guest: number): Logger {
    return labelled(this.#limiter.forGuest(guest as DomId), `storage daemon of domain ${guest}`);
  }
}
