/**
 * Whether a frontend still uses the rings that are served. A guest that is resumed in place publishes new ones, perhaps
 * under the same numbers, and goes from Connected back to Initialised without closing.
 */

import type { Clock } from "../clock.ts";
import { XenbusState } from "../xenbus/states.ts";
import type { Ring } from "../xenbus/transitions.ts";
import { asksForOthers, type DeviceParts } from "./connect.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import type { Connection } from "./resource_types.ts";

/** A guest that writes its ring's nodes again and again has them compared once in this time. */
const COMPARE_INTERVAL_MS = 1_000;

/** The rings of one device, as of the last look at its nodes. */
export class RingInUse {
  readonly #device: DeviceParts;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #poke: () => void;
  /** Nodes of the frontend may have changed since they were compared. */
  #isTouched = false;
  #nextComparisonMs = -Infinity;
  #comparesLater = false;
  /** The connection that the frontend has been seen Connected with. */
  #used: Connection | undefined;

  /** `poke` makes the device look again; never after the signal. */
  constructor(device: DeviceParts, clock: Clock, signal: AbortSignal, poke: () => void) {
    this.#device = device;
    this.#clock = clock;
    this.#signal = signal;
    this.#poke = poke;
  }

  /** A node of the frontend has changed, other than its state. */
  touched(): void {
    this.#isTouched = true;
  }

  /** Where the rings stand. Throws if xenstore fails. */
  see(nodes: DeviceNodes, seen: Observation): Ring {
    const { ring, connection } = this.#device.resources;
    const { backendState, frontendState } = seen;
    if (ring !== "served" || backendState !== XenbusState.Connected) return ring;
    if (frontendState === XenbusState.Connected) this.#used = connection;
    else if (frontendState !== XenbusState.Initialised) return ring;
    else if (this.#used === connection) return "replaced";
    if (!this.#mayCompare()) return ring;
    if (asksForOthers(this.#device, nodes, seen)) return "replaced";
    this.#isTouched = false;
    this.#nextComparisonMs = this.#clock.now() + COMPARE_INTERVAL_MS;
    return ring;
  }

  #mayCompare(): boolean {
    if (!this.#isTouched) return false;
    const leftMs = this.#nextComparisonMs - this.#clock.now();
    if (leftMs <= 0) return true;
    if (!this.#comparesLater) {
      this.#comparesLater = true;
      void this.#clock.sleep(leftMs, this.#signal).then(() => {
        this.#comparesLater = false;
        this.#poke();
      });
    }
    return false;
  }
}
