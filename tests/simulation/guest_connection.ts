/**
 * One connection of a guest: its granted pages and its rings with an event channel each. Sends requests and takes
 * responses over all rings.
 */

import { type AbiName, ABIS } from "../../lib/blkif/abi.ts";
import type { DomId, EventChannels, EvtchnPort, GrantShares, Platform, SharedPages } from "../../lib/hypervisor.ts";
import type { Offer } from "../../lib/xenbus/features.ts";
import type { DiskWatch } from "./disk_watch.ts";
import { GuestPages } from "./guest_pages.ts";
import { GuestRing } from "./guest_ring.ts";
import { planRequest } from "./requests.ts";
import type { Run } from "./run.ts";

/** Shape of a connection. */
export interface ConnectionShape {
  readonly abi: AbiName;
  readonly queues: number;
  readonly ringPages: number;
}

/** Parts of a {@linkcode GuestConnection}. */
interface ConnectionParts {
  readonly run: Run;
  readonly platform: Platform;
  readonly backend: DomId;
  readonly watch: DiskWatch;
  readonly shape: ConnectionShape;
}

/** A ring and what the guest publishes of it. */
export interface ConnectedRing {
  readonly ring: GuestRing;
  readonly memory: SharedPages;
  readonly port: EvtchnPort;
}

const STRANGER = 7 as DomId;
const PAGES = { writable: 44, readOnly: 2 } as const;
/** Most requests per batch. */
const BATCH = 6;

/** One connection, from allocating to releasing its pages and ports. */
export class GuestConnection {
  readonly rings: readonly ConnectedRing[];
  readonly shape: ConnectionShape;
  readonly #run: Run;
  readonly #watch: DiskWatch;
  readonly #pages: GuestPages;
  readonly #shares: GrantShares;
  readonly #events: EventChannels;
  readonly #fired = new Uint32Array(8);

  constructor({ run, platform, backend, watch, shape }: ConnectionParts) {
    this.#run = run;
    this.#watch = watch;
    this.shape = shape;
    this.#shares = platform.openGrantShares();
    this.#pages = new GuestPages(this.#shares, backend, STRANGER, PAGES, run);
    this.#events = platform.openEventChannels(backend);
    this.rings = Array.from({ length: shape.queues }, () => {
      const memory = this.#shares.share(backend, shape.ringPages, true);
      const port = this.#events.bindUnbound(backend);
      const notify = (): void => this.#events.notify(port);
      const parts = { run, watch, pages: this.#pages, abi: ABIS[shape.abi], memory, notify };
      return { ring: new GuestRing(parts), memory, port };
    });
  }

  /** Requests without a response, on all rings. */
  get inFlight(): number {
    return this.rings.reduce((sum, { ring }) => sum + ring.inFlight, 0);
  }

  /** A ring has an impossible index, so that no further responses come. */
  get isOverrun(): boolean {
    return this.rings.some(({ ring }) => ring.overrun);
  }

  /** Puts some requests on one of the rings. */
  send(offer: Offer | undefined, hostility: number): void {
    const { decisions, faults } = this.#run;
    const { ring } = decisions.pick(this.rings);
    if (ring.overrun) return;
    const context = { decisions, disk: this.#watch.disk.properties, pages: this.#pages, hostility, offer };
    for (let count = decisions.between(1, BATCH); count > 0 && ring.free > 0; count--) {
      const plan = planRequest(context);
      if (plan === undefined) break;
      if (plan.refused) faults.count("hostile request");
      ring.put(plan);
    }
    ring.publish();
  }

  /** Takes responses from the rings that were notified. */
  answerEvents(): void {
    const count = this.#events.take(this.#fired);
    for (const { ring, port } of this.rings) {
      if (this.#fired.subarray(0, count).includes(port)) ring.takeAnswers(true);
    }
  }

  /** Takes responses from one ring without a notification. */
  peek(): void {
    this.#run.decisions.pick(this.rings).ring.takeAnswers(false);
  }

  /** Fails if unused pages or rings were changed. */
  check(): void {
    this.#pages.checkUnused();
    for (const { ring } of this.rings) ring.checkMemory();
  }

  /** Nobody serves the rings, or will. */
  abandon(): void {
    for (const { ring } of this.rings) ring.abandon();
  }

  /** Revokes the grants and closes the ports. */
  release(): void {
    this.#pages[Symbol.dispose]();
    this.#shares[Symbol.dispose]();
    this.#events[Symbol.dispose]();
  }
}
