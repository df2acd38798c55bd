/**
 * The devices of one backend kind in this process: finds them in xenstore as they come and go, tells each when its
 * nodes change or xenstore is lost and found again, and closes them all together.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import type { DataPlane } from "../dataplane/types.ts";
import { errorText } from "../errors.ts";
import type { DomId, JournalStore, Xenstore, XenstoreWatch } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import { LogLimiter } from "../rate_limit.ts";
import type { Disk, DiskRequest } from "../storage/disk.ts";
import type { LiveFilter } from "../storage/filter/stack.ts";
import type { ImageLocks } from "../storage/image/lock.ts";
import {
  backendKindPath,
  backendPath,
  type DeviceAddress,
  deviceDirectory,
  parseBackendPath,
  parseDomId,
} from "../xenbus/paths.ts";
import { Turns } from "../turns.ts";
import { isDisconnection, readAll } from "../xenstore.ts";
import { Backoff } from "./backoff.ts";
import type { ExcludingDiskFinder } from "../toolstack/sharing.ts";
import type { ExpectedDevice } from "./claim.ts";
import type { CloseOptions } from "./close_options.ts";
import type { ExchangingDevice, HeldDevice } from "./exchange.ts";
import { BackendDevice } from "./device.ts";
import { TOOLSTACK_NODES } from "./device_nodes.ts";
import { guestName } from "./guest_nodes.ts";
import { identifyDisk, type SettingsRule } from "./disk_identity.ts";
import { isDeviceGone, sweepLeftovers } from "./leftovers.ts";
import { type ChosenLive, LIVE_NODE, parseLive } from "./live_settings.ts";
import { type DeviceSettings, withOwn } from "./settings.ts";
import type { DeviceReport, DeviceStatus, StuckDevice } from "./status.ts";
import { StoreLink } from "./store_link.ts";

/** What a set of devices is made of. */
export interface BackendKindOptions {
  /** Which directory below `backend/` is served, such as `vbd3`. */
  readonly kind: string;
  /** The one device to serve; absent: all of the kind. */
  readonly only?: DeviceAddress;
  /** Opens a connection to xenstored, or throws; called again whenever the connection was lost. */
  readonly openXenstore: () => Xenstore;
  /** Serves the rings; outlives this. */
  readonly dataPlane: DataPlane;
  /** Opens a device's image, or rejects with what its error node shall say. */
  readonly openDisk: (request: DiskRequest) => Promise<Disk>;
  /**
   * Ends what earlier processes left running of devices that are gone, such as storage daemons. `isGone` judges a device
   * by its label. Resolves with a line about each. Absent: nothing is left running.
   */
  readonly endLeftovers?: (isGone: (label: string) => boolean) => Promise<string[]>;
  /** Locks images while a guest uses them; absent: images are not locked. */
  readonly imageLocks?: ImageLocks;
  /** Searches the disks of other guests of this host; absent: whoever holds an image's lock is waited for. */
  readonly findExcludingDisk?: ExcludingDiskFinder;
  /** What outlives this process: locks and latches of devices, and journals of rings. */
  readonly journals: JournalStore;
  /** Rings have journals. Absent: they do; false: a crash of this process loses the requests in flight. */
  readonly keepJournals?: boolean;
  /** For all devices alike, unless there is a rule. */
  readonly settings: DeviceSettings;
  /** The settings of each device, in place of `settings`; asked once, when the device appears. */
  readonly settingsFor?: SettingsRule;
  /** Called with the name of a device's guest when the device is found. Absent: nobody needs the names. */
  readonly guestFound?: (domain: DomId, name: string) => void;
  /** Gets what filters hold open, while they do. */
  readonly holds?: Set<AsyncDisposable>;
  /** Gets all lines; those that a guest causes are limited per guest. */
  readonly logger: Logger;
  /** Absent: this process's. */
  readonly clock?: Clock;
}

/** How long devices that were given up may take to finish what their filters held. */
const FILTERS_MS = 2_000;
/** How often it is looked whether devices that are closing make progress. */
const STALL_LOOK_MS = 500;
/** Devices that are named in one line of the log. */
const NAMED_LEFTOVERS = 8;

/** The domain that this process runs in, as its own node `domid` says; domain 0 has none in old toolstacks. */
export function ownDomain(store: Xenstore): DomId {
  return parseDomId(store.read("domid") ?? "0") ?? 0 as DomId;
}

/** All devices of a kind, or the one that is to be served. */
export class BackendKind {
  readonly #options: BackendKindOptions;
  readonly #clock: Clock;
  readonly #turns: Turns;
  readonly #limiter: LogLimiter;
  readonly #devices = new Map<string, BackendDevice>();
  readonly #expected = new Map<string, ExpectedDevice>();
  readonly #link: StoreLink;
  readonly #onlyRetired = Promise.withResolvers<void>();
  readonly #onlyBereft = Promise.withResolvers<void>();
  readonly #listeners = new Set<(path: string) => void>();
  readonly #discovered = Promise.withResolvers<void>();
  #store: Xenstore | undefined;
  #watches: XenstoreWatch[] = [];
  #domain = 0 as DomId;
  #closing: Promise<boolean> | undefined;
  #stuck: readonly StuckDevice[] = [];
  readonly #stop = new AbortController();
  readonly #backoff = new Backoff();
  /** Why discovering failed, until everything was discovered again: each reason is logged once. */
  readonly #failures = new Set<string>();
  #discoversLater = false;

  /** Connects to xenstore and starts serving what is there. Throws what `openXenstore` throws. */
  constructor(options: BackendKindOptions) {
    this.#options = options;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#turns = new Turns(this.#clock);
    this.#limiter = new LogLimiter(options.logger, () => this.#clock.now());
    this.#link = new StoreLink({
      openXenstore: options.openXenstore,
      connected: (store, again) => this.#connected(store, again),
      lost: () => this.#lost(),
      clock: this.#clock,
      logger: options.logger,
    });
  }

  /** Resolves when the one device that is served was removed by the toolstack; never where all of a kind are served. */
  get retired(): Promise<void> {
    return this.#onlyRetired.promise;
  }

  /**
   * Resolves when the guest of the one device that is served has ended, also if it did while xenstored was away; never
   * where all of a kind are served.
   */
  get guestGone(): Promise<void> {
    return this.#onlyBereft.promise;
  }

  /** Resolves when the devices that were there at the start have been found. */
  get discovered(): Promise<void> {
    return this.#discovered.promise;
  }

  /** What each device looks like now. */
  reports(): DeviceReport[] {
    return [...this.#devices.values()].map((device) => device.report());
  }

  /** The same, and what it did. */
  status(): DeviceStatus[] {
    return [...this.#devices.values()].map((device) => device.status());
  }

  /** What one looks like, by the backend's directory. Undefined if there is no such device. */
  reportOf(path: string): DeviceReport | undefined {
    return this.#devices.get(path)?.report();
  }

  /** Calls the listener with the directory of each device that may have changed, until the result is disposed. */
  onChange(listener: (path: string) => void): Disposable {
    const own = (path: string): void => listener(path);
    this.#listeners.add(own);
    return { [Symbol.dispose]: (): void => void this.#listeners.delete(own) };
  }

  /** A device with its own settings will appear. It is forgotten when it is gone. */
  expect(address: DeviceAddress, expected: ExpectedDevice): void {
    this.#expected.set(backendPath(address), expected);
  }

  /** The device has not appeared and will not. */
  forget(address: DeviceAddress): void {
    this.#expected.delete(backendPath(address));
  }

  /** As the devices of the kind are served, but for those with their own settings. */
  get settings(): DeviceSettings {
    return this.#options.settings;
  }

  #release(path: string): void {
    this.#expected.get(path)?.claim[Symbol.dispose]();
    this.#expected.delete(path);
  }

  #announce(path: string): void {
    for (const listener of this.#listeners) listener(path);
  }

  /** The filters in front of a device's disk, from the guest to the disk; none if its image was not opened yet. */
  filtersOf(address: DeviceAddress): readonly LiveFilter[] {
    return this.#devices.get(backendPath(address))?.held.filters.filters ?? [];
  }

  /** A device, for an exchange of its image. Undefined if there is no such device. */
  find(address: DeviceAddress): ExchangingDevice | undefined {
    return this.#devices.get(backendPath(address));
  }

  /** Changes a device's weight or limits, if there is such a device. Throws {@linkcode XenblkError} (usage). */
  change(address: DeviceAddress, changes: ChosenLive): void {
    this.#devices.get(backendPath(address))?.change(changes);
  }

  /** A device's weight and limits, and its open image. Undefined if there is no such device. */
  heldBy(address: DeviceAddress): HeldDevice | undefined {
    return this.#devices.get(backendPath(address))?.held;
  }

  /** To be called every few seconds: devices whose storage has stopped answering report that. */
  checkProgress(): void {
    for (const device of this.#devices.values()) device.checkProgress();
  }

  /** After {@linkcode close}: the devices that were given up. */
  get stuck(): readonly StuckDevice[] {
    return this.#stuck;
  }

  /**
   * Closes all devices at once and the connection to xenstore. Each device is drained, unmapped and unlocked by itself,
   * whatever the others wait for. False, with a line in the log for each, if some were given up: they had not finished
   * `graceMs` after the guests' time to close was over, or all that were left had requests in flight and none had answered
   * any for `stallMs`.
   * They go on in the background. The first call counts.
   */
  close(options: CloseOptions, graceMs: number, stallMs = Infinity): Promise<boolean> {
    return this.#closing ??= this.#close(options, graceMs, stallMs);
  }

  async #close(options: CloseOptions, graceMs: number, stallMs: number): Promise<boolean> {
    this.#stop.abort();
    const open = new Set(this.#devices.values());
    const closing = Promise.all([...open].map(async (device) => {
      try {
        await device.close(options);
      } catch (error) {
        this.#options.logger.error(`${device.label}: cannot close cleanly: ${errorText(error)}`);
      }
      this.#release(device.path);
      open.delete(device);
    }));
    const over = new AbortController();
    const limitMs = graceMs + (options.leave === "detached" ? options.timeoutMs : 0);
    await Promise.race([closing, this.#clock.sleep(limitMs, over.signal), this.#stalled(open, stallMs, over.signal)]);
    over.abort();
    await this.#giveUp(open, closing);
    this.#stuck = [...open].map(({ label, waitsFor }) => ({
      label,
      reason: waitsFor.join("; ") || "it has not closed",
    }));
    for (const { label, reason } of this.#stuck) this.#options.logger.error(`${label}: given up: cannot ${reason}`);
    await this.#link[Symbol.asyncDispose]();
    return open.size === 0;
  }

  /** What filters hold goes on now, and may be all that a device had in flight. */
  async #giveUp(open: ReadonlySet<BackendDevice>, closing: Promise<unknown>): Promise<void> {
    if (![...open].some(({ held }) => held.filters.mayHold)) return;
    for (const device of open) device.held.filters.end();
    const over = new AbortController();
    await Promise.race([closing, this.#clock.sleep(FILTERS_MS, over.signal)]);
    over.abort();
  }

  /** Resolves when all devices have had requests in flight for so long without any answer; never after the signal. */
  async #stalled(open: ReadonlySet<BackendDevice>, stallMs: number, signal: AbortSignal): Promise<void> {
    let before = "";
    for (let sinceMs = this.#clock.now(); stallMs < Infinity;) {
      const devices = [...open];
      const now = JSON.stringify(devices.map(({ label, draining, progress }) => [label, draining, progress]));
      if (now !== before || !devices.every(({ draining }) => draining)) sinceMs = this.#clock.now();
      else if (this.#clock.now() - sinceMs >= stallMs) return;
      before = now;
      await this.#clock.sleep(STALL_LOOK_MS, signal);
      if (signal.aborted) break;
    }
    return await new Promise(() => {});
  }

  /** The directory under which everything that concerns us changes. */
  get #root(): string {
    const { only, kind } = this.#options;
    return only === undefined ? backendKindPath(this.#domain, kind) : backendPath(only);
  }

  #connected(store: Xenstore, again: boolean): void {
    this.#store = store;
    this.#domain = ownDomain(store);
    if (!again) {
      this.#sweep(store);
      void this.#endLeftovers(store);
    }
    const trusted = !again || this.#keptItsContents(store);
    if (!trusted) {
      this.#options.logger.warning(
        "xenstored has lost the nodes of the disks: they are served on, but no tool sees them",
      );
    }
    for (const device of this.#devices.values()) device.attachStore(store, trusted);
    this.#follow(store.watch(this.#root), (path) => this.#changed(path));
    if (
      this.#options.only !== undefined && this.#devices.size === 0 && store.read(`${this.#root}/state`) === undefined
    ) {
      this.#options.logger.info(`waiting for ${this.#root}: there is no such device yet`);
    }
    this.#follow(store.watch("@releaseDomain"), () => void this.#domainReleased());
  }

  async #domainReleased(): Promise<void> {
    for (const device of [...this.#devices.values()]) await this.#turns.run(() => device.domainReleased());
  }

  /** Removes what is left of devices that were removed while no process served them. A failure does no harm. */
  #sweep(store: Xenstore): void {
    const { logger, journals } = this.#options;
    try {
      const swept = sweepLeftovers(journals, store, this.#domain);
      if (swept.length === 0) return;
      const named = swept.slice(0, NAMED_LEFTOVERS).join(", ") + (swept.length > NAMED_LEFTOVERS ? " and others" : "");
      logger.info(`removed what earlier processes left of ${swept.length} devices that are gone: ${named}`);
    } catch (error) {
      if (isDisconnection(error)) throw error;
      logger.warning(`cannot remove what earlier processes left of devices that are gone: ${errorText(error)}`);
    }
  }

  /** The same of what still runs. It is not waited for. */
  async #endLeftovers(store: Xenstore): Promise<void> {
    const { logger, endLeftovers } = this.#options;
    try {
      const isGone = (label: string): boolean => isDeviceGone(this.#store ?? store, this.#domain, label);
      for (const line of await endLeftovers?.(isGone) ?? []) logger.info(line);
    } catch (error) {
      logger.warning(`cannot end what earlier processes left of devices that are gone: ${errorText(error)}`);
    }
  }

  #lost(): void {
    this.#store = undefined;
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
    for (const device of this.#devices.values()) device.detachStore();
  }

  /** Whether a store that was lost still has any device, or any guest's directory, that we know. */
  #keptItsContents(store: Xenstore): boolean {
    const known = [...this.#devices.values()];
    return known.length === 0 ||
      known.some(({ path, address: { frontendDomain } }) =>
        store.read(`${path}/state`) !== undefined ||
        // Our own domain's directory is there even in an empty store.
        (frontendDomain !== this.#domain && store.read(store.domainPath(frontendDomain)) !== undefined)
      );
  }

  #follow(watch: XenstoreWatch, changed: (path: string) => void): void {
    this.#watches.push(watch);
    const follow = async (): Promise<void> => {
      for await (const path of watch) changed(path);
    };
    follow().catch((error) =>
      this.#options.logger.error(
        `cannot watch xenstore: ${errorText(error)}; restart this process, or it will miss new disks`,
      )
    );
  }

  /** A node changed: pokes the devices at, above or below it, and looks for new ones. */
  #changed(path: string): void {
    const directory = this.#options.only === undefined ? deviceDirectory(this.#root, path) : this.#root;
    const device = directory === undefined ? undefined : this.#devices.get(directory);
    if (device !== undefined && path !== directory) {
      if (TOOLSTACK_NODES.has(path.slice(device.path.length + 1))) device.touched();
      return;
    }
    const below = directory === undefined ? this.#devices.values() : [];
    for (const each of [device, ...below]) if (`${each?.path}/`.startsWith(`${path}/`)) each?.touched();
    void this.#discover(path);
  }

  /** Adopts every device at, above or below the path that we have not yet. What fails is repeated later. */
  async #discover(path: string): Promise<void> {
    const store = this.#store;
    let complete = store !== undefined;
    const attempt = async (path: string, act: (store: Xenstore) => void): Promise<void> =>
      await this.#turns.run(() => {
        if (store === undefined || this.#store !== store || this.#closing !== undefined) complete = false;
        else complete = this.#attempt(path, () => act(store)) && complete;
      });
    const adopt = async (path: string): Promise<void> => {
      const address = this.#addressOf(path);
      if (address !== undefined) await attempt(path, (store) => this.#adopt(store, address));
    };
    const childrenOf = async (path: string, child: string | undefined): Promise<string[]> => {
      let names = child === undefined || child === "" ? [] : [child];
      if (names.length === 0) await attempt(path, (store) => names = store.list(path) ?? []);
      return names.map((name) => `${path}/${name}`);
    };
    const { only } = this.#options;
    if (only !== undefined) await adopt(backendPath(only));
    else {
      const [domain, vdev] = path.slice(this.#root.length + 1).split("/");
      for (const guest of await childrenOf(this.#root, domain)) {
        for (const device of await childrenOf(guest, vdev)) await adopt(device);
      }
    }
    if (!complete || path !== this.#root) return;
    this.#discovered.resolve();
    this.#failures.clear();
    this.#backoff.reset();
  }

  /** False if it failed; then everything is discovered again later. A lost connection is reported by the link. */
  #attempt(path: string, act: () => void): boolean {
    try {
      act();
      return true;
    } catch (error) {
      if (!isDisconnection(error)) this.#discoverLater(`cannot look at ${path}: ${errorText(error)}`);
      return false;
    }
  }

  #discoverLater(failure: string): void {
    if (!this.#failures.has(failure)) this.#options.logger.error(`${failure}; it will be retried`);
    this.#failures.add(failure);
    if (this.#discoversLater) return;
    this.#discoversLater = true;
    void this.#clock.sleep(this.#backoff.next(), this.#stop.signal).then(() => {
      this.#discoversLater = false;
      void this.#discover(this.#root);
    });
  }

  /** Undefined for a directory that does not belong to a device: it is left alone. */
  #addressOf(path: string): DeviceAddress | undefined {
    try {
      return parseBackendPath(path, this.#domain);
    } catch {
      return undefined;
    }
  }

  /** Starts to serve a device, once it has a state. */
  #adopt(store: Xenstore, address: DeviceAddress): void {
    const path = backendPath(address);
    if (this.#devices.has(path)) return;
    const [state, live] = readAll(store, [`${path}/state`, `${path}/${LIVE_NODE}`]);
    if (state === undefined) return;
    const { dataPlane, openDisk, imageLocks, journals, keepJournals, holds, findExcludingDisk, guestFound } =
      this.#options;
    const general = this.#options.settingsFor?.(identifyDisk(store, address)) ?? this.#options.settings;
    const expected = this.#expected.get(path);
    const chosen = parseLive(live);
    const name = guestFound && guestName(store, address.frontendDomain);
    if (name !== undefined) guestFound?.(address.frontendDomain, name);
    const logger = this.#limiter.forGuest(address.frontendDomain);
    const device = new BackendDevice(address, {
      dataPlane,
      openDisk,
      ...(imageLocks && { imageLocks }),
      ...(holds && { holds }),
      journals: expected?.claim.journals ?? journals,
      keepJournals: keepJournals ?? true,
      settings: withOwn(general, expected?.settings ?? {}, chosen),
      chosen,
      logger,
      alarms: this.#options.logger,
      ...(findExcludingDisk && { findExcludingDisk }),
      clock: this.#clock,
      turns: this.#turns,
      looked: () => this.#announce(path),
    });
    this.#devices.set(path, device);
    if (this.#options.only !== undefined) {
      device.retired.then(this.#onlyRetired.resolve);
      device.guestGone.then(this.#onlyBereft.resolve);
    }
    device.gone.then(() => this.#drop(device));
    device.attachStore(store, true);
  }

  /** The device's directory is gone; a new one may be in its place already. */
  #drop(device: BackendDevice): void {
    this.#devices.delete(device.path);
    this.#release(device.path);
    this.#announce(device.path);
    const guest = device.address.frontendDomain;
    const others = [...this.#devices.values()].some((other) => other.address.frontendDomain === guest);
    if (!others) this.#limiter.forget(guest);
    if (this.#store !== undefined) void this.#endLeftovers(this.#store);
    void this.#discover(device.path);
  }
}
