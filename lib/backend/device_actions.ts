/**
 * Carries out what the transition table decided for a device, one action at a time, and returns how it ended.
 */

import { isAbort } from "../abort.ts";
import { errorText } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import { formatSize } from "../sizes.ts";
import { SECTOR_BYTES } from "../units.ts";
import { featureNodes } from "../xenbus/features.ts";
import { RESIZE_DONE } from "../xenbus/resize.ts";
import { stateName, XenbusState } from "../xenbus/states.ts";
import type { Action, Outcome } from "../xenbus/transitions.ts";
import { connect, type DeviceParts, isOthers, openImage, publish, refuse, resume } from "./connect.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import { offerOf } from "./settings.ts";

/** The actions of one device. */
export class DeviceActions {
  readonly #device: DeviceParts;
  #unknownLogged: string | undefined;
  #othersLogged = false;

  constructor(device: DeviceParts) {
    this.#device = device;
  }

  /** Carries one out. Rejects if xenstore or closing something failed, or the process is being ended. */
  async perform(action: Action, nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    if (action.kind !== "unknown-state") this.#unknownLogged = undefined;
    switch (action.kind) {
      case "claim":
        return this.#claim();
      case "offer":
        return await this.#offer(nodes, seen);
      case "connect":
        return await connect(this.#device, nodes, seen);
      case "publish":
        return publish(this.#device, nodes, seen);
      case "resume":
        return await resume(this.#device, nodes, seen);
      case "drop-ring":
        return await this.#dropRing(nodes, seen);
      case "resize":
        return await this.#resize(nodes);
      case "request-removal":
        nodes.requestRemoval();
        return "done";
      case "close-begin":
        nodes.switchState(seen.backendState, XenbusState.Closing);
        return "done";
      case "close":
        return await this.#close(nodes, seen, "closed");
      case "teardown":
        return seen.backendState === "gone"
          ? await this.#remove(nodes)
          : await this.#close(nodes, seen, "closed: its frontend is gone");
      case "forget":
        return "ended";
      case "wait":
        return "waiting";
      case "unknown-state":
        return this.#ignoreState(action.side, seen);
      case "none":
        return "idle";
    }
  }

  #claim(): Outcome {
    const { resources: { lock }, log } = this.#device;
    try {
      const isOthers = lock.claim() === "other";
      if (isOthers && !this.#othersLogged) log.warning("another process serves it: left alone until that one ends");
      this.#othersLogged = isOthers;
    } catch {
      // The owner is unknown now; offering or connecting tries again and reports the reason.
    }
    return "done";
  }

  /** Opens the image and invites the frontend. */
  async #offer(nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    const { settings, log, error } = this.#device;
    try {
      if (isOthers(this.#device)) return "done";
      const image = await openImage(this.#device, nodes, seen);
      if (image === undefined) return "done";
      const { disk, description } = image;
      const features = featureNodes(offerOf(settings, disk.properties, description.discardEnable));
      if (!nodes.offer(seen.backendState, [...features, ["hotplug-status", "connected"]])) return "done";
      error.clear();
      const kind = description.cdrom ? ", cdrom" : "";
      log.info(`offering ${disk.description} as ${description.name}${kind} (type ${description.type})`);
      return "done";
    } catch (reason) {
      return await refuse(this.#device, nodes, reason, true);
    }
  }

  /** Closes all rings after the data plane stopped one. Closing tells the frontend that it needs new rings. */
  async #dropRing(nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    const { resources, error } = this.#device;
    const reason = resources.stopReason;
    await resources.closeRings("stopped");
    error.report(nodes, `Cannot go on serving the ring: ${reason}`, false);
    if (seen.backendState === XenbusState.Connected) nodes.switchState(seen.backendState, XenbusState.Closing);
    await resources.closeRings("broken");
    return "done";
  }

  /** First the rings take requests up to the new end; then the frontend and the toolstack are notified. */
  async #resize(nodes: DeviceNodes): Promise<Outcome> {
    const { resources, log } = this.#device;
    try {
      const { before, now } = await resources.grow();
      if (now > before) log.info(`grown from ${size(before)} to ${size(now)}`);
      nodes.answerResize(RESIZE_DONE, now);
    } catch (error) {
      if (error instanceof XenstoreError || isAbort(error)) throw error;
      nodes.answerResize(errorText(error), undefined);
      log.warning(errorText(error));
    }
    return "done";
  }

  async #close(nodes: DeviceNodes, seen: Observation, what: string): Promise<Outcome> {
    await this.#device.resources.end();
    if (nodes.switchState(seen.backendState, XenbusState.Closed)) this.#device.log.info(what);
    return "done";
  }

  async #remove(nodes: DeviceNodes): Promise<Outcome> {
    await this.#device.resources.end();
    nodes.clearError();
    this.#device.log.info("removed");
    return "ended";
  }

  #ignoreState(side: "backend" | "frontend", seen: Observation): Outcome {
    const state = stateName(side === "backend" ? seen.backendState : seen.frontendState);
    if (this.#unknownLogged !== side + state) {
      this.#device.log.warning(`${side} state ${state} means nothing here, ignored`);
    }
    this.#unknownLogged = side + state;
    return "idle";
  }
}

function size(sectors: number): string {
  return formatSize(sectors * SECTOR_BYTES);
}
