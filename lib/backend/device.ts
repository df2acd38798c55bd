/**
 * One device: brings its xenstore nodes, its image and its rings to where the transition table wants them. It is
 * level-triggered: whatever changes, it looks at the whole situation again, one look at a time and a bounded number of
 * looks per second, and acts on what it then finds. How rings are served and disks are read is not known here.
 */

import { isAbort } from "../abort.ts";
import type { Clock } from "../clock.ts";
import { sumStats } from "../dataplane/stats.ts";
import { errorText } from "../errors.ts";
import type { Xenstore, XenstoreWatch } from "../hypervisor.ts";
import { labelled, type Logger } from "../log.ts";
import { requestRemoval } from "../toolstack/removal.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import { stateName, XenbusState } from "../xenbus/states.ts";
import { decide } from "../xenbus/transitions.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { isDisconnection } from "../xenstore.ts";
import { DeviceActions } from "./device_actions.ts";
import { DeviceNodes, type Observation } from "./device_nodes.ts";
import { deviceLabel } from "./journals.ts";
import { Pacer } from "./pacer.ts";
import { growDisk } from "./resize.ts";
import { DeviceResources, type ResourceServices } from "./resources.ts";
import type { DeviceStatus } from "./status.ts";

/** What a device uses of the rest of the process. */
export interface DeviceServices extends ResourceServices {
  /** For lines that the guest can cause: limited per guest. */
  readonly logger: Logger;
}

/** How a device is left when its process stops serving it. */
export interface CloseOptions {
  /**
   * `connected`: the nodes stay as they are, so that the next process attaches again and the guest sees a pause.
   * `detached`: the guest is asked to let go, and the device ends Closed.
   */
  readonly leave: "connected" | "detached";
  /** How long the guest may take to let go. */
  readonly timeoutMs: number;
}

/** Looks that may follow one another at once, and the time between further ones. */
const LOOKS_AT_ONCE = 30;
const LOOK_INTERVAL_MS = 50;
/** How often a device, or an image, that another process has is looked at: nobody tells when that one ends. */
const OTHERS_INTERVAL_MS = 1000;

/** One device of one guest. */
export class BackendDevice {
  /** Which disk of which guest, in which backend. */
  readonly address: DeviceAddress;
  /** The backend's directory. */
  readonly path: string;
  /** `vbd3/5/51712`: kind, domid, virtual device. */
  readonly label: string;
  /** Resolves when the toolstack's removal is carried out: Closed and not online, or the directory is gone. */
  readonly retired: Promise<void>;
  /** Resolves when the guest is found to have ended, while there is a store that knows. */
  readonly guestGone: Promise<void>;
  /** Resolves when the directory is gone and everything is given back. */
  readonly gone: Promise<void>;

  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #pacer: Pacer;
  readonly #resources: DeviceResources;
  readonly #actions: DeviceActions;
  readonly #stop = new AbortController();
  readonly #resolveRetired: () => void;
  readonly #resolveGuestGone: () => void;
  readonly #resolveGone: () => void;

  #store: Xenstore | undefined;
  #nodes: DeviceNodes | undefined;
  /** The store came back empty: that nodes are missing proves nothing until they have been seen again. */
  #unproven = false;
  #guestReleased = false;
  #watch: { readonly path: string; readonly watch: XenstoreWatch } | undefined;
  #dirty = false;
  #working: Promise<void> | undefined;
  #seen: Observation | undefined;
  #closing: Promise<void> | undefined;
  #waitsForOthers = false;

  /** Does nothing until it gets a store. */
  constructor(address: DeviceAddress, services: DeviceServices) {
    this.address = address;
    this.path = backendPath(address);
    this.label = deviceLabel(address);
    this.#clock = services.clock;
    this.#log = labelled(services.logger, this.label);
    this.#pacer = new Pacer(services.clock, LOOKS_AT_ONCE, LOOK_INTERVAL_MS);
    this.#resources = new DeviceResources(services, this.label, address.frontendDomain, (reason) => {
      this.#actions.ringStopped(reason);
      this.poke();
    }, this.#stop.signal);
    this.#actions = new DeviceActions(this.#resources, services.settings, this.#log);
    const retired = Promise.withResolvers<void>();
    const guestGone = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    this.retired = retired.promise;
    this.guestGone = guestGone.promise;
    this.gone = gone.promise;
    this.#resolveRetired = retired.resolve;
    this.#resolveGuestGone = guestGone.resolve;
    this.#resolveGone = gone.resolve;
  }

  /**
   * There is a connection to xenstored. `trusted` is false if it may have come back without its contents: then missing
   * nodes do not end a device that is being served.
   */
  attachStore(store: Xenstore, trusted: boolean): void {
    this.#store = store;
    this.#nodes = new DeviceNodes(store, this.address);
    this.#unproven = !trusted;
    this.poke();
  }

  /** The connection is lost. What is served goes on being served. */
  detachStore(): void {
    this.#store = undefined;
    this.#nodes = undefined;
    this.#unwatch();
  }

  /** Something may have changed: look at the situation again soon. Costs nothing if that is due already. */
  poke(): void {
    this.#dirty = true;
    if (this.#stop.signal.aborted || this.#nodes === undefined) return;
    this.#working ??= this.#work();
  }

  /** Some domain has ended. If it is this device's guest, what its nodes say no longer counts. */
  domainReleased(): void {
    if (this.#nodes === undefined || this.#nodes.guestExists) return;
    this.#guestReleased = true;
    this.poke();
  }

  /** What the device looks like now. */
  status(): DeviceStatus {
    const { kind, frontendDomain, vdev } = this.address;
    const { disk, connected, latched } = this.#resources;
    const { error } = this.#actions;
    const queues = this.#resources.readStats();
    return {
      label: this.label,
      backendPath: this.path,
      kind,
      domain: frontendDomain,
      vdev,
      name: formatVdev(vdev),
      backendState: stateName(this.#seen?.backendState ?? "gone"),
      frontendState: stateName(this.#seen?.frontendState ?? "gone"),
      connected,
      ...(disk === undefined ? {} : { image: disk.description }),
      ...(error === undefined ? {} : { error }),
      latched,
      totals: sumStats(queues),
      queues,
    };
  }

  /** Stops serving: finishes what is in flight and gives everything back. Of several calls the first one counts. */
  close(options: CloseOptions): Promise<void> {
    return this.#closing ??= this.#close(options);
  }

  async #close(options: CloseOptions): Promise<void> {
    if (options.leave === "detached") await this.#detach(options.timeoutMs);
    this.#stop.abort();
    await this.#working;
    await this.#resources.release();
    if (options.leave === "detached" && !this.#actions.isOthers) this.#leaveClosed();
    if (!this.#actions.isOthers && this.#isDetached()) this.#resources.forgetLatch();
    this.#resources.disown();
    this.#unwatch();
  }

  /** Asks for removal and waits, but not for ever, until it is carried out. */
  async #detach(timeoutMs: number): Promise<void> {
    if (this.#store === undefined || this.#stop.signal.aborted) return;
    try {
      requestRemoval(this.#store, this.path);
    } catch (error) {
      return this.#log.warning(`cannot ask for its removal: ${errorText(error)}`);
    }
    this.poke();
    const timeout = new AbortController();
    await Promise.race([this.retired, this.#clock.sleep(timeoutMs, timeout.signal)]);
    timeout.abort();
  }

  /** The guest did not agree in time, perhaps: its disk is gone nevertheless. */
  #leaveClosed(): void {
    try {
      const state = this.#nodes?.observe().backendState ?? "gone";
      // In Initialising it was attached anew meanwhile: the next process offers it.
      if (state !== "gone" && state !== XenbusState.Initialising) this.#nodes?.switchState(state, XenbusState.Closed);
    } catch (error) {
      this.#log.warning(`cannot leave it Closed: ${errorText(error)}`);
    }
  }

  /** The attachment is over: nobody will serve this directory again. */
  #isDetached(): boolean {
    try {
      const seen = this.#nodes?.observe();
      return seen !== undefined &&
        (seen.backendState === "gone" || (seen.backendState === XenbusState.Closed && !seen.online));
    } catch {
      return false; // whoever cannot ask leaves it to the next process
    }
  }

  async #work(): Promise<void> {
    while (this.#dirty && this.#nodes !== undefined) {
      await this.#pacer.admit(this.#stop.signal);
      const nodes = this.#nodes;
      if (this.#stop.signal.aborted || nodes === undefined) break;
      this.#dirty = false;
      try {
        await this.#look(nodes);
      } catch (error) {
        this.#lookFailed(nodes, error);
      }
    }
    this.#working = undefined;
  }

  /** Xenstore itself failed. A lost connection will be opened again; all else is tried again at the next change. */
  #lookFailed(nodes: DeviceNodes, error: unknown): void {
    if (isAbort(error)) return; // it is being closed
    if (!isDisconnection(error)) return this.#log.error(errorText(error));
    this.#dirty = true;
    if (this.#nodes === nodes) this.#nodes = undefined;
  }

  /** One look: the situation as it is, the table's verdict, the act. */
  async #look(nodes: DeviceNodes): Promise<void> {
    const seen = this.#observe(nodes);
    if (
      this.#unproven && this.#resources.connected && (seen.backendState === "gone" || seen.frontendState === "gone")
    ) return;
    this.#unproven = false;
    if (this.#guestReleased) this.#resolveGuestGone();
    if (seen.backendState !== "gone") this.#watchFrontend(seen.frontendPath);
    if (await this.#actions.stopBrokenRing(nodes, seen)) return this.poke();
    this.#actions.completeConnection(nodes, seen);
    const { connected, disk } = this.#resources;
    // Whoever serves the rings answers.
    if (seen.resize && connected) await growDisk(nodes, this.#resources, this.#log);
    const action = decide({ ...seen, connected, opened: disk !== undefined });
    this.#log.debug(
      `frontend ${stateName(seen.frontendState)}, backend ${stateName(seen.backendState)}: ${action.kind}`,
    );
    if (await this.#actions.perform(action, nodes, seen)) this.#dirty = true;
    else if (seen.backendState === XenbusState.Closed && !seen.online) this.#resolveRetired();
    if (this.#actions.isOthers || this.#actions.isBusy) this.#lookAgainLater();
    if (seen.backendState === "gone") this.#end();
  }

  #lookAgainLater(): void {
    if (this.#waitsForOthers) return;
    this.#waitsForOthers = true;
    void this.#clock.sleep(OTHERS_INTERVAL_MS, this.#stop.signal).then(() => {
      this.#waitsForOthers = false;
      this.poke();
    });
  }

  #observe(nodes: DeviceNodes): Observation {
    let seen = nodes.observe();
    if (this.#guestReleased) {
      this.#guestReleased = !nodes.guestExists; // a new domain may have got the number
      if (this.#guestReleased) seen = { ...seen, frontendState: "gone" };
    }
    this.#seen = seen;
    return seen;
  }

  #end(): void {
    this.#stop.abort();
    if (!this.#actions.isOthers) this.#resources.forgetLatch();
    this.#resources.disown();
    this.#unwatch();
    this.#resolveRetired();
    this.#resolveGone();
  }

  #watchFrontend(path: string): void {
    if (this.#watch?.path === path || this.#store === undefined) return;
    this.#unwatch();
    const watch = this.#store.watch(path);
    this.#watch = { path, watch };
    this.#follow(watch).catch((error) => this.#log.error(`watch of ${path} failed: ${errorText(error)}`));
  }

  async #follow(watch: XenstoreWatch): Promise<void> {
    for await (const _path of watch) this.poke();
  }

  #unwatch(): void {
    this.#watch?.watch[Symbol.dispose]();
    this.#watch = undefined;
  }
}
