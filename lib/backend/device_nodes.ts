/**
 * One device's xenstore nodes as the backend reads and writes them. A state node is written only in a transaction that
 * finds in it what the decision was based on, so that a node that was deleted, or that the toolstack changed meanwhile,
 * stays as it is.
 */

import { XenblkError } from "../errors.ts";
import { type Xenstore, XenstoreError, type XenstoreOperations } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { MOST_RING_PAGE_ORDER, type NodeValue, type Offer, readOffer } from "../xenbus/features.ts";
import { type FrontendParameters, type NegotiationOptions, readFrontend } from "../xenbus/negotiate.ts";
import { requestRemoval } from "../toolstack/removal.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../xenbus/paths.ts";
import { RESIZE_NODE, RESIZE_REQUEST } from "../xenbus/resize.ts";
import { type ObservedState, parseState, XenbusState } from "../xenbus/states.ts";
import { removeWithEmptyParents } from "../xenstore.ts";
import { ATTACHMENT_NODE } from "./device_latch.ts";
import { NONCE_NODE } from "./journals.ts";

/** Nodes of the backend directory that the toolstack writes and that a device reads. */
export const TOOLSTACK_NODES: ReadonlySet<string> = new Set([
  "state",
  "online",
  "frontend",
  "params",
  "mode",
  "type",
  "dev",
  "device-type",
  "removable",
  "direct-io-safe",
  "discard-enable",
  RESIZE_NODE,
]);

/** Nodes of one ring, in the frontend's directory or in its queue's. */
const RING_NODES = [
  "event-channel",
  "ring-ref",
  ...Array.from({ length: 2 ** MOST_RING_PAGE_ORDER }, (_, page) => `ring-ref${page}`),
];

/** Nodes of the frontend that decide whether it can be connected to; see {@linkcode DeviceNodes.fingerprint}. */
const FRONTEND_NODES = [
  "state",
  "protocol",
  "ring-page-order",
  "num-ring-pages",
  "multi-queue-num-queues",
  "feature-persistent",
  ...RING_NODES,
];

/** Features that an earlier backend may have published; they are removed, not set to 0, where they are not offered. */
const ABSENT_IF_NOT_OFFERED = [
  NONCE_NODE,
  "feature-max-indirect-segments",
  "multi-queue-max-queues",
  "discard-granularity",
  "discard-alignment",
  "discard-secure",
];

/** The nodes that decide a device's next step, read in one transaction. */
export interface Observation {
  /** Our own node, which the toolstack writes too. */
  readonly backendState: ObservedState;
  /** The guest's node. */
  readonly frontendState: ObservedState;
  /** The toolstack wants the device kept for a reconnect. */
  readonly online: boolean;
  /** The directory that the backend's `frontend` node names. */
  readonly frontendPath: string;
  /** The toolstack asks to look at the image's size again. */
  readonly resizeAsked: boolean;
}

/** What the toolstack says of the disk. */
export interface DeviceDescription {
  /** `target` or `format:target`. */
  readonly params: string;
  /** `mode` does not allow writing. */
  readonly readOnly: boolean;
  /** `mode` is `w!`: others may write to the image too. */
  readonly shared: boolean;
  /** The backend's type as the toolstack calls it. */
  readonly type: string;
  /** The virtual device's name, such as `xvda`. */
  readonly name: string;
  /** `device-type` says so. */
  readonly cdrom: boolean;
  /** The node `removable` says 1. */
  readonly removable: boolean;
  /** The node `direct-io-safe` says 1: the device itself may read and write the guest's pages. */
  readonly directIoSafe: boolean;
  /** The node `discard-enable` does not say 0. */
  readonly discardEnable: boolean;
}

/** The nodes of one device over one connection to xenstored. */
export class DeviceNodes {
  readonly #store: Xenstore;
  readonly #address: DeviceAddress;
  readonly #path: string;

  /** Reads nothing yet. */
  constructor(store: Xenstore, address: DeviceAddress) {
    this.#store = store;
    this.#address = address;
    this.#path = backendPath(address);
  }

  /** Whether xenstored knows the guest. */
  get guestExists(): boolean {
    return this.#store.isDomainIntroduced(this.#address.frontendDomain);
  }

  /** The nonce of the connection that was served last, if one was. */
  connectionNonce(): string | undefined {
    return this.#store.read(`${this.#path}/${NONCE_NODE}`);
  }

  /** The nonce of this attachment of the disk; undefined until it was served. */
  attachmentNonce(): string | undefined {
    return this.#store.read(`${this.#path}/${ATTACHMENT_NODE}`);
  }

  /** Writes it, unless the device is gone. */
  keepAttachmentNonce(nonce: string): void {
    this.#fromState(undefined, (transaction) => transaction.write(`${this.#path}/${ATTACHMENT_NODE}`, nonce));
  }

  /** Writes nodes that must be there before rings are served, unless the device is gone. */
  prepare(nodes: readonly NodeValue[]): void {
    if (nodes.length > 0) this.#fromState(undefined, (transaction) => void this.#update(transaction, nodes));
  }

  /** Whether an observation still holds. */
  isUnchanged(seen: Observation): boolean {
    return JSON.stringify(this.observe()) === JSON.stringify(seen);
  }

  /** What the nodes say now, as of one moment. */
  observe(): Observation {
    return this.#store.transaction((transaction) => {
      const frontend = transaction.read(`${this.#path}/frontend`) ?? frontendPath(this.#address);
      return {
        backendState: parseState(transaction.read(`${this.#path}/state`)),
        frontendState: readGuestState(transaction, `${frontend}/state`),
        online: transaction.read(`${this.#path}/online`) === "1",
        frontendPath: frontend,
        resizeAsked: transaction.read(`${this.#path}/${RESIZE_NODE}`) === RESIZE_REQUEST,
      };
    });
  }

  /** Reads what the disk is. `image` replaces `params`. Throws {@linkcode XenblkError} naming a node that is missing. */
  describe(image: string | undefined): DeviceDescription {
    return this.#store.transaction((transaction) => {
      const required = (name: string): string => {
        const value = transaction.read(`${this.#path}/${name}`);
        if (value !== undefined && value !== "") return value;
        throw new XenblkError(`Cannot serve ${this.#path}: its node ${name} is ${value === "" ? "empty" : "missing"}`, {
          remedy: name === "params" ? "let the toolstack write it, or give --image" : "let the toolstack write it",
        });
      };
      return {
        params: image ?? required("params"),
        readOnly: !required("mode").includes("w"),
        shared: required("mode").includes("!"),
        type: required("type"),
        name: required("dev"),
        cdrom: required("device-type") === "cdrom",
        removable: transaction.read(`${this.#path}/removable`) === "1",
        directIoSafe: transaction.read(`${this.#path}/direct-io-safe`) === "1",
        discardEnable: transaction.read(`${this.#path}/discard-enable`) !== "0",
      };
    });
  }

  /** What the frontend asks for. Throws {@linkcode XenblkError} naming the node that is wrong. */
  readFrontend(options: NegotiationOptions): FrontendParameters {
    return this.#store.transaction((transaction) =>
      readFrontend((name) => transaction.read(`${options.frontendPath}/${name}`), options)
    );
  }

  /** What is published, by this process or by the one before. */
  publishedOffer(): Offer {
    return this.#store.transaction((transaction) => this.#readOffer(transaction));
  }

  /**
   * The values of all nodes that others write, as one text, to see whether any has changed. It is read without a
   * transaction: a guest that keeps writing would make one of so many reads fail again and again.
   */
  fingerprint(seen: Observation): string {
    const { maxQueues } = this.#readOffer(this.#store);
    const ofQueues = maxQueues === 1
      ? []
      : Array.from({ length: maxQueues }, (_, queue) => RING_NODES.map((name) => `queue-${queue}/${name}`)).flat();
    return JSON.stringify([
      [...TOOLSTACK_NODES].map((name) => this.#store.read(`${this.#path}/${name}`)),
      [...FRONTEND_NODES, ...ofQueues].map((name) => this.#store.read(`${seen.frontendPath}/${name}`)),
    ]);
  }

  /** Writes these nodes, clears an error, and goes to InitWait. False, with nothing written, if the state changed. */
  offer(from: ObservedState, nodes: readonly NodeValue[]): boolean {
    return this.#fromState(from, (transaction) => {
      this.#clearError(transaction);
      const offered = new Set(nodes.map(([name]) => name));
      for (const name of ABSENT_IF_NOT_OFFERED) {
        if (!offered.has(name)) transaction.remove(`${this.#path}/${name}`);
      }
      this.#update(transaction, nodes);
      transaction.write(`${this.#path}/state`, String(XenbusState.InitWait));
    });
  }

  /**
   * Writes these nodes, clears an error, and goes to Connected. `quietly` writes the state only if a node changed: a
   * frontend that is Connected to us already has nothing to learn. False, with nothing written, if the state changed.
   */
  connect(from: ObservedState, nodes: readonly NodeValue[], quietly: boolean): boolean {
    return this.#fromState(from, (transaction) => {
      const changed = this.#update(transaction, nodes);
      this.#clearError(transaction);
      if (changed || !quietly) transaction.write(`${this.#path}/state`, String(XenbusState.Connected));
    });
  }

  /**
   * Answers a request to look at the image's size. A frontend that knows another size is told by the node `sectors` and
   * by Connected, written again.
   */
  answerResize(answer: string, sectors: number | undefined): void {
    this.#fromState(undefined, (transaction) => {
      const state = transaction.read(`${this.#path}/state`);
      const node = `${this.#path}/sectors`;
      const known = sectors === undefined || transaction.read(node) === String(sectors);
      if (!known && parseState(state) === XenbusState.Connected) {
        transaction.write(node, String(sectors));
        transaction.write(`${this.#path}/state`, state!);
      }
      // The toolstack may have stopped waiting and removed its request.
      const request = `${this.#path}/${RESIZE_NODE}`;
      if (transaction.read(request) !== undefined) transaction.write(request, printable(answer));
    });
  }

  /** Asks for the device's removal as a toolstack does. */
  requestRemoval(): void {
    requestRemoval(this.#store, this.#path);
  }

  /** Goes to another state. False, with nothing written, if the state changed. */
  switchState(from: ObservedState, to: XenbusState): boolean {
    return this.#fromState(from, (transaction) => {
      if (from !== to) transaction.write(`${this.#path}/state`, String(to));
    });
  }

  /**
   * Writes an error where people and tools look for it: the node `error`, the one below `error/` of our own domain, and,
   * if the image could not be opened, the hotplug nodes that libxl waits for.
   */
  reportError(message: string, opening: boolean): void {
    const text = printable(message);
    this.#fromState(undefined, (transaction) => {
      transaction.write(`${this.#path}/error`, text);
      transaction.write(`${this.#errorDirectory}/error`, text);
      if (!opening) return;
      transaction.write(`${this.#path}/hotplug-error`, text);
      transaction.write(`${this.#path}/hotplug-status`, "error");
    });
  }

  /** Removes what {@linkcode reportError} wrote, also if the device's directory is gone. */
  clearError(): void {
    this.#store.transaction((transaction) => this.#clearError(transaction));
  }

  #clearError(transaction: XenstoreOperations): void {
    transaction.remove(`${this.#path}/error`);
    if (transaction.remove(`${this.#path}/hotplug-error`)) {
      transaction.write(`${this.#path}/hotplug-status`, "connected");
    }
    removeWithEmptyParents(transaction, this.#errorDirectory, `${this.#ownDomainPath}/error`);
  }

  #readOffer(store: XenstoreOperations): Offer {
    return readOffer((name) => store.read(`${this.#path}/${name}`));
  }

  get #ownDomainPath(): string {
    return this.#store.domainPath(this.#address.backendDomain);
  }

  get #errorDirectory(): string {
    return `${this.#ownDomainPath}/error/${this.#path.slice(this.#ownDomainPath.length + 1)}`;
  }

  /** Runs `body` if there is a state node and it says `from`; undefined stands for any state. */
  #fromState(from: ObservedState | undefined, body: (transaction: XenstoreOperations) => void): boolean {
    return this.#store.transaction((transaction) => {
      const text = transaction.read(`${this.#path}/state`);
      if (text === undefined || (from !== undefined && parseState(text) !== from)) return false;
      body(transaction);
      return true;
    });
  }

  #update(transaction: XenstoreOperations, nodes: readonly NodeValue[]): boolean {
    let changed = false;
    for (const [name, value] of nodes) {
      const path = `${this.#path}/${name}`;
      if (transaction.read(path) === value) continue;
      transaction.write(path, value);
      changed = true;
    }
    return changed;
  }
}

/** The guest owns its node and can make it unreadable for a driver domain; the other nodes must stay readable. */
function readGuestState(transaction: XenstoreOperations, path: string): ObservedState {
  try {
    return parseState(transaction.read(path));
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "EACCES") return "invalid";
    throw error;
  }
}
