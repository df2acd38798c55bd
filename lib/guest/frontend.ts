/**
 * The frontend of a guest's disk, over any Xenstore and Platform, simulated or real. It follows Linux's
 * drivers/block/xen-blkfront.c: the handshake up to Connected, closing when the backend closes or by itself, and
 * connecting again. It allocates rings and pages; a load driver moves the data.
 */

import { type AbiName, ABIS, MAX_SEGMENTS_PER_REQUEST, ringSlots } from "../blkif/abi.ts";
import { FrontRing } from "../blkif/front_ring.ts";
import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import { XenblkError } from "../errors.ts";
import type { DomId, EventChannels, EvtchnPort, GrantShares, Platform, SharedPages, Xenstore } from "../hypervisor.ts";
import { parseDecimal } from "../xenbus/decimal.ts";
import { XenbusState } from "../xenbus/states.ts";
import { BackendFollower } from "./backend_follower.ts";
import { type DiskFacts, readDiskFacts } from "./disk_facts.ts";
import { type EventEndpoint, ThreadEndpoint } from "./event_endpoint.ts";

/** Options of a {@linkcode Frontend}. */
export interface FrontendOptions {
  readonly platform: Platform;
  readonly store: Xenstore;
  /** The frontend's directory in xenstore: absolute, or relative to the domain of the connection. */
  readonly path: string;
  /** Default `x86_64-abi`. */
  readonly abi?: AbiName;
  /** Pages per ring, a power of two; fewer if the backend offers fewer. Default 1. */
  readonly ringPages?: number;
  /** Rings, each with its event channel; fewer if the backend offers fewer. Default 1. */
  readonly queues?: number;
  /** Most segments per request, up to 512; more than 11 only if the backend offers indirect requests. Default 11. */
  readonly segments?: number;
  /** Requests to allocate pages for, at most the slots of all rings. Default all slots. */
  readonly requests?: number;
  /** Value of feature-persistent; Linux publishes 1 whatever the backend offers. Default true. */
  readonly persistent?: boolean;
  /** Time limit for each step of the backend. Default 10 s. */
  readonly timeoutMs?: number;
  /** For the time limit. Default the system's clock. */
  readonly clock?: Clock;
  /** Binds the ports. Default: this thread, see {@linkcode Frontend.events}. */
  readonly endpoint?: EventEndpoint;
  /** Nodes to publish in place of the right ones, to test a misbehaving frontend. */
  readonly override?: Readonly<Record<string, string>>;
  /** Called before closing, whichever side asked for it; resolves once nothing is in flight. */
  readonly quiesce?: () => Promise<void>;
}

/** One ring of a frontend, with its event channel. */
export interface FrontendRing {
  readonly pages: SharedPages;
  readonly port: EvtchnPort;
}

/** Pages and ports of one connection. */
interface Resources {
  /** At least one. */
  readonly rings: readonly FrontendRing[];
  /** {@linkcode segments} pages per request. */
  readonly dataPages: SharedPages;
  readonly segments: number;
  /** One page per request for the segments of indirect requests; absent if there are none. */
  readonly indirectPages?: SharedPages;
  /** Requests that there are pages for, over all rings. */
  readonly requests: number;
}

/** A connected frontend: what a load driver needs. */
export interface FrontendConnection extends Resources {
  readonly backend: DomId;
  readonly abi: AbiName;
  /** The first ring, for use in this thread; a driver in a Worker makes its own over {@linkcode ringPages}. */
  readonly ring: FrontRing;
  /** Pages of the first ring. */
  readonly ringPages: SharedPages;
  /** Port of the first ring. */
  readonly port: EvtchnPort;
  readonly disk: DiskFacts;
}

/** Nodes that an earlier connection may have left. */
const RING_NODE = /^(ring-(ref\d*|page-order)|event-channel|multi-queue-num-queues|queue-\d+)$/;

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** One disk's frontend. Disposing it revokes grants and ports at once, as the death of the guest does. */
export class Frontend implements Disposable {
  readonly #options: FrontendOptions;
  readonly #abi: AbiName;
  readonly #timeoutMs: number;
  readonly #clock: Clock;
  readonly #endpoint: EventEndpoint;
  readonly #ownEndpoint: ThreadEndpoint | undefined;
  #store: Xenstore;
  #shares: GrantShares | undefined;
  #follower: BackendFollower | undefined;
  #resources: Resources | undefined;
  #connection: FrontendConnection | undefined;
  #closed: Promise<void> = Promise.resolve();
  #closing = false;

  constructor(options: FrontendOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#abi = options.abi ?? "x86_64-abi";
    this.#timeoutMs = options.timeoutMs ?? 10_000;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    if (options.endpoint === undefined) this.#ownEndpoint = new ThreadEndpoint(options.platform);
    this.#endpoint = options.endpoint ?? this.#ownEndpoint!;
  }

  /** This thread's event channels. Throws {@linkcode XenblkError} before a port is bound, or with another endpoint. */
  get events(): EventChannels {
    const events = this.#ownEndpoint?.events;
    if (events === undefined) {
      throw new XenblkError(`Cannot use event channels of ${this.#options.path}: none are open`);
    }
    return events;
  }

  /** The present connection; undefined while not connected. */
  get connection(): FrontendConnection | undefined {
    return this.#connection;
  }

  /** Resolves when the present connection is closed, by either side; rejects if closing failed. */
  get closed(): Promise<void> {
    return this.#closed;
  }

  /**
   * Connects. Throws {@linkcode XenblkError}, of kind `timeout` if a step of the backend takes too long; then no grant
   * and no port is left.
   */
  async connect(): Promise<FrontendConnection> {
    if (this.#resources !== undefined) throw this.#cannot("connect", "it is connected already");
    const backendPath = this.#required("backend");
    const backend = this.#number("backend-id", this.#required("backend-id"), 0x7fef) as DomId;
    this.#closing = false;
    this.#follower?.[Symbol.dispose]();
    const follower = this.#follower = new BackendFollower(this.#store, backendPath, this.#clock);
    if (this.#read("state") !== String(Initialising)) this.#setState(Initialising);
    const purpose = `connect ${this.#options.path}`;
    await follower.wait((state) => state === InitWait, { purpose, timeoutMs: this.#timeoutMs });
    try {
      const resources = await this.#allocate(backend, backendPath);
      this.#publish(resources);
      this.#setState(Initialised);
      const reached = await follower.wait(
        (state) => state === Connected || state === Closing || state === Closed || state === "gone",
        { purpose, timeoutMs: this.#timeoutMs },
      );
      if (reached !== Connected) {
        throw this.#cannot("connect", `the backend closed (${this.#backendError(backendPath)})`);
      }
      return this.#connected(backend, backendPath, resources, follower);
    } catch (error) {
      this.#setState(Closed);
      await this.#release();
      throw error;
    }
  }

  /** Closes as a guest that unloads its driver: goes to Closing and Closed, and waits for the backend to close. */
  async disconnect(): Promise<void> {
    if (this.#connection !== undefined && !this.#closing) {
      this.#closing = true;
      this.#setClosed(this.#close());
    }
    await this.#closed;
  }

  /** Connects again after a close, as the kernel that pv-grub or kexec started does. */
  async reconnect(): Promise<FrontendConnection> {
    await this.#closed;
    if (!this.#setState(Initialising)) throw this.#cannot("reconnect", "its state node is gone");
    return await this.connect();
  }

  /** Uses another connection to xenstore, after the first was lost. The device stays connected. */
  useStore(store: Xenstore): void {
    this.#store = store;
    const connection = this.#connection;
    if (connection === undefined || this.#closing) return;
    this.#follower?.[Symbol.dispose]();
    this.#follower = new BackendFollower(store, this.#required("backend"), this.#clock);
    this.#setClosed(this.#followClose(this.#follower));
  }

  [Symbol.dispose](): void {
    this.#closing = true;
    this.#follower?.[Symbol.dispose]();
    const rings = this.#resources?.rings ?? [];
    this.#connection = undefined;
    this.#resources = undefined;
    this.#shares?.[Symbol.dispose]();
    if (this.#ownEndpoint === undefined) {
      // If the Worker has ended, its ports are closed already.
      for (const { port } of rings) Promise.resolve(this.#endpoint.unbind(port)).catch(() => {});
    }
    this.#ownEndpoint?.[Symbol.dispose]();
  }

  /** Pages per ring, rings and segments: as asked for, but no more than the backend offers. */
  #shape(backendPath: string): { pages: number; queues: number; segments: number } {
    const { ringPages = 1, queues = 1, segments = MAX_SEGMENTS_PER_REQUEST } = this.#options;
    const offered = (name: string, missing: number, most: number): number => {
      const text = this.#store.read(`${backendPath}/${name}`);
      return text === undefined ? missing : this.#number(name, text, most);
    };
    const indirect = Math.min(segments, offered("feature-max-indirect-segments", 0, 4096));
    return {
      pages: Math.min(ringPages, 2 ** offered("max-ring-page-order", 0, 16)),
      queues: Math.min(queues, offered("multi-queue-max-queues", 1, 4096)),
      // As blkfront: indirect requests only if they hold more than a direct one.
      segments: Math.max(indirect, MAX_SEGMENTS_PER_REQUEST),
    };
  }

  async #allocate(backend: DomId, backendPath: string): Promise<Resources> {
    const { pages, queues, segments } = this.#shape(backendPath);
    const slots = ringSlots(ABIS[this.#abi], pages) * queues;
    const requests = Math.min(this.#options.requests ?? slots, slots);
    const shares = this.#shares ??= this.#options.platform.openGrantShares();
    const rings: FrontendRing[] = [];
    const dataPages = shares.share(backend, requests * segments, true);
    const indirect = segments > MAX_SEGMENTS_PER_REQUEST;
    this.#resources = {
      rings,
      dataPages,
      segments,
      ...(indirect ? { indirectPages: shares.share(backend, requests, false) } : {}),
      requests,
    };
    for (let queue = 0; queue < queues; queue++) {
      const ringPages = shares.share(backend, pages, true);
      FrontRing.initialise(ringPages.view, ABIS[this.#abi]);
      rings.push({ pages: ringPages, port: await this.#endpoint.bind(backend) });
    }
    return this.#resources;
  }

  #publish({ rings }: Resources): void {
    const nodes: Record<string, string> = {
      "protocol": this.#abi,
      "feature-persistent": (this.#options.persistent ?? true) ? "1" : "0",
    };
    const pages = rings[0]!.pages.refs.length;
    if (pages > 1) nodes["ring-page-order"] = String(Math.log2(pages));
    if (rings.length > 1) nodes["multi-queue-num-queues"] = String(rings.length);
    rings.forEach(({ pages: { refs }, port }, queue) => {
      const prefix = rings.length > 1 ? `queue-${queue}/` : "";
      nodes[`${prefix}event-channel`] = String(port);
      if (refs.length === 1) nodes[`${prefix}ring-ref`] = String(refs[0]!);
      else refs.forEach((ref, page) => nodes[`${prefix}ring-ref${page}`] = String(ref));
    });
    this.#store.transaction((transaction) => {
      for (const name of transaction.list(this.#options.path) ?? []) {
        if (RING_NODE.test(name)) transaction.remove(`${this.#options.path}/${name}`);
      }
      for (const [name, value] of Object.entries({ ...nodes, ...this.#options.override })) {
        transaction.write(`${this.#options.path}/${name}`, value);
      }
    });
  }

  #connected(
    backend: DomId,
    backendPath: string,
    resources: Resources,
    follower: BackendFollower,
  ): FrontendConnection {
    const disk = readDiskFacts(this.#store, backendPath);
    const { pages: ringPages, port } = resources.rings[0]!;
    const ring = new FrontRing(ringPages.view, ABIS[this.#abi]);
    this.#connection = { ...resources, backend, abi: this.#abi, ring, ringPages, port, disk };
    this.#setState(Connected);
    this.#setClosed(this.#followClose(follower));
    return this.#connection;
  }

  /** Closes when the backend goes to Closing or Closed, or disappears. */
  async #followClose(follower: BackendFollower): Promise<void> {
    const accepts = (state: unknown): boolean => state === Closing || state === Closed || state === "gone";
    const closing = await follower.wait(accepts, { purpose: `follow the backend of ${this.#options.path}` })
      .then(() => true, () => false);
    // The follower ended (disposed, or xenstore was lost), or we are closing already.
    if (!closing || this.#closing || follower !== this.#follower) return;
    this.#closing = true;
    await this.#close();
  }

  async #close(): Promise<void> {
    try {
      await this.#options.quiesce?.();
      this.#setState(Closing);
      await this.#wait((state) => state === Closing || state === Closed || state === "gone");
      this.#setState(Closed);
      await this.#wait((state) => state === Closed || state === "gone");
    } finally {
      await this.#release();
    }
  }

  /** A failed close rejects `closed`; that is no unhandled rejection if it is not awaited. */
  #setClosed(closed: Promise<void>): void {
    closed.catch(() => {});
    this.#closed = closed;
  }

  async #wait(accepts: (state: unknown) => boolean): Promise<void> {
    const purpose = `close ${this.#options.path}`;
    await this.#follower?.wait(accepts, { purpose, timeoutMs: this.#timeoutMs });
  }

  async #release(): Promise<void> {
    const resources = this.#resources;
    this.#connection = undefined;
    this.#resources = undefined;
    this.#shares?.[Symbol.dispose]();
    this.#shares = undefined;
    for (const { port } of resources?.rings ?? []) await this.#endpoint.unbind(port);
  }

  /** Writes our state unless the node is gone: writing must not bring a removed directory back. */
  #setState(state: number): boolean {
    const path = `${this.#options.path}/state`;
    return this.#store.transaction((transaction) => {
      if (transaction.read(path) === undefined) return false;
      transaction.write(path, String(state));
      return true;
    });
  }

  #read(name: string): string | undefined {
    return this.#store.read(`${this.#options.path}/${name}`);
  }

  #required(name: string): string {
    const value = this.#read(name);
    if (value === undefined) throw this.#cannot("connect", `it has no node ${name}`);
    return value;
  }

  #number(name: string, text: string, maximum: number): number {
    const value = parseDecimal(text, 0, maximum);
    if (value === undefined) throw this.#cannot("connect", `node ${name} says ${JSON.stringify(text)}`);
    return value;
  }

  #backendError(backendPath: string): string {
    return this.#store.read(`${backendPath}/error`) ?? "it gives no reason";
  }

  #cannot(verb: string, why: string): XenblkError {
    return new XenblkError(`Cannot ${verb} ${this.#options.path}: ${why}`);
  }
}
