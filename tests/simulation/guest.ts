/**
 * One guest with one disk, single-stepped: introduces its ring, sends requests and takes answers, closes politely or
 * rudely, comes again, misbehaves, dies. It follows its backend by looking at xenstore whenever it is stepped, so a
 * change may reach it late. It must not know the backend's process, nor check anything but its own ring and pages.
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

/** Where a guest's driver stands. */
export type GuestPhase =
  /** Waits for the backend, then introduces its ring. */
  | "starting"
  /** Has introduced its ring. */
  | "waiting"
  | "connected"
  /** Sends nothing any more; then says Closing, Closed, and waits for the backend. */
  | "quiescing"
  | "closing"
  | "closed"
  /** Its driver has no device. */
  | "gone";

/** What a guest is made of. */
export interface GuestOptions {
  readonly run: Run;
  readonly platform: Platform;
  readonly connect: () => Xenstore;
  readonly address: DeviceAddress;
  readonly watch: DiskWatch;
  /** The ABI that the backend takes it for if it names none. */
  readonly defaultAbi: AbiName;
  /** Of a thousand requests, or introductions, how many are bad. */
  readonly hostility: number;
  /** Has it any ring that the backend serves? */
  readonly served: () => boolean;
  /**
   * It will not use the connection any more; `giveBack` is to be called when the backend does not either; undefined:
   * that is done.
   */
  readonly dropped: (connection: GuestConnection, giveBack: (() => void) | undefined) => void;
}

const { Initialising, InitWait, Connected, Closing, Closed } = XenbusState;
/** See the file's first lines. */
export class Guest {
  readonly address: DeviceAddress;
  /** Nothing but what leads to an end: no new requests, no misbehaviour. */
  calm = false;
  readonly #options: GuestOptions;
  readonly #run: Run;
  readonly #path: string;
  readonly #backend: string;
  #store: Xenstore | undefined;
  #phase: GuestPhase = "starting";
  /** The state that it means to be in. */
  #said: number | undefined;
  #handshake: Handshake;
  #connection: GuestConnection | undefined;
  /** What the backend offered when the connection was made; undefined until that is known. */
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

  /** The connection in use. */
  get connection(): GuestConnection | undefined {
    return this.#connection;
  }

  /** One thing that the guest does. Throws XenstoreError if it needs a store and there is none. */
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

  /** Writes some state into its node, whatever it means. */
  talkNonsense(): void {
    this.#run.faults.count("state nonsense");
    // To say that it begins anew while its ring is in use is its own undoing: it loses what is in flight.
    const idle = (this.#connection?.inFlight ?? 0) === 0;
    this.#write(this.#run.decisions.pick(["0", "7", "8", "x", "", "5", ...(idle ? ["1", "3"] : [])]));
  }

  /** Corrects what {@linkcode talkNonsense} may have left. */
  stopNonsense(): void {
    if (this.#said !== undefined && this.#state(this.#path) !== this.#said) this.#say(this.#said);
  }

  /** Sends an impossible index. */
  overrun(): void {
    const connection = this.#connection;
    if (this.#phase !== "connected" || connection === undefined || connection.isOverrun) return;
    this.#run.faults.count("ring overrun");
    this.#run.decisions.pick(connection.rings).ring.runOver(this.#run.decisions.between(1, 1000));
  }

  /** Begins to close. */
  beginClose(rudely: boolean): void {
    if (this.#phase !== "connected" && this.#phase !== "waiting") return;
    this.#phase = "quiescing";
    if (!rudely) return;
    this.#run.faults.count("rude close");
    this.#say(Closed);
    this.#release();
    this.#phase = "closing";
  }

  /** Its memory and ports are gone, with everything else. */
  die(): void {
    this.#phase = "gone";
    this.#release();
  }

  /** The device was taken away under the driver: it keeps its pages until the backend has let them go. */
  vanish(): void {
    const connection = this.#connection;
    this.#phase = "gone";
    this.#connection = undefined;
    if (connection !== undefined) this.#options.dropped(connection, () => connection.giveBack());
  }

  #start(): void {
    const state = this.#state(this.#backend);
    if (state === "gone") return this.vanish();
    if (this.#state(this.#path) !== Initialising) this.#say(Initialising);
    if (this.#handshake.waits && state !== InitWait) return;
    // At Connected it would look like one that has not yet seen the backend close.
    if (state === Closed && this.#handshake.readyState === Connected) return;
    const connection = this.#connection ??= this.#connect(state);
    if (this.#handshake.early) connection.send(undefined, this.#options.hostility);
    publish(this.#xenstore, this.#path, this.#handshake, connection.rings);
    if (this.#handshake.wrong !== undefined) this.#run.faults.count("bad handshake");
    this.#say(this.#handshake.readyState);
    this.#phase = "waiting";
  }

  #await(): void {
    const state = this.#state(this.#backend);
    if (state === "gone") return this.vanish();
    if (state === Closing || (state === Closed && this.#handshake.waits)) return this.beginClose(false);
    if (state !== Connected) return;
    this.#run.require(this.#handshake.wrong === undefined, `the backend accepted ${this.#handshake.wrong?.join("=")}`);
    this.#offer = this.#readOffer();
    this.#say(Connected);
    this.#phase = "connected";
  }

  #work(): void {
    const { decisions } = this.#run;
    const connection = this.#connection!;
    // A guest that only looks when it is told finds out if it is not.
    if (!this.calm && decisions.chance(150)) connection.peek();
    else connection.answerEvents();
    if (!this.calm && decisions.chance(600)) connection.send(this.#offer, this.#options.hostility);
    if (this.calm || decisions.chance(400)) this.#heed();
  }

  /** What the backend says counts. */
  #heed(): void {
    const state = this.#state(this.#backend);
    if (state === "gone") return this.vanish();
    const useless = this.calm && this.#connection!.isOverrun;
    if (state === Closing || state === Closed || useless) this.beginClose(false);
  }

  #quiesce(): void {
    const connection = this.#connection;
    connection?.answerEvents();
    const backend = this.#state(this.#backend);
    if (backend === "gone") return this.vanish();
    const idle = connection === undefined || connection.inFlight === 0 || connection.isOverrun || backend === Closed;
    if (!idle && this.#options.served()) return;
    this.#say(Closing);
    this.#phase = "closing";
  }

  #close(): void {
    const backend = this.#state(this.#backend);
    if (backend === "gone") return this.vanish();
    const heard = backend === Closing || backend === Closed;
    if (heard && this.#state(this.#path) !== Closed) this.#say(Closed);
    if (backend !== Closed) return;
    this.#release();
    this.#phase = "closed";
  }

  #reopen(): void {
    if (this.#read(`${this.#backend}/online`) !== "1") {
      if (this.#state(this.#backend) === "gone") this.vanish();
      return;
    }
    this.#handshake = this.#chooseHandshake();
    this.#say(Initialising);
    this.#phase = "starting";
  }

  /** Makes what is to be introduced. What is offered is known only to one that waited for it. */
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
    connection.giveBack();
    this.#options.dropped(connection, undefined);
  }

  #chooseHandshake(): Handshake {
    const { defaultAbi, hostility } = this.#options;
    return chooseHandshake(this.#run.decisions, defaultAbi, this.calm ? 0 : hostility);
  }

  get #xenstore(): Xenstore {
    return this.#store ??= this.#options.connect();
  }

  /** After the store was lost: the next use opens another connection. */
  forgetStore(): void {
    this.#store = undefined;
  }

  #state(path: string): ObservedState {
    return parseState(this.#read(`${path}/state`));
  }

  /** Of a directory that was removed a guest may not even know that it is gone. */
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

  /** A node that was removed must not come back by our writing it. */
  #write(state: string): void {
    this.#run.note(`guest ${this.address.frontendDomain} state ${state}`);
    this.#xenstore.transaction((transaction) => {
      if (transaction.read(`${this.#path}/state`) !== undefined) transaction.write(`${this.#path}/state`, state);
    });
  }
}
