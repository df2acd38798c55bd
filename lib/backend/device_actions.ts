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
import { quoted } from "../xenbus/decimal.ts";
import { stateName, XenbusState } from "../xenbus/states.ts";
import type { Action, Outcome } from "../xenbus/transitions.ts";
import { connect, type DeviceParts, isOthers, publish, refuse, resume } from "./connect.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import { hiddenNode } from "./guest_nodes.ts";
import { openImage } from "./open_image.ts";
import { offerBeforeOpening } from "./settings.ts";

/** Actions after which the situation may be `refused` or `busy`. */
export const CAN_BE_REFUSED: ReadonlySet<Action["kind"]> = new Set(["offer", "open", "connect", "resume"]);

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
      case "open":
        return await openImage(this.#device, nodes, seen);
      case "connect":
        return await connect(this.#device, nodes, seen);
      case "publish":
        return publish(this.#device, nodes, seen);
      case "resume":
        return await resume(this.#device, nodes, seen);
      case "change-image":
        return await this.#changeImage(nodes, seen);
      case "drop-ring":
        return await this.#dropRing(nodes, seen);
      case "resize":
        return await this.#resize(nodes, seen);
      case "request-removal":
        nodes.requestRemoval();
        return "done";
      case "close-begin":
        nodes.switchState(seen.backendState, XenbusState.Closing);
        return "done";
      case "close":
        return await this.#close(nodes, seen, "closed");
      case "teardown":
        this.#device.resources.filters.end(); // nobody waits for what they hold
        return seen.backendState === "gone"
          ? await this.#remove(nodes)
          : await this.#close(nodes, seen, `closed: ${this.#whyGone(nodes)}`);
      case "forget":
        return "ended";
      case "wait":
        return "waiting";
      case "unknown-state":
        return this.#ignoreState(action.side, nodes, seen);
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

  /** Invites the frontend. Its image is opened next: nothing that the frontend does before it connects needs it. */
  async #offer(nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    const { resources, settings, error } = this.#device;
    try {
      const standsIn = error.about("disc") !== undefined;
      const isIdle = resources.lock.owner === "us" && resources.isUnused && !standsIn;
      if (isOthers(this.#device)) return "done";
      await (standsIn ? resources.release() : resources.closeRings());
      // If there was nothing to wait for, the nodes were read a moment ago.
      if (!isIdle && !await nodes.isCurrent(seen)) return "done";
      this.#device.announced = undefined;
      error.clear("disc");
      nodes.offer(seen.backendState, featureNodes(offerBeforeOpening(settings)), error.clear("attempt"));
      return "done";
    } catch (reason) {
      return await refuse(this.#device, nodes, reason, true);
    }
  }

  /** The toolstack names another image while the guest uses the disk. */
  async #changeImage(nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    const { resources, error, log } = this.#device;
    const { disk, description: { cdrom } } = resources.image!;
    if (cdrom) {
      await resources.release();
      const next = seen.params === undefined || seen.params === "" ? "no disc" : quoted(seen.params);
      log.info(`the drive changes from ${disk.description} to ${next}`);
      return "done";
    }
    error.report(
      nodes,
      "change",
      `Cannot change the image to ${quoted(seen.params ?? "none")}: the guest uses ${disk.description}; ` +
        "detach the disk and attach it with the new image, or write the node params back",
    );
    return "idle";
  }

  /** Closes all rings after the data plane stopped one. Closing tells the frontend that it needs new rings. */
  async #dropRing(nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    const { resources, error } = this.#device;
    const reason = resources.stopReason;
    await resources.closeRings("stopped");
    error.report(nodes, "attempt", `Cannot go on serving the ring: ${reason}`);
    if (seen.backendState === XenbusState.Connected) nodes.switchState(seen.backendState, XenbusState.Closing);
    await resources.closeRings("broken");
    return "done";
  }

  /** First the rings take requests up to the new end; then the frontend and the toolstack are notified. */
  async #resize(nodes: DeviceNodes, { resizeTo }: Observation): Promise<Outcome> {
    const { resources, log } = this.#device;
    try {
      const { before, now } = await resources.grow(resizeTo);
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

  /** Why there is no frontend to close. */
  #whyGone(nodes: DeviceNodes): string {
    try {
      return nodes.guestExists
        ? "its frontend's directory is gone"
        : "its domain is unknown to xenstored: it has ended";
    } catch {
      return "its frontend is gone"; // a driver domain may not be told
    }
  }

  #ignoreState(side: "backend" | "frontend", nodes: DeviceNodes, seen: Observation): Outcome {
    const { error, log } = this.#device;
    if (side === "frontend" && seen.hidden) {
      error.report(nodes, "hidden", errorText(hiddenNode(`${seen.frontendPath}/state`)));
      return "waiting"; // permissions may change without an event for those who had none
    }
    const state = stateName(side === "backend" ? seen.backendState : seen.frontendState);
    if (this.#unknownLogged !== side + state) {
      log.warning(`the ${side} wrote the state ${state}, which makes no sense now: ignored`);
    }
    this.#unknownLogged = side + state;
    return "idle";
  }
}

function size(sectors: number): string {
  return formatSize(sectors * SECTOR_BYTES);
}
