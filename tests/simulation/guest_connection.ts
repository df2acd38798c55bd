/**
 * What a guest holds for one connection: its granted pages, its rings with an event channel each, and how it sends and
 * takes over all of them. It must not know xenstore, nor what state anybody is in.
 */

import { type AbiName, ABIS } from "../../lib/blkif/abi.ts";
import type { DomId, EventChannels, EvtchnPort, GrantShares, Platform, SharedPages } from "../../lib/hypervisor.ts";
import type { Offer } from "../../lib/xenbus/features.ts";
import type { DiskWatch } from "./disk_watch.ts";
import { GuestPages } from "./guest_pages.ts";
import { GuestRing } from "./guest_ring.ts";
import { planRequest } from "./requests.ts";
import type { Run } from "./run.ts";

/** How large a connection is. */
export interface ConnectionShape {
  readonly abi: AbiName;
  readonly queues: number;
  readonly ringPages: number;
}

/** What a connection is made of. */
export interface ConnectionParts {
  readonly run: Run;
  readonly platform: Platform;
  readonly backend: DomId;
  readonly watch: DiskWatch;
  readonly shape: ConnectionShape;
}

/** A ring and what the backend has to be told of it. */
export interface ConnectedRing {
  readonly ring: GuestRing;
  readonly memory: SharedPages;
  readonly port: EvtchnPort;
}

const STRANGER = 7 as DomId;
const PAGES = { writable: 44, readOnly: 2 } as const;
/** Requests put in one go, at most. */
const BATCH = 6;

/** See the file's first lines. */
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

  /** Requests without an answer, in all rings. */
  get inFlight(): number {
    return this.rings.reduce((sum, { ring }) => sum + ring.inFlight, 0);
  }

  /** A ring was run over, so that no answers are to be expected of it. */
  get isOverrun(): boolean {
    return this.rings.some(({ ring }) => ring.overrun);
  }

  /** Puts some requests, as the decisions have it, into one of the rings. */
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

  /** Looks at the rings whose events have come. */
  answerEvents(): void {
    const count = this.#events.take(this.#fired);
    for (const { ring, port } of this.rings) {
      if (this.#fired.subarray(0, count).includes(port)) ring.takeAnswers(true);
    }
  }

  /** Looks at one of the rings without having been told to. */
  peek(): void {
    this.#run.decisions.pick(this.rings).ring.takeAnswers(false);
  }

  /** Pages and rings are as they must be. */
  check(): void {
    this.#pages.checkUnused();
    for (const { ring } of this.rings) ring.checkMemory();
  }

  /** Nobody serves the rings any more, nor will. */
  abandon(): void {
    for (const { ring } of this.rings) ring.abandon();
  }

  /** Ends the grants and frees the ports. */
  giveBack(): void {
    this.#pages[Symbol.dispose]();
    this.#shares[Symbol.dispose]();
    this.#events[Symbol.dispose]();
  }
}
