/**
 * One device's xenstore nodes as the backend reads and writes them. A state node is written only in a transaction that
 * finds in it what the decision was based on, so that a node that was deleted, or that the toolstack changed meanwhile,
 * stays as it is. The guest's nodes are read outside of transactions: a guest that keeps writing them would make every
 * transaction fail that has read one.
 */

import { XenblkError } from "../errors.ts";
import { type DomId, type Xenstore, XenstoreError, type XenstoreOperations } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { parseDecimal } from "../xenbus/decimal.ts";
import {
  IMAGE_MODE_NODE,
  INFO_READ_ONLY,
  MOST_RING_PAGE_ORDER,
  type NodeValue,
  type Offer,
  readOffer,
} from "../xenbus/features.ts";
import { type FrontendParameters, type NegotiationOptions, readFrontend } from "../xenbus/negotiate.ts";
import { requestRemoval } from "../toolstack/removal.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../xenbus/paths.ts";
import { parseResize, RESIZE_NODE } from "../xenbus/resize.ts";
import { type ObservedState, parseState, XenbusState } from "../xenbus/states.ts";
import type { Turns } from "../turns.ts";
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
  "feature-max-indirect-segments",
  "multi-queue-max-queues",
  "discard-granularity",
  "discard-alignment",
  "discard-secure",
  IMAGE_MODE_NODE,
];

/** The nodes that decide a device's next step. */
export interface Observation {
  /** Our own node, which the toolstack writes too. */
  readonly backendState: ObservedState;
  /** The guest's node. */
  readonly frontendState: ObservedState;
  /** The toolstack wants the device kept for a reconnect. */
  readonly online: boolean;
  /** The directory that the backend's `frontend` node names. */
  readonly frontendPath: string;
  /** The toolstack asks to look at the image's size again, or to make the image larger. */
  readonly resizeAsked: boolean;
  /** How large the image is to be made, in bytes. */
  readonly resizeTo?: number;
  /** The image, as the toolstack names it. */
  readonly params: string | undefined;
  /** The guest keeps this process from reading its state, which is `invalid` then. */
  readonly hidden: boolean;
}

/** What a CD-ROM drive without a disc opens in place of an image. */
export const NO_DISC = { format: "null", target: "0" } as const;

/** What the toolstack says of the disk. */
export interface DeviceDescription {
  /** As a toolstack names an image: `format:target`, ..., see storage/image/spec.ts. */
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
  /** The guest's UUID, as far as it is known. */
  readonly guestUuid?: string;
}

/**
 * The nodes of one device over one connection to xenstored. Methods that return a promise make many calls, and let the
 * event loop go on between two of them: xenstored may be slow.
 */
export class DeviceNodes {
  readonly #store: Xenstore;
  readonly #address: DeviceAddress;
  readonly #path: string;
  readonly #turns: Turns;

  /** Reads nothing yet. */
  constructor(store: Xenstore, address: DeviceAddress, turns: Turns) {
    this.#store = store;
    this.#address = address;
    this.#path = backendPath(address);
    this.#turns = turns;
  }

  /** Whether xenstored knows the guest. */
  get guestExists(): boolean {
    return this.#store.isDomainIntroduced(this.#address.frontendDomain);
  }

  /** The guest's name; see {@linkcode guestName}. */
  get guestName(): string | undefined {
    return guestName(this.#store, this.#address.frontendDomain);
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

  /**
   * Whether an observation still holds, as far as connecting depends on it: Initialised and Connected are alike, so that
   * a frontend that goes from one to the other, even again and again, does not keep its rings from being served.
   */
  async isCurrent(seen: Observation): Promise<boolean> {
    const now = await this.observe();
    return now.backendState === seen.backendState && now.online === seen.online && now.params === seen.params &&
      now.frontendPath === seen.frontendPath &&
      (now.frontendState === seen.frontendState || (hasRings(now) && hasRings(seen)));
  }

  /** What the nodes say now. The state is read before and after the others, which so belong to one state. */
  async observe(): Promise<Observation> {
    for (;;) {
      const [state, frontend, online, resize, params, after] = await this.#turns.map(
        ["state", "frontend", "online", RESIZE_NODE, "params", "state"],
        (name) => this.#store.read(`${this.#path}/${name}`),
      );
      if (state !== after) continue;
      const path = frontend ?? frontendPath(this.#address);
      const asked = parseResize(resize);
      return {
        backendState: parseState(state),
        online: online === "1",
        frontendPath: path,
        resizeAsked: asked !== undefined,
        ...(asked?.sizeBytes === undefined ? {} : { resizeTo: asked.sizeBytes }),
        params,
        ...await this.#turns.run(() => this.#readGuestState(path)),
      };
    }
  }

  #readGuestState(frontend: string): Pick<Observation, "frontendState" | "hidden"> {
    try {
      return { frontendState: parseState(this.#store.read(`${frontend}/state`)), hidden: false };
    } catch (error) {
      if (isHidden(error)) return { frontendState: "invalid", hidden: true };
      throw error;
    }
  }

  /**
   * Reads what the disk is. `image` replaces `params`. Undefined if the device is gone. Throws {@linkcode XenblkError}
   * naming a node that is missing.
   */
  describe(image: string | undefined): DeviceDescription | undefined {
    // Not within the transaction, which a node of the guest's directory could make fail.
    const uuid = this.#guestUuid();
    try {
      return this.#store.transaction((transaction) => ({
        ...this.#describe((name) => transaction.read(`${this.#path}/${name}`), image),
        ...uuid,
      }));
    } catch (error) {
      // Nodes that are removed all at once while they are read are not missing.
      if (error instanceof XenblkError && this.#store.read(`${this.#path}/state`) === undefined) return undefined;
      throw error;
    }
  }

  #describe(read: (name: string) => string | undefined, image: string | undefined): DeviceDescription {
    const required = (name: string, value = read(name)): string => {
      if (value !== undefined && value !== "") return value;
      throw new XenblkError(`Cannot serve ${this.#path}: its node ${name} is ${value === "" ? "empty" : "missing"}`, {
        remedy: name === "params" ? "let the toolstack write it, or give --image" : "let the toolstack write it",
      });
    };
    const params = image ?? read("params");
    const cdrom = required("device-type") === "cdrom";
    const empty = params !== undefined && /^([a-z][a-z0-9]*:)?$/.test(params);
    if (empty && !cdrom) {
      throw new XenblkError(`Cannot serve ${this.#path}: its node params names no image, and it is no CD-ROM drive`, {
        remedy: "attach it with an image, or with devtype=cdrom as an empty drive",
      });
    }
    return {
      params: empty ? `${NO_DISC.format}:${NO_DISC.target}` : required("params", params),
      readOnly: !required("mode").includes("w"),
      shared: required("mode").includes("!"),
      type: required("type"),
      name: required("dev"),
      cdrom,
      removable: read("removable") === "1",
      directIoSafe: read("direct-io-safe") === "1",
      discardEnable: read("discard-enable") !== "0",
    };
  }

  /** A domain other than domain 0 may not be allowed to read it. */
  #guestUuid(): Pick<DeviceDescription, "guestUuid"> {
    try {
      const uuid = /^\/vm\/([0-9a-f-]{36})/i.exec(
        this.#store.read(`/local/domain/${this.#address.frontendDomain}/vm`) ?? "",
      );
      return uuid === null ? {} : { guestUuid: uuid[1]!.toLowerCase() };
    } catch (error) {
      if (isHidden(error)) return {};
      throw error;
    }
  }

  /** What the frontend asks for. Throws {@linkcode XenblkError} naming the node that is wrong. */
  readFrontend(options: NegotiationOptions): FrontendParameters {
    return readFrontend((name) => {
      try {
        return this.#store.read(`${options.frontendPath}/${name}`);
      } catch (error) {
        if (isHidden(error)) throw hiddenNode(`${options.frontendPath}/${name}`);
        throw error;
      }
    }, options);
  }

  /** What is published, by this process or by the one before. */
  publishedOffer(): Offer {
    return readOffer((name) => this.#store.read(`${this.#path}/${name}`));
  }

  /** Whether the backend that connected the guest kept its writes from the image. */
  keptWrites(): boolean {
    const isReadOnly = (Number(this.#store.read(`${this.#path}/info`) ?? INFO_READ_ONLY) & INFO_READ_ONLY) !== 0;
    return !isReadOnly && this.#store.read(`${this.#path}/${IMAGE_MODE_NODE}`) === "r";
  }

  /** The values of all nodes that others write, as one text, to see whether any has changed. */
  async fingerprint(seen: Observation): Promise<string> {
    const { maxQueues } = this.publishedOffer();
    const asked = this.#readUnlessHidden(`${seen.frontendPath}/multi-queue-num-queues`) ?? "";
    // With another number than these, no queue's nodes are read.
    const length = parseDecimal(asked, 1, maxQueues) ?? 0;
    const ofQueues = Array.from({ length }, (_, queue) => RING_NODES.map((name) => `queue-${queue}/${name}`)).flat();
    const paths = [
      ...[...TOOLSTACK_NODES].map((name) => `${this.#path}/${name}`),
      ...[...FRONTEND_NODES, ...ofQueues].map((name) => `${seen.frontendPath}/${name}`),
    ];
    return JSON.stringify(await this.#turns.map(paths, (path) => this.#readUnlessHidden(path)));
  }

  #readUnlessHidden(path: string): string | undefined {
    try {
      return this.#store.read(path);
    } catch (error) {
      if (isHidden(error)) return undefined;
      throw error;
    }
  }

  /**
   * Writes the features that do not depend on the image, and goes to InitWait. `error` is what is still wrong, if
   * anything. False, with nothing written, if the state changed.
   */
  offer(from: ObservedState, features: readonly NodeValue[], error: string | undefined): boolean {
    return this.#fromState(from, (transaction) => {
      // A toolstack that waits for the image must not find how an earlier attempt ended.
      if (this.#showError(transaction, error)) transaction.remove(`${this.#path}/hotplug-status`);
      this.#writeFeatures(transaction, features);
      transaction.remove(`${this.#path}/${NONCE_NODE}`); // what comes is another connection
      transaction.write(`${this.#path}/state`, String(XenbusState.InitWait));
    });
  }

  /** The image is open: writes all features, and tells the toolstack. Otherwise as {@linkcode offer}. */
  opened(from: ObservedState, features: readonly NodeValue[], error: string | undefined): boolean {
    return this.#fromState(from, (transaction) => {
      this.#showError(transaction, error);
      this.#writeFeatures(transaction, features);
      this.#update(transaction, [["hotplug-status", "connected"]]);
    });
  }

  /**
   * Writes these nodes and goes to Connected. `quietly` writes the state only if a node changed: a frontend that is
   * Connected to us already has nothing to learn. Otherwise as {@linkcode offer}.
   */
  connect(from: ObservedState, nodes: readonly NodeValue[], error: string | undefined, quietly: boolean): boolean {
    return this.#fromState(from, (transaction) => {
      const changed = this.#update(transaction, nodes);
      this.#showError(transaction, error);
      this.#update(transaction, [["hotplug-status", "connected"]]);
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
   * Writes what is wrong where people and tools look for it: the node `error`, the one below `error/` of our own domain,
   * and, if the image could not be opened, the hotplug nodes that libxl waits for. Undefined: nothing is wrong any more.
   * Writes nothing if that is what the nodes say, or the device is gone.
   */
  showError(text: string | undefined, opening = false): void {
    const line = text === undefined ? undefined : printable(text);
    const isShown = this.#store.read(`${this.#path}/error`) === line &&
      (!opening || this.#store.read(`${this.#path}/hotplug-error`) === line);
    if (isShown) return;
    this.#fromState(undefined, (transaction) => {
      this.#showError(transaction, text);
      if (!opening || line === undefined) return;
      transaction.write(`${this.#path}/hotplug-error`, line);
      transaction.write(`${this.#path}/hotplug-status`, "error");
    });
  }

  /** Removes what {@linkcode showError} wrote, also if the device's directory is gone. */
  clearError(): void {
    this.#store.transaction((transaction) => void this.#showError(transaction, undefined));
  }

  /** True if the toolstack had been told that the image could not be opened. */
  #showError(transaction: XenstoreOperations, text: string | undefined): boolean {
    if (text === undefined) {
      transaction.remove(`${this.#path}/error`);
      removeWithEmptyParents(transaction, this.#errorDirectory, `${this.#ownDomainPath}/error`);
    } else {
      transaction.write(`${this.#path}/error`, printable(text));
      transaction.write(`${this.#errorDirectory}/error`, printable(text));
    }
    return transaction.remove(`${this.#path}/hotplug-error`);
  }

  /** Features that an earlier backend published and that are not offered are removed or, in the list, 0. */
  #writeFeatures(transaction: XenstoreOperations, features: readonly NodeValue[]): void {
    const offered = new Set(features.map(([name]) => name));
    for (const name of ABSENT_IF_NOT_OFFERED) {
      if (!offered.has(name)) transaction.remove(`${this.#path}/${name}`);
    }
    this.#update(transaction, features);
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

/** The frontend has published rings, or had them served. */
function hasRings({ frontendState }: Observation): boolean {
  return frontendState === XenbusState.Initialised || frontendState === XenbusState.Connected;
}

/** The guest owns its nodes and can make them unreadable for a driver domain. */
function isHidden(error: unknown): boolean {
  return error instanceof XenstoreError && error.code === "EACCES";
}

/** The error for a guest's node that this process may not read. */
export function hiddenNode(path: string): XenblkError {
  return new XenblkError(`Cannot read ${path}: the guest does not permit it (EACCES)`, {
    remedy: "let the guest's driver, or xenstore-chmod in domain 0, give this domain read access to that directory",
  });
}

/** A guest's name, if its toolstack has named it and this domain may read it: a driver domain may not. */
export function guestName(store: XenstoreOperations, domain: DomId): string | undefined {
  try {
    return store.read(`/local/domain/${domain}/name`) || undefined;
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "EACCES") return undefined;
    throw error;
  }
}

/** The toolstack's request for removal is carried out. */
export function isRemoved({ backendState, online }: Observation): boolean {
  return backendState === XenbusState.Closed && !online;
}
