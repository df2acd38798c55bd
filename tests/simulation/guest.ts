/**
 * One guest with one disk, single-stepped: connects, sends requests and takes responses, closes in order or abruptly,
 * reconnects, misbehaves, dies. It reads its backend's state only when it is stepped, so that it may react late. Checks
 * its own rings and pages.
 */

import type { AbiName } from "../../lib/blkif/abi.ts";
import { type Platform, type Xenstore, XenstoreError } from "../../lib/hypervisor.ts";
import { BASIC_OFFER, type Offer, readOffer } from "../../lib/xenbus/features.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../lib/xenbus/paths.ts";
import { type ObservedState, parseState, XenbusState } from "../../lib/xenbus/states.ts";
import type { DiskWatch } from "./disk_watch.ts";
import { GuestConnection } from "./guest_connection.ts";
import { chooseHandshake, type Handshake, publish, shapeOf } from "./handshake.ts";
import type { Run } from "./run.ts";

/** Phase of the guest's driver. */
type GuestPhase =
  /** Waits for the backend, then publishes its rings. */
  | "starting"
  /** Has published its rings. */
  | "waiting"
  | "connected"
  /** Sends no more requests; then goes to Closing and Closed, and waits for the backend. */
  | "quiescing"
  | "closing"
  | "closed"
  /** The driver has no device any more. */
  | "gone";

/** Options of a {@linkcode Guest}. */
export interface GuestOptions {
  readonly run: Run;
  readonly platform: Platform;
  readonly connect: () => Xenstore;
  readonly address: DeviceAddress;
  readonly watch: DiskWatch;
  /** The ABI that the backend assumes if the guest publishes none. */
  readonly defaultAbi: AbiName;
  /** Of 1000 requests, or handshakes, how many are bad. */
  readonly hostility: number;
  /** Whether the backend serves a ring of the guest. */
  readonly served: () => boolean;
  /**
   * The guest does not use the connection any more. `release` must be called when the backend does not either;
   * undefined: the grants are revoked already.
   */
  readonly dropped: (connection: GuestConnection, release: (() => void) | undefined) => void;
}

const { Initialising, InitWait, Connected, Closing, Closed } = XenbusState;
/** A guest's driver for one disk. */
export class Guest {
  readonly address: DeviceAddress;
  /** Sends no new requests and does not misbehave: set when a run ends. */
  calm = false;
  readonly #options: GuestOptions;
  readonly #run: Run;
  readonly #path: string;
  readonly #backend: string;
  #store: Xenstore | undefined;
  #phase: GuestPhase = "starting";
  /** The state that it last wrote on purpose. */
  #said: number | undefined;
  #handshake: Handshake;
  #connection: GuestConnection | undefined;
  /** The backend has been Closed since before the rings were published: it closed an earlier connection. */
  #staleClosed = false;
  /** What the backend offered for this connection; undefined until the guest knows. */
  #offer: Offer | undefined;

  constructor(options: GuestOptions) {
    this.#options = options;
    this.#run = options.run;
    this.address = options.address;
    this.#path = frontendPath(options.address);
    this.#backend = backendPath(options.address);
    this.#handshake = this.#chooseHandshake();
  }

  get phase(): GuestPhase {
    return this.#phase;
  }

  /** The present connection. */
  get connection(): GuestConnection | undefined {
    return this.#connection;
  }

  /** The guest does one thing. Throws XenstoreError if it needs xenstore and there is none. */
  step(): void {
    switch (this.#phase) {
      case "starting":
        return this.#start();
      case "waiting":
        return this.#await();
      case "connected":
        return this.#work();
      case "quiescing":
        return this.#quiesce();
      case "closing":
        return this.#close();
      case "closed":
        return this.#reopen();
      case "gone":
        return;
    }
  }

  /** Writes a wrong state. */
  writeWrongState(): void {
    this.#run.faults.count("state nonsense");
    // With requests in flight it would lose them by Initialising or Initialised, by its own fault.
    const idle = (this.#connection?.inFlight ?? 0) === 0;
    this.#write(this.#run.decisions.pick(["0", "7", "8", "x", "", "5", ...(idle ? ["1", "3"] : [])]));
  }

  /** Corrects what {@linkcode writeWrongState} wrote. */
  correctState(): void {
    if (this.#said !== undefined && this.#state(this.#path) !== this.#said) this.#say(this.#said);
  }

  /** Publishes an impossible producer index. */
  overrun(): void {
    const connection = this.#connection;
    if (this.#phase !== "connected" || connection === undefined || connection.isOverrun) return;
    this.#run.faults.count("ring overrun");
    this.#run.decisions.pick(connection.rings).ring.runOver(this.#run.decisions.between(1, 1000));
  }

  /** Starts to close; abruptly: releases everything at once, with requests in flight. */
  beginClose(abruptly: boolean): void {
    if (this.#phase !== "connected" && this.#phase !== "waiting") return;
    this.#phase = "quiescing";
    if (!abruptly) return;
    this.#run.faults.count("rude close");
    this.#say(Closed);
    this.#release();
    this.#phase = "closing";
  }

  /** The guest dies: its grants and ports are gone. */
  die(): void {
    this.#phase = "gone";
    this.#release();
  }

  /** The device was removed. The guest keeps its pages until the backend has released them. */
  loseDevice(): void {
    const connection = this.#connection;
    this.#phase = "gone";
    this.#connection = undefined;
    if (connection !== undefined) this.#options.dropped(connection, () => connection.release());
  }

  #start(): void {
    const state = this.#state(this.#backend);
    if (state === "gone") return this.loseDevice();
    if (this.#state(this.#path) !== Initialising) this.#say(Initialising);
    if (this.#handshake.waits && state !== InitWait) return;
    // In state Connected it would look like a guest that has not seen the backend close.
    if (state === Closed && this.#handshake.readyState === Connected) return;
    const connection = this.#connection ??= this.#connect(state);
    if (this.#handshake.early) connection.send(undefined, this.#options.hostility);
    publish(this.#xenstore, this.#path, this.#handshake, connection.rings);
    if (this.#handshake.wrong !== undefined) this.#run.faults.count("bad handshake");
    this.#say(this.#handshake.readyState);
    this.#staleClosed = state === Closed;
    this.#phase = "waiting";
  }

  #await(): void {
    const state = this.#state(this.#backend);
    if (state === "gone") return this.loseDevice();
    this.#staleClosed &&= state === Closed;
    if (state === Closing || (state === Closed && !this.#staleClosed)) return this.beginClose(false);
    if (state !== Connected) return;
    this.#run.require(this.#handshake.wrong === undefined, `the backend accepted ${this.#handshake.wrong?.join("=")}`);
    this.#offer = this.#readOffer();
    this.#say(Connected);
    this.#phase = "connected";
  }

  #work(): void {
    const { decisions } = this.#run;
    const connection = this.#connection!;
    // It looks mostly when notified, so that a lost notification is found.
    if (!this.calm && decisions.chance(150)) connection.peek();
    else connection.answerEvents();
    if (!this.calm && decisions.chance(600)) connection.send(this.#offer, this.#options.hostility);
    if (this.calm || decisions.chance(400)) this.#heed();
  }

  /** Reacts to the backend's state. */
  #heed(): void {
    const state = this.#state(this.#backend);
    if (state === "gone") return this.loseDevice();
    const useless = this.calm && this.#connection!.isOverrun;
    if (state === Closing || state === Closed || useless) this.beginClose(false);
  }

  #quiesce(): void {
    const connection = this.#connection;
    connection?.answerEvents();
    const backend = this.#state(this.#backend);
    if (backend === "gone") return this.loseDevice();
    const idle = connection === undefined || connection.inFlight === 0 || connection.isOverrun || backend === Closed;
    if (!idle && this.#options.served()) return;
    this.#say(Closing);
    this.#phase = "closing";
  }

  #close(): void {
    const backend = this.#state(this.#backend);
    if (backend === "gone") return this.loseDevice();
    const heard = backend === Closing || backend === Closed;
    if (heard && this.#state(this.#path) !== Closed) this.#say(Closed);
    if (backend !== Closed) return;
    this.#release();
    this.#phase = "closed";
  }

  #reopen(): void {
    if (this.#read(`${this.#backend}/online`) !== "1") {
      if (this.#state(this.#backend) === "gone") this.loseDevice();
      return;
    }
    this.#handshake = this.#chooseHandshake();
    this.#say(Initialising);
    this.#phase = "starting";
  }

  /** Makes rings and pages. Only a guest that waited for InitWait knows what is offered. */
  #connect(backend: ObservedState): GuestConnection {
    const { run, platform, watch, address: { backendDomain } } = this.#options;
    this.#offer = undefined;
    const shape = shapeOf(this.#handshake, backend === InitWait ? this.#readOffer() : BASIC_OFFER);
    return new GuestConnection({ run, platform, backend: backendDomain, watch, shape });
  }

  #readOffer(): Offer {
    return readOffer((name) => this.#read(`${this.#backend}/${name}`));
  }

  #release(): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#connection = undefined;
    connection.check();
    connection.release();
    this.#options.dropped(connection, undefined);
  }

  #chooseHandshake(): Handshake {
    const { defaultAbi, hostility } = this.#options;
    return chooseHandshake(this.#run.decisions, defaultAbi, this.calm ? 0 : hostility);
  }

  get #xenstore(): Xenstore {
    return this.#store ??= this.#options.connect();
  }

  /** After xenstore was lost: the next use opens another connection. */
  forgetStore(): void {
    this.#store = undefined;
  }

  #state(path: string): ObservedState {
    return parseState(this.#read(`${path}/state`));
  }

  /** In a removed directory xenstored answers EACCES. */
  #read(path: string): string | undefined {
    try {
      return this.#xenstore.read(path);
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "EACCES") return undefined;
      throw error;
    }
  }

  #say(state: number): void {
    this.#said = state;
    this.#write(String(state));
  }

  /** Writes the state, unless its node was removed. */
  #write(state: string): void {
    this.#run.note(`guest ${this.address.frontendDomain} state ${state}`);
    this.#xenstore.transaction((transaction) => {
      if (transaction.read(`${this.#path}/state`) !== undefined) transaction.write(`${this.#path}/state`, state);
    });
  }
}
