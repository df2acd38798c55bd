/**
 * Carries out what the transition table decided for a device: offering the disk, connecting, closing, and saying so
 * when one of them failed. When to look and what to decide is not known here.
 */

import { isAbort } from "../abort.ts";
import type { GrantMode } from "../dataplane/types.ts";
import { errorText } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import type { Disk } from "../storage/disk.ts";
import { ImageBusyError } from "../storage/image/lock.ts";
import { type DiskDescription, diskNodes, featureNodes, type NodeValue, type Offer } from "../xenbus/features.ts";
import type { FrontendParameters } from "../xenbus/negotiate.ts";
import { stateName, XenbusState } from "../xenbus/states.ts";
import type { Action } from "../xenbus/transitions.ts";
import { isDisconnection } from "../xenstore.ts";
import type { DeviceDescription, DeviceNodes, Observation } from "./device_nodes.ts";
import { grantModeOf } from "./grant_choice.ts";
import { type ConnectionIdentity, resumedConnection } from "./journals.ts";
import type { DeviceResources, RingOptions } from "./resources.ts";
import { type DeviceSettings, offerOf } from "./settings.ts";

/** What is told of a disk that is served although a flush of it failed, be it under an earlier process. */
const LATCHED = "Cannot write to it: a flush failed since it was attached; check its storage, then attach it anew";

/** An image that is open and what the toolstack says of it. */
interface OpenedImage {
  readonly disk: Disk;
  readonly description: DeviceDescription;
}

/** Rings that are served. */
interface ConnectedRings extends RingOptions {
  readonly frontend: FrontendParameters;
}

/** The deeds of one device, one at a time. */
export class DeviceActions {
  readonly #resources: DeviceResources;
  readonly #settings: DeviceSettings;
  readonly #log: Logger;
  /** The last rings could not be opened only because somebody else has the image. */
  #imageIsBusy = false;
  #isBusy = false;
  #error: string | undefined;
  /** The situation in which something was tried in vain; in the same one it is not tried again. */
  #refused: string | undefined;
  /** The situation in which something is being tried. */
  #trying = "";
  /** A connection whose nodes may not be written. */
  #untold: { readonly all: readonly NodeValue[]; readonly rings: ConnectedRings } | undefined;
  /** Why the data plane stopped the ring, until that is dealt with. */
  #stopReason: string | undefined;
  /** The frontend's ring is beyond use until it makes a new one. */
  #ringBroken = false;
  #unknownLogged: string | undefined;
  #isOthers = false;

  /** `log` puts the device's label before each line. */
  constructor(resources: DeviceResources, settings: DeviceSettings, log: Logger) {
    this.#resources = resources;
    this.#settings = settings;
    this.#log = log;
  }

  /** What went wrong last and has not been put right since. */
  get error(): string | undefined {
    return this.#error;
  }

  /** What was to be done last was not, because another process serves the device. */
  get isOthers(): boolean {
    return this.#isOthers;
  }

  /** A guest that an earlier process served waits for an image that somebody else has. */
  get isBusy(): boolean {
    return this.#isBusy;
  }

  /** The data plane had to stop the ring. */
  ringStopped(reason: string): void {
    this.#stopReason ??= reason;
  }

  /** Gives a stopped ring back and tells the guest by Closing. False if no ring was stopped. */
  async stopBrokenRing(nodes: DeviceNodes, seen: Observation): Promise<boolean> {
    const reason = this.#stopReason;
    if (reason === undefined) return false;
    this.#stopReason = undefined;
    this.#ringBroken = true;
    await this.#resources.closeRings();
    this.#report(nodes, `Cannot go on serving the ring: ${reason}`, false);
    if (seen.backendState === XenbusState.Connected) nodes.switchState(seen.backendState, XenbusState.Closing);
    return true;
  }

  /** Does it. True if the situation has changed by that and is to be looked at again. */
  async perform(action: Action, nodes: DeviceNodes, seen: Observation): Promise<boolean> {
    if (action.kind !== "unknown-state") this.#unknownLogged = undefined;
    this.#isBusy = this.#imageIsBusy = false;
    if (action.kind !== "none" && this.#leaveToOthers()) return false;
    switch (action.kind) {
      case "offer":
      case "reoffer":
        await this.#resources.closeRings();
        return await this.#unlessRefused(nodes, seen, () => this.#offer(nodes, seen));
      case "connect":
        return await this.#unlessRefused(nodes, seen, () => this.#connect(nodes, seen));
      case "resume":
        return await this.#resume(nodes, seen);
      case "close-begin":
        nodes.switchState(seen.backendState, XenbusState.Closing);
        return true;
      case "close":
        return await this.#close(nodes, seen, "closed");
      case "teardown":
        return await this.#tearDown(nodes, seen);
      case "unknown-state":
        return this.#ignoreState(action.side, seen);
      case "none":
        return false;
    }
  }

  /** True if another process serves the device: it answers the guest, and writes the nodes. */
  #leaveToOthers(): boolean {
    const before = this.#isOthers;
    try {
      this.#isOthers = !this.#resources.own();
    } catch {
      this.#isOthers = false; // why it cannot be found out is told when the image is to be opened
    }
    if (this.#isOthers && !before) this.#log.warning("another process serves it: left alone until that one ends");
    return this.#isOthers;
  }

  /** Opens the image and invites the frontend. */
  async #offer(nodes: DeviceNodes, seen: Observation): Promise<boolean> {
    const opened = await this.#openImage(nodes);
    if (typeof opened === "string") return await this.#refuseOffer(nodes, opened);
    const { disk, description } = opened;
    nodes.clearError();
    this.#error = undefined;
    this.#ringBroken = false;
    const connected = ["hotplug-status", "connected"] as const;
    const offer = offerOf(this.#settings, disk.properties, description.discardEnable);
    if (nodes.offer(seen.backendState, XenbusState.InitWait, [...featureNodes(offer), connected])) {
      const kind = description.cdrom ? ", cdrom" : "";
      this.#log.info(`offering ${disk.description} as ${description.name}${kind} (type ${description.type})`);
    }
    return true;
  }

  /** Serves the frontend's rings and tells it what the disk is. */
  async #connect(nodes: DeviceNodes, seen: Observation): Promise<boolean> {
    const opened = await this.#openImage(nodes);
    if (typeof opened === "string") return await this.#refuseConnection(nodes, seen, opened, true);
    const quietly = seen.backendState === XenbusState.Connected && seen.frontendState === XenbusState.Connected;
    // With the nonce of an earlier process: it may have served requests before it wrote Connected.
    const connection = resumedConnection(nodes.connectionNonce());
    const rings = await this.#openRings(nodes, seen, opened, connection);
    if (typeof rings === "string") return await this.#refuseConnection(nodes, seen, rings, false);
    const nodesOfDisk = diskNodes(describeDisk(opened.disk, opened.description));
    const all = [...nodesOfDisk, ...this.#resources.identityNodes(connection)];
    try {
      if (!nodes.connect(seen.backendState, XenbusState.Connected, all, quietly)) {
        await this.#resources.closeRings();
        return true;
      }
    } catch (error) {
      // Nobody knows whether the frontend was told before xenstore was lost. If it was, it uses the rings.
      if (isDisconnection(error)) this.#untold = { all, rings };
      else await this.#resources.closeRings();
      throw error;
    }
    this.#error = undefined;
    this.#tellConnected(nodes, rings);
    return true;
  }

  /** Tells what was to be told when xenstore was lost in the middle of connecting, if it has kept its contents. */
  completeConnection(nodes: DeviceNodes, seen: Observation): void {
    const untold = this.#untold;
    if (untold === undefined) return;
    if (this.#resources.connected && seen.backendState === XenbusState.Connected) {
      nodes.connect(seen.backendState, XenbusState.Connected, untold.all, true);
      this.#error = undefined;
      this.#tellConnected(nodes, untold.rings);
    }
    this.#untold = undefined;
  }

  /** The device is to be removed and the guest may still wait for answers: serve it until it lets go. */
  async #resume(nodes: DeviceNodes, seen: Observation): Promise<boolean> {
    if (this.#ringBroken) return await this.#close(nodes, seen, "closed with its ring stopped");
    const opened = await this.#openImage(nodes);
    const rings = typeof opened === "string"
      ? opened
      : await this.#openRings(nodes, seen, opened, resumedConnection(nodes.connectionNonce()));
    if (typeof rings === "string") {
      this.#report(nodes, rings, false);
      return await this.#close(nodes, seen, "closed without its ring");
    }
    this.#tellConnected(nodes, rings);
    return true;
  }

  async #close(nodes: DeviceNodes, seen: Observation, what: string): Promise<boolean> {
    await this.#resources.end();
    if (nodes.switchState(seen.backendState, XenbusState.Closed)) this.#log.info(what);
    return true;
  }

  async #tearDown(nodes: DeviceNodes, seen: Observation): Promise<boolean> {
    await this.#resources.end();
    if (seen.backendState === "gone") {
      nodes.clearError();
      this.#log.info("removed");
      return false;
    }
    if (nodes.switchState(seen.backendState, XenbusState.Closed)) this.#log.info("closed: its frontend is gone");
    return true;
  }

  #ignoreState(side: "backend" | "frontend", seen: Observation): boolean {
    const state = stateName(side === "backend" ? seen.backendState : seen.frontendState);
    if (this.#unknownLogged !== side + state) this.#log.warning(`${side} state ${state} means nothing here, ignored`);
    this.#unknownLogged = side + state;
    return false;
  }

  /** The image and what the toolstack said of it, or why there is none. */
  async #openImage(nodes: DeviceNodes): Promise<OpenedImage | string> {
    try {
      this.#resources.own();
      const description = nodes.describe(this.#settings.image);
      return { disk: await this.#resources.openImage(description), description };
    } catch (error) {
      return reasonOf(error);
    }
  }

  /** What the frontend asked for, now served, or why it is not. */
  async #openRings(
    nodes: DeviceNodes,
    seen: Observation,
    opened: OpenedImage,
    connection: ConnectionIdentity,
  ): Promise<ConnectedRings | string> {
    try {
      const { defaultProtocol } = this.#settings;
      // What the frontend was told, be it by an earlier process: that is what it relies on.
      const offer = nodes.publishedOffer();
      const frontend = nodes.readFrontend({ frontendPath: seen.frontendPath, defaultProtocol, offer });
      const grants = this.#grantMode(offer, frontend, opened);
      const { directIoSafe, discardEnable } = opened.description;
      const discard = offerOf(this.#settings, opened.disk.properties, discardEnable).discard !== undefined;
      this.#openLatch(nodes);
      nodes.prepare(this.#resources.identityNodes(connection));
      const { maxIndirectSegments } = offer;
      const options = { grants, directIoSafe, discard, maxIndirectSegments, connection };
      await this.#resources.openRings(opened.disk, frontend, options);
      return { frontend, ...options };
    } catch (error) {
      this.#imageIsBusy = error instanceof ImageBusyError;
      return reasonOf(error);
    }
  }

  /** What an earlier process left of a failed flush counts as if it had been this one's. */
  #openLatch(nodes: DeviceNodes): void {
    const nonce = this.#resources.openLatch(nodes.attachmentNonce());
    if (nonce !== undefined) nodes.keepAttachmentNonce(nonce);
  }

  /** How this frontend's data is reached, which need not be as the settings would have it. */
  #grantMode(offer: Offer, frontend: FrontendParameters, { disk, description }: OpenedImage): GrantMode {
    const { grants } = this.#settings;
    const persistent = { backend: offer.persistent, frontend: frontend.persistent };
    const guestPages = disk.properties.cache !== "none" || description.directIoSafe;
    const { mode, reason } = grantModeOf(grants, persistent, guestPages);
    if (reason !== undefined) this.#log.info(`grants ${mode} in place of ${grants}: ${reason}`);
    return mode;
  }

  /** Skips what failed before unless a node has changed since. */
  async #unlessRefused(nodes: DeviceNodes, seen: Observation, attempt: () => Promise<boolean>): Promise<boolean> {
    // From before the attempt: the nodes may be others by the time it has failed.
    this.#trying = JSON.stringify(seen) + nodes.fingerprint(seen);
    if (this.#refused === this.#trying) return false;
    this.#refused = undefined;
    return await attempt();
  }

  /** There is no disk to offer: waits until somebody changes something. */
  async #refuseOffer(nodes: DeviceNodes, reason: string): Promise<boolean> {
    await this.#resources.release();
    this.#report(nodes, reason, true);
    this.#refused = this.#trying;
    return false;
  }

  /**
   * Connecting failed. A frontend that is waiting for us learns it by Closing. One that another process left Connected
   * is left so until somebody changes something: Closing would cost the guest a disk that can still be put right.
   */
  async #refuseConnection(nodes: DeviceNodes, seen: Observation, reason: string, opening: boolean): Promise<boolean> {
    await this.#resources.release();
    this.#report(nodes, reason, opening);
    if (seen.backendState !== XenbusState.Connected) return nodes.switchState(seen.backendState, XenbusState.Closing);
    // Whoever has the image, a process that was killed perhaps, may be about to end.
    this.#isBusy = this.#imageIsBusy;
    if (!this.#isBusy) this.#refused = this.#trying;
    return false;
  }

  #report(nodes: DeviceNodes, message: string, opening: boolean): void {
    if (message !== this.#error) this.#log.error(message);
    this.#error = message;
    nodes.reportError(message, opening);
  }

  #tellConnected(nodes: DeviceNodes, { frontend, grants }: ConnectedRings): void {
    const ports = frontend.queues.map((queue) => queue.eventChannel).join(", ");
    const pages = frontend.queues[0]?.ringRefs.length ?? 0;
    const rings = `${frontend.queues.length} of ${pages} page${pages === 1 ? "" : "s"}`;
    this.#log.info(`connected: ${frontend.abi}, rings ${rings}, event channels ${ports}, grants ${grants}`);
    if (this.#resources.latched) this.#report(nodes, LATCHED, false);
  }
}

function describeDisk(disk: Disk, description: DeviceDescription): DiskDescription {
  return { ...disk.properties, cdrom: description.cdrom, removable: description.removable };
}

/** Why an attempt failed, for people. Failures of xenstore, and the process's end, are not the attempt's: thrown on. */
function reasonOf(error: unknown): string {
  if (error instanceof XenstoreError || isAbort(error)) throw error;
  return errorText(error);
}
