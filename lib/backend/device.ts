/**
 * One device: observes its situation, asks the transition table what to do, does it, and looks again. It is
 * level-triggered: whatever changes, it looks at the whole situation again, one look at a time and a bounded number of
 * looks per second.
 */

import { isAbort, unlessAborted } from "../abort.ts";
import type { Clock } from "../clock.ts";
import { errorText } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import { labelled, type Logger } from "../log.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import { stateName, XenbusState } from "../xenbus/states.ts";
import {
  type Action,
  decide,
  type Image,
  type Intent,
  isRemovalAsked,
  type Outcome,
  type Owner,
} from "../xenbus/transitions.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { Place } from "../turns.ts";
import { isDisconnection } from "../xenstore.ts";
import { Attempts } from "./attempts.ts";
import type { CloseOptions } from "./close_options.ts";
import { type DeviceParts, reportLatch } from "./connect.ts";
import type { Exclusion, ImageQuery } from "../toolstack/sharing.ts";
import { CAN_BE_REFUSED, DeviceActions } from "./device_actions.ts";
import { DeviceError } from "./device_error.ts";
import { DeviceNodes, isRemoved, type Observation } from "./device_nodes.ts";
import { withEmptyDrive } from "./empty_drive.ts";
import type { Exchanged, ExchangeRequest } from "./exchange.ts";
import { ExchangeSlot } from "./exchange_slot.ts";
import { followImage } from "./followed_image.ts";
import { FrontendWatch } from "./frontend_watch.ts";
import { deviceLabel } from "./journals.ts";
import type { ChosenLive } from "./live_settings.ts";
import { imageSeen } from "./open_image.ts";
import { Pacer } from "./pacer.ts";
import type { DeviceServices } from "./resource_types.ts";
import { DeviceResources } from "./resources.ts";
import { RingInUse } from "./ring_in_use.ts";
import { Stall } from "./stall.ts";
import type { DeviceReport, DeviceStatus } from "./status.ts";
import { OverdueError } from "./waits.ts";

/** Looks that may follow one another at once, and the time between further ones. */
const LOOKS_AT_ONCE = 30;
const LOOK_INTERVAL_MS = 50;
/** Looks that may be needed to leave a device Closed at the end, and the time to wait after one that failed. */
const LAST_LOOKS = 20;
const LAST_LOOK_RETRY_MS = 100;

/** One device of one guest. */
export class BackendDevice {
  /** Which disk of which guest, in which backend. */
  readonly address: DeviceAddress;
  /** The backend's directory. */
  readonly path: string;
  /** `vbd3/5/51712`: kind, domid, virtual device. */
  readonly label: string;
  /** What is in front of its image, what {@linkcode change} changes, and its image. */
  readonly held: Pick<DeviceResources, "engine" | "filters" | "live" | "image" | "rings">;
  /** Resolves when the toolstack's removal is carried out: Closed and not online, or the directory is gone. */
  readonly retired: Promise<void>;
  /** Resolves when the guest is found to have ended, while there is a store that knows. */
  readonly guestGone: Promise<void>;
  /** Resolves when the directory is gone and everything is released. */
  readonly gone: Promise<void>;

  readonly #clock: Clock;
  readonly #place: Place;
  readonly #log: Logger;
  readonly #pacer: Pacer;
  readonly #error: DeviceError;
  readonly #resources: DeviceResources;
  readonly #parts: DeviceParts;
  readonly #actions: DeviceActions;
  readonly #attempts: Attempts;
  readonly #ringInUse: RingInUse;
  readonly #exchanges: ExchangeSlot;
  readonly #stop = new AbortController();
  readonly #retired = Promise.withResolvers<void>();
  readonly #guestGone = Promise.withResolvers<void>();
  readonly #gone = Promise.withResolvers<void>();
  /** There is nothing to detach: another process owns the device, or it was attached again. */
  readonly #notOurs = Promise.withResolvers<void>();

  #store: Xenstore | undefined;
  #nodes: DeviceNodes | undefined;
  /** See `proven` in the situation. */
  #proven = true;
  #intent: Intent = "serve";
  /** See `removalAsked` in the situation. */
  #removalAsked = false;
  #guestReleased = false;
  #watch: FrontendWatch | undefined;
  #dirty = false;
  #working: Promise<void> | undefined;
  #seen: Observation | undefined;
  #guestName: string | undefined;
  readonly #looked: () => void;
  #closing: Promise<void> | undefined;
  #draining = false;
  readonly #stall = new Stall();
  /** The report of storage that does not answer, until it has answered. */
  #overdue: string | undefined;

  /** Does nothing until it gets a store. */
  constructor(address: DeviceAddress, services: DeviceServices) {
    const { clock, logger, settings } = services;
    const { signal } = this.#stop;
    this.#looked = services.looked ?? ((): void => {});
    this.address = address;
    this.path = backendPath(address);
    this.label = deviceLabel(address);
    this.#clock = clock;
    this.#place = new Place(services.turns);
    const log = this.#log = labelled(logger, this.label);
    this.#pacer = new Pacer(clock, LOOKS_AT_ONCE, LOOK_INTERVAL_MS);
    const poke = (): void => this.poke();
    const error = this.#error = new DeviceError(log, labelled(services.alarms ?? logger, this.label));
    const answered = (): void => {
      this.#attempts.reset();
      this.poke();
    };
    const events = { ringStopped: poke, ringMoved: poke, answered, warn: (message: string) => log.warning(message) };
    const opening = { ...services, openDisk: withEmptyDrive(services.openDisk) };
    const resources = new DeviceResources(opening, this.label, address.frontendDomain, events, signal);
    this.held = this.#resources = resources;
    const findOtherGuest = async (query: ImageQuery): Promise<Exclusion | undefined> =>
      this.#store && services.findExcludingDisk &&
      await unlessAborted(services.findExcludingDisk(this.#store, address, query), signal);
    this.#parts = { resources, settings, error, log, findOtherGuest, announced: undefined };
    this.#actions = new DeviceActions(this.#parts);
    this.#ringInUse = new RingInUse(this.#parts, clock, signal, poke);
    this.#exchanges = new ExchangeSlot(clock, signal, poke);
    this.#attempts = new Attempts(clock, signal, () => {
      resources.lock.doubtOther();
      this.poke();
    });
    this.retired = this.#retired.promise;
    this.guestGone = this.#guestGone.promise;
    this.gone = this.#gone.promise;
  }

  /**
   * There is a connection to xenstored. `trusted` is false if it may have come back without its contents: then missing
   * nodes do not end a device that is being served.
   */
  attachStore(store: Xenstore, trusted: boolean): void {
    this.#store = store;
    this.#nodes = new DeviceNodes(store, this.address, this.#place);
    this.#proven = trusted;
    this.#attempts.reset();
    this.poke();
  }

  /** The connection is lost. The rings are still served. */
  detachStore(): void {
    this.#store = undefined;
    this.#nodes = undefined;
    this.#unwatch();
  }

  /** Something may have changed: look at the situation again soon. Costs nothing if a look is due already. */
  poke(): void {
    this.#dirty = true;
    if (this.#stop.signal.aborted || this.#nodes === undefined) return;
    this.#resources.waits.interrupt();
    this.#working ??= this.#work();
  }

  /** A node that others write may have changed. */
  touched(): void {
    this.#attempts.touched();
    this.poke();
  }

  /** Some domain has ended. If it is this device's guest, what its nodes say no longer counts. */
  domainReleased(): void {
    try {
      if (this.#nodes === undefined || this.#nodes.guestExists) return;
    } catch {
      // The look asks again, and is repeated if it fails.
    }
    this.#guestReleased = true;
    this.poke();
  }

  /** Changes weight or limits, and keeps them for the next process. Throws {@linkcode XenblkError} (usage). */
  change(changes: ChosenLive): void {
    this.held.live.change(changes, this.#nodes);
    this.poke();
  }

  /** What the device looks like now. */
  report(): DeviceReport {
    const { kind, frontendDomain, vdev } = this.address;
    const { image, connected, latch, lock, reactors } = this.#resources;
    const error = this.#error.message;
    const waitsFor = this.waitsFor;
    return {
      label: this.label,
      backendPath: this.path,
      kind,
      domain: frontendDomain,
      ...(this.#guestName !== undefined && { guest: this.#guestName }),
      vdev,
      name: formatVdev(vdev),
      backendState: stateName(this.#seen?.backendState ?? "gone"),
      frontendState: this.#guestReleased ? "domain gone" : stateName(this.#seen?.frontendState ?? "gone"),
      owned: lock.owner === "us",
      connected,
      ...(image && { image: image.disk.description }),
      ...(reactors.length > 0 && { reactors }),
      ...(error !== undefined && { error }),
      ...(waitsFor.length > 0 && { waitsFor }),
      latched: latch.tripped,
      ...this.held.live.report(),
    };
  }

  /** The same, and what it did. */
  status(): DeviceStatus {
    return { ...this.report(), ...this.#resources.counters.read() };
  }

  /** What storage has not done yet, and for how long. Empty if the device waits for no storage. */
  get waitsFor(): readonly string[] {
    return this.#resources.waits.pending;
  }

  /** The guest's time to close it is over, and requests are in flight. */
  get draining(): boolean {
    return this.#draining && this.#resources.counters.inFlight > 0;
  }

  /** Changes whenever a request is answered. */
  get progress(): number {
    return this.#resources.counters.progress;
  }

  /** To be called every few seconds: reports storage that has stopped answering, and takes the report back. */
  checkProgress(): void {
    const { connected, image } = this.#resources;
    const inFlight = connected ? this.#resources.counters.inFlight : 0;
    const name = image === undefined ? "its image" : image.disk.description;
    if (this.#stall.check(inFlight, this.progress, name, this.#clock.now())) this.poke();
  }

  /** See {@linkcode ExchangingDevice}. */
  get isExchanging(): boolean {
    return this.#exchanges.isBusy;
  }

  /** Gives the disk another image under its guest; see exchange.ts. Rejects with XenblkError if it keeps the old one. */
  exchange(request: ExchangeRequest): Promise<Exchanged> {
    return this.#exchanges.ask(request);
  }

  /** Stops serving: finishes what is in flight and releases everything. The options of the first call count. */
  close(options: CloseOptions): Promise<void> {
    return this.#closing ??= this.#close(options);
  }

  /** The kind bounds this: what hangs here goes on in the background and keeps the device's lock. */
  async #close({ leave, timeoutMs }: CloseOptions): Promise<void> {
    if (leave === "detached") await this.#detach(timeoutMs);
    this.#stop.abort();
    await this.#working;
    this.#draining = true;
    // What filters hold would keep it from being closed.
    if (leave === "detached" || await this.#isDetached()) this.held.filters.end();
    if (leave === "detached") await this.#detachNow();
    this.#unwatch();
    try {
      await this.#resources.finish(leave === "connected"); // guests wait for the next process
    } finally {
      this.#resources.disown(await this.#isDetached());
    }
  }

  /** Waits until the guest has closed the device, for the given time at most. */
  async #detach(timeoutMs: number): Promise<void> {
    if (this.#nodes === undefined || this.#stop.signal.aborted) return;
    this.#intent = "detach";
    this.poke();
    const timeout = new AbortController();
    await Promise.race([this.retired, this.#notOurs.promise, this.#clock.sleep(timeoutMs, timeout.signal)]);
    timeout.abort();
  }

  /** Leaves the device Closed whether the guest has closed it or not, once its rings are: that may take long. */
  async #detachNow(): Promise<void> {
    this.#intent = "detach-now";
    this.#claimUnknown();
    for (let looks = 0; looks < LAST_LOOKS && this.#nodes !== undefined;) {
      const outcome = await this.#look(this.#nodes);
      if (outcome === "idle" || outcome === "ended") return;
      if (outcome === "failed") await this.#clock.sleep(LAST_LOOK_RETRY_MS);
      if (outcome !== "failed" || !this.#resources.waits.overdue) looks++;
      this.#attempts.reset();
    }
    this.#log.warning("cannot complete the detachment; remove what is left with `xenblk detach`");
  }

  /** Nothing is written to a device that may be another process's. */
  #claimUnknown(): void {
    const { lock } = this.#resources;
    if (lock.owner !== "unknown") return;
    try {
      lock.claim();
    } catch (error) {
      this.#log.error(`Cannot detach it: its lock cannot be tested: ${errorText(error)}; it is left as it is`);
    }
  }

  /** The attachment is over: no process will serve this directory again. */
  async #isDetached(): Promise<boolean> {
    try {
      const seen = await this.#nodes?.observe();
      return seen !== undefined && (seen.backendState === "gone" || isRemoved(seen));
    } catch {
      return false; // the next process finds out
    }
  }

  async #work(): Promise<void> {
    this.#place.renew();
    while (this.#dirty && this.#nodes !== undefined) {
      if (await this.#pacer.admit(this.#stop.signal)) this.#place.renew(); // a guest that keeps it busy
      if (this.#stop.signal.aborted || this.#nodes === undefined) break;
      const nodes = this.#nodes;
      await this.#place.run(() => this.#look(nodes));
    }
    this.#working = undefined;
  }

  /** One look: the situation, the table's action, its outcome; undefined if the store was lost or the process ends. */
  async #look(nodes: DeviceNodes): Promise<Outcome | undefined> {
    this.#dirty = false;
    let action: Action | undefined;
    let outcome: Outcome | undefined;
    let fingerprint: string | undefined;
    let trusted = "";
    try {
      this.#attempts.begin();
      const seen = followImage(this.#parts, nodes, await this.#observe(nodes));
      this.held.live.keep(nodes);
      // What the guest cannot write: it must not make a device that fails try again at once.
      trusted = JSON.stringify([seen.backendState, seen.online, seen.params, this.#guestReleased, this.#intent]);
      const asText = async (): Promise<string> => JSON.stringify(seen) + await nodes.fingerprint(seen);
      const attempt = await this.#attempts.current(asText, trusted);
      const ours = {
        proven: this.#proven,
        owner: this.#resources.lock.owner,
        ring: this.#ringInUse.see(nodes, seen),
        image: imageSeen(this.#parts, seen),
        attempt,
        intent: this.#intent,
        removalAsked: this.#removalAsked,
      };
      action = decide({ ...seen, ...ours });
      const { backendState, frontendState } = seen;
      this.#log.debug(`frontend ${stateName(frontendState)}, backend ${stateName(backendState)}: ${action.kind}`);
      // Before it is tried: the nodes may have changed by the time it has failed.
      if (CAN_BE_REFUSED.has(action.kind)) fingerprint = await this.#attempts.situation(asText);
      outcome = this.#exchanges.mayFollow(action)
        ? await this.#exchanges.perform(this.#parts, nodes, seen)
        : await this.#actions.perform(action, nodes, seen);
      if (action.kind === "request-removal" && outcome === "done") this.#removalAsked = true;
      if (outcome === "idle") this.#reportStanding(nodes, seen, ours);
      const waitsForOthers = action.kind === "wait" && action.for !== "retry";
      if (action.kind !== "wait") this.#answered(nodes);
      if (outcome === "idle" || waitsForOthers) this.#error.recovered();
    } catch (error) {
      outcome = this.#failed(nodes, action, error);
    }
    if (outcome !== undefined) {
      this.#attempts.ended(outcome, outcome === "failed" ? trusted : fingerprint);
      this.#announce(outcome);
    }
    this.#looked();
    return outcome;
  }

  /** The nodes, and what they prove. */
  async #observe(nodes: DeviceNodes): Promise<Observation> {
    this.#exchanges.settle(nodes);
    let seen = await nodes.observe();
    if (this.#guestReleased) {
      this.#guestReleased = !nodes.guestExists; // a new domain may have got the number
      if (this.#guestReleased) seen = { ...seen, frontendState: "gone" };
    }
    // A guest that migrates gets its name late, but before it runs.
    if (this.#seen?.backendState !== seen.backendState && seen.backendState !== XenbusState.InitWait) {
      this.#guestName = nodes.guestName;
    }
    this.#seen = seen;
    this.#removalAsked ||= this.#intent !== "serve" && isRemovalAsked(seen);
    const complete = seen.backendState !== "gone" && seen.frontendState !== "gone";
    this.#proven ||= complete || !this.#resources.connected;
    if (this.#guestReleased && this.#proven) this.#guestGone.resolve();
    if (seen.backendState !== "gone") this.#watchFrontend(seen.frontendPath);
    return seen;
  }

  /** What is true at rest. Throws if xenstore fails. */
  #reportStanding(nodes: DeviceNodes, { hidden }: Observation, { image, owner }: { image: Image; owner: Owner }): void {
    if (owner !== "us") return;
    reportLatch(this.#parts, nodes);
    const text = this.#resources.image?.disk.trouble ?? this.#stall.text;
    if (text === undefined) this.#error.retract(nodes, "storage");
    else this.#error.report(nodes, "storage", text);
    if (image !== "changed") this.#error.retract(nodes, "change");
    if (!hidden) this.#error.retract(nodes, "hidden");
  }

  /** What follows from an outcome: another look, and promises that others wait for. */
  #announce(outcome: Outcome): void {
    if (outcome === "failed") return;
    if (outcome === "done" || outcome === "refused" || outcome === "busy") this.#dirty = true;
    const { owner } = this.#resources.lock;
    const attachedAgain = this.#removalAsked && this.#seen!.backendState === XenbusState.Initialising;
    if (this.#intent !== "serve" && (owner === "other" || owner === "unknown" || attachedAgain)) {
      this.#notOurs.resolve();
    }
    if ((outcome === "idle" || outcome === "waiting") && isRemoved(this.#seen!)) this.#retired.resolve();
    if (outcome === "ended") this.#end();
  }

  /** Undefined if it is no failure: the store link opens a lost connection again, or the process is being ended. */
  #failed(nodes: DeviceNodes, action: Action | undefined, error: unknown): "failed" | undefined {
    if (isAbort(error)) return undefined;
    if (error instanceof OverdueError) return this.#isOverdue(nodes, error);
    if (!isDisconnection(error)) {
      const what = action === undefined ? "look at" : action.kind;
      this.#error.failed(`cannot ${what} ${this.path}: ${errorText(error)}; it will be retried`);
      return "failed";
    }
    if (this.#nodes === nodes) this.#nodes = undefined;
    this.#dirty = true;
    return undefined;
  }

  /** The device looks again when the storage has answered, and tries again meanwhile. */
  #isOverdue(nodes: DeviceNodes, error: OverdueError): "failed" {
    this.#overdue = errorText(error);
    try {
      this.#error.report(nodes, "attempt", this.#overdue);
    } catch (failure) {
      this.#error.failed(`cannot write to ${this.path}: ${errorText(failure)}`);
    }
    return "failed";
  }

  /** Takes back the report of storage that has answered since, unless there is another error by now. */
  #answered(nodes: DeviceNodes): void {
    if (this.#resources.waits.overdue) return;
    if (this.#overdue !== undefined && this.#error.about("attempt") === this.#overdue) {
      this.#error.retract(nodes, "attempt");
    }
    this.#overdue = undefined;
  }

  #end(): void {
    this.#stop.abort();
    try {
      this.#resources.disown(true);
    } catch (error) {
      this.#log.warning(`cannot remove its files beside the journals: ${errorText(error)}`);
    }
    this.#unwatch();
    this.#retired.resolve();
    this.#gone.resolve();
  }

  #watchFrontend(path: string): void {
    if (this.#watch?.path === path || this.#store === undefined) return;
    this.#unwatch();
    const changed = (node: string): void => {
      if (node !== `${path}/state`) this.#ringInUse.touched();
      this.touched();
    };
    this.#watch = new FrontendWatch({ store: this.#store, path, clock: this.#clock, changed, log: this.#log });
  }

  #unwatch(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }
}
