/**
 * The toolstack's side of one guest with one disk: creates the guest and attaches the disk, asks for its removal,
 * cleans up after a guest that died, and creates another guest in its place.
 */

import type { DomId, Xenstore } from "../../lib/hypervisor.ts";
import { destroyDomain, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { SimulatedStore } from "../../lib/sim/xenstore.ts";
import { attachDevice, removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { parseState, XenbusState } from "../../lib/xenbus/states.ts";
import type { DiskWatch } from "./disk_watch.ts";
import { Guest, type GuestOptions } from "./guest.ts";
import type { GuestConnection } from "./guest_connection.ts";
import type { JournalAccount } from "./process_platform.ts";

/** The host, which a power failure replaces. */
export interface Host {
  readonly machine: SharedArrayBuffer;
  readonly store: SimulatedStore;
  /** Journals of the backend's processes. */
  readonly journals: JournalAccount;
}

/** Options of a {@linkcode Slot}. */
interface SlotOptions extends Pick<GuestOptions, "run" | "defaultAbi" | "hostility"> {
  /** Domain ids that its guests may have. */
  readonly domains: readonly DomId[];
  readonly watch: DiskWatch;
  readonly host: () => Host;
  /** Whether the backend serves a ring of the domain. */
  readonly serves: (domain: DomId) => boolean;
}

/** A connection that the guest does not use any more, but the backend may. */
interface Dropped {
  readonly domain: DomId;
  readonly connection: GuestConnection;
  /** To call when the backend does not use it any more either; undefined: its grants are revoked already. */
  readonly release: (() => void) | undefined;
}

/** Connections that a guest has dropped and keeps pages for; see the machine's grants. */
const MOST_DROPPED = 2;
const DOMAIN_0 = 0 as DomId;

/** A place for one guest with one disk. */
export class Slot {
  readonly watch: DiskWatch;
  readonly #options: SlotOptions;
  #guest: Guest | undefined;
  #address: DeviceAddress | undefined;
  #alive = false;
  #retired = false;
  #domain: DomId;
  /** Connections that the guest dropped and the backend may still serve. */
  #dropped: Dropped[] = [];

  constructor(options: SlotOptions) {
    this.#options = options;
    this.watch = options.watch;
    this.#domain = options.domains[0]!;
  }

  get guest(): Guest | undefined {
    return this.#guest;
  }

  /** Its device, while it is attached. */
  get address(): DeviceAddress | undefined {
    return this.#address;
  }

  /** Domain id of its guest, or of the last one. */
  get domain(): DomId {
    return this.#domain;
  }

  /** Whether the backend serves a ring of its guest. */
  get isServed(): boolean {
    return this.#options.serves(this.#domain);
  }

  /** The guest dies, and no other is created. */
  retire(): void {
    this.#retired = true;
    this.kill();
  }

  /** The toolstack does the next thing, if any. Throws XenstoreError without xenstore. */
  toolstackStep(): void {
    if (this.#address === undefined) {
      return this.#retired || this.#isRevoked || this.#hasNoRoom ? undefined : this.#attach();
    }
    using store = this.#connect();
    const path = backendPath(this.#address);
    const state = parseState(store.read(`${path}/state`));
    const removing = !this.#alive || store.read(`${path}/online`) === "0";
    if (!this.#alive && state !== "gone" && store.read(`${path}/online`) === "1") requestRemoval(store, path);
    else if (state === "gone" || (removing && state === XenbusState.Closed)) this.remove();
  }

  /**
   * The guest revoked grants that the backend still uses. A new device must not reuse their references before the
   * backend has stopped: it would read or overwrite other pages, by the guest's own fault.
   */
  get #isRevoked(): boolean {
    return this.#alive &&
      this.#dropped.some(({ domain, release }) => release === undefined && domain === this.#domain);
  }

  /** The guest has kept the pages of earlier connections that the backend still serves: it has none for another. */
  get #hasNoRoom(): boolean {
    return this.#dropped.filter(({ domain }) => domain === this.#domain).length >= MOST_DROPPED;
  }

  /** Asks the backend to remove the device. */
  requestRemoval(): void {
    if (this.#address === undefined) return;
    using store = this.#connect();
    this.#options.run.faults.count("device detached");
    requestRemoval(store, backendPath(this.#address));
  }

  /** Removes the device's nodes, whether the backend is Closed or not. */
  remove(): void {
    if (this.#address === undefined) return;
    using store = this.#connect();
    removeDevice(store, this.#address);
    this.#address = undefined;
    if (this.#guest?.phase !== "gone") this.#guest?.loseDevice();
    this.#guest = undefined;
  }

  /** The guest dies, whatever it is doing. Throws XenstoreError without xenstore. */
  kill(): void {
    if (!this.#alive) return;
    const { machine, store } = this.#options.host();
    this.#connect()[Symbol.dispose]();
    this.#options.run.faults.count("guest death");
    this.#options.run.note("guest dies", this.#domain);
    this.#guest?.die();
    destroyDomain(machine, this.#domain);
    store.releaseDomain(this.#domain);
    this.#alive = false;
  }

  /** The backend serves no ring of the domain any more: dropped connections can be released. */
  released(domain: DomId): void {
    const over = this.#dropped.filter((dropped) => dropped.domain === domain);
    this.#dropped = this.#dropped.filter((dropped) => dropped.domain !== domain);
    for (const { connection, release } of over) {
      connection.abandon();
      release?.();
    }
  }

  /** Everything is lost but the disks. */
  powerFailed(): void {
    for (const { connection } of this.#dropped.splice(0)) connection.abandon();
    this.#guest?.connection?.abandon();
    this.#guest = undefined;
    this.#address = undefined;
    this.#alive = false;
  }

  #connect(): Xenstore {
    return this.#options.host().store.connect(DOMAIN_0);
  }

  #attach(): void {
    const { run, host, domains, watch, defaultAbi, hostility, serves } = this.#options;
    const { machine, store } = host();
    using connection = this.#connect();
    if (!this.#alive) {
      // A domain id is reused, but not while the backend still serves its last domain.
      this.#domain = run.decisions.pick(domains.filter((domain) => !serves(domain)));
      store.createGuest(this.#domain);
      this.#alive = true;
    }
    const domain = this.#domain;
    const { name, properties: { readOnly } } = watch.disk;
    const request = { domain, backendDomain: DOMAIN_0, kind: "vbd3", params: name, readOnly, cdrom: false };
    const address = this.#address = attachDevice(connection, { ...request, vdev: "xvda" });
    watch.attachedAnew();
    run.note("attach", domain);
    this.#guest = new Guest({
      run,
      platform: openSimulatedPlatform(machine, domain),
      connect: () => store.connect(domain),
      address,
      watch,
      defaultAbi,
      hostility,
      served: () => serves(domain),
      dropped: (connection, release) => this.#drop({ domain, connection, release }),
    });
  }

  #drop(dropped: Dropped): void {
    this.#dropped.push(dropped);
    if (!this.#options.serves(dropped.domain)) this.released(dropped.domain);
  }
}
