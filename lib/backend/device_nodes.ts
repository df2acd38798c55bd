/**
 * One device's xenstore nodes as the backend reads and writes them. A state node is written only in a transaction that
 * finds in it what the decision was based on, so that a node that was deleted, or that the toolstack changed meanwhile,
 * stays as it is. The guest's nodes are read outside of transactions: a guest that keeps writing them would make every
 * transaction fail that has read one.
 */

import { XenblkError } from "../errors.ts";
import { type Xenstore, XenstoreError, type XenstoreOperations } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { parseDecimal } from "../xenbus/decimal.ts";
import {
  IMAGE_MODE_NODE,
  INFO_READ_ONLY,
  MOST_RING_PAGE_ORDER,
  type NodeValue,
  type Offer,
  OFFER_NODES,
  readOffer,
} from "../xenbus/features.ts";
import {
  type FrontendParameters,
  type NegotiationOptions,
  readFrontend,
  type ReadNode,
  USUAL_FRONTEND_NODES,
} from "../xenbus/negotiate.ts";
import { requestRemoval } from "../toolstack/removal.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../xenbus/paths.ts";
import { parseResize, RESIZE_NODE } from "../xenbus/resize.ts";
import { type ObservedState, parseState, XenbusState } from "../xenbus/states.ts";
import type { Place } from "../turns.ts";
import { readAll, readerOf, removeWithEmptyParents, tryReadAll } from "../xenstore.ts";
import { describe, DESCRIPTION_NODES, type DeviceDescription } from "./description.ts";
import { ATTACHMENT_NODE } from "./device_latch.ts";
import { guestName, hiddenNode, isHidden, unlessError, unlessHidden } from "./guest_nodes.ts";
import { NONCE_NODE } from "./journals.ts";
import { type NamedImage, renameImage, writeImageName } from "./named_image.ts";

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

/** Nodes that an offer removes or replaces, besides those that it writes. */
const REPLACED_NODES = [...ABSENT_IF_NOT_OFFERED, "hotplug-status", NONCE_NODE];

/** Nodes that say what is wrong. */
const ERROR_NODES = ["error", "hotplug-error"];

/** In the order in which {@linkcode DeviceNodes.observe} reads them. */
const OBSERVED_NODES = ["state", "frontend", "online", RESIZE_NODE, "params", "state"];

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

/**
 * The nodes of one device over one connection to xenstored. Methods that return a promise make many calls, and let the
 * event loop go on between two of them: xenstored may be slow.
 */
export class DeviceNodes {
  readonly #store: Xenstore;
  readonly #address: DeviceAddress;
  readonly #path: string;
  readonly #place: Place;

  /** Reads nothing yet. */
  constructor(store: Xenstore, address: DeviceAddress, place: Place) {
    this.#store = store;
    this.#address = address;
    this.#path = backendPath(address);
    this.#place = place;
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

  /** Writes nodes that must be there before rings are served, unless the device is gone. */
  prepare(nodes: readonly NodeValue[]): void {
    if (nodes.length === 0) return;
    this.#fromState(undefined, namesOf(nodes), (transaction, read) => void this.#update(transaction, read, nodes));
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
    const usual = frontendPath(this.#address);
    const ours = OBSERVED_NODES.map((name) => `${this.#path}/${name}`);
    for (;;) {
      const values = await this.#place.run(() => tryReadAll(this.#store, [...ours, `${usual}/state`]));
      const usualState = values.pop();
      const [state, frontend, online, resize, params, after] = values.map(unlessError);
      if (state !== after) continue;
      const path = frontend ?? usual;
      const asked = parseResize(resize);
      return {
        backendState: parseState(state),
        online: online === "1",
        frontendPath: path,
        resizeAsked: asked !== undefined,
        ...(asked?.sizeBytes === undefined ? {} : { resizeTo: asked.sizeBytes }),
        params,
        ...(path === usual ? guestState(usualState) : await this.#place.run(() => this.#readGuestState(path))),
      };
    }
  }

  #readGuestState(frontend: string): Pick<Observation, "frontendState" | "hidden"> {
    return guestState(tryReadAll(this.#store, [`${frontend}/state`])[0]);
  }

  /**
   * Reads what the disk is. `image` replaces `params`. Undefined if the device is gone. Throws {@linkcode XenblkError}
   * naming a node that is missing.
   */
  describe(image: string | undefined): DeviceDescription | undefined {
    try {
      return { ...describe(this.#path, this.#readDescription(), image), ...this.#guestUuid() };
    } catch (error) {
      // Nodes that are removed all at once while they are read are not missing.
      if (error instanceof XenblkError && this.#store.read(`${this.#path}/state`) === undefined) return undefined;
      throw error;
    }
  }

  /**
   * A toolstack that changes a drive's disc writes `params` together with others, so it is read before and after them. A
   * transaction would have xenstored copy each node that is read.
   */
  #readDescription(): ReadNode {
    const paths = [...DESCRIPTION_NODES, "params"].map((name) => `${this.#path}/${name}`);
    for (;;) {
      const values = readAll(this.#store, paths);
      if (values[DESCRIPTION_NODES.indexOf("params")] !== values.at(-1)) continue;
      return (name) => values[DESCRIPTION_NODES.indexOf(name)];
    }
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
    const read = readerOf(this.#store, options.frontendPath, USUAL_FRONTEND_NODES);
    return readFrontend((name) => {
      try {
        return read(name);
      } catch (error) {
        if (isHidden(error)) throw hiddenNode(`${options.frontendPath}/${name}`);
        throw error;
      }
    }, options);
  }

  /** What is published, by this process or by the one before. */
  publishedOffer(): Offer {
    return readOffer(readerOf(this.#store, this.#path, OFFER_NODES));
  }

  /** Whether the backend that connected the guest kept its writes from the image. */
  keptWrites(): boolean {
    const [info, mode] = readAll(this.#store, [`${this.#path}/info`, `${this.#path}/${IMAGE_MODE_NODE}`]);
    const isReadOnly = (Number(info ?? INFO_READ_ONLY) & INFO_READ_ONLY) !== 0;
    return !isReadOnly && mode === "r";
  }

  /** The values of all nodes that others write, as one text, to see whether any has changed. */
  async fingerprint(seen: Observation): Promise<string> {
    const { maxQueues } = this.publishedOffer();
    const asked = unlessHidden(tryReadAll(this.#store, [`${seen.frontendPath}/multi-queue-num-queues`])[0]) ?? "";
    // With another number than these, no queue's nodes are read.
    const length = parseDecimal(asked, 1, maxQueues) ?? 0;
    const ofQueues = Array.from({ length }, (_, queue) => RING_NODES.map((name) => `queue-${queue}/${name}`)).flat();
    const paths = [
      ...[...TOOLSTACK_NODES].map((name) => `${this.#path}/${name}`),
      ...[...FRONTEND_NODES, ...ofQueues].map((name) => `${seen.frontendPath}/${name}`),
    ];
    return JSON.stringify(await this.#place.run(() => tryReadAll(this.#store, paths).map(unlessHidden)));
  }

  /**
   * Writes the features that do not depend on the image, and goes to InitWait. `error` is what is still wrong, if
   * anything. False, with nothing written, if the state changed.
   */
  offer(from: ObservedState, features: readonly NodeValue[], error: string | undefined): boolean {
    const isStale = this.#store.read(this.#errorDirectory) !== undefined;
    return this.#fromState(from, [...namesOf(features), ...REPLACED_NODES], (transaction, read) => {
      if (isStale) this.#clearErrorDirectory(transaction); // of an earlier attachment
      // A toolstack that waits for the image must not find how an earlier attempt ended.
      if (this.#showError(transaction, read, error)) this.#removeNode(transaction, read, "hotplug-status");
      this.#writeFeatures(transaction, read, features);
      this.#removeNode(transaction, read, NONCE_NODE); // what comes is another connection
      transaction.write(`${this.#path}/state`, String(XenbusState.InitWait));
    });
  }

  /** The image is open: writes all features, and tells the toolstack. Otherwise as {@linkcode offer}. */
  opened(from: ObservedState, features: readonly NodeValue[], error: string | undefined): boolean {
    return this.#fromState(from, [...namesOf(features), ...REPLACED_NODES], (transaction, read) => {
      this.#showError(transaction, read, error);
      this.#writeFeatures(transaction, read, features);
      this.#update(transaction, read, [["hotplug-status", "connected"]]);
    });
  }

  /**
   * Writes these nodes and goes to Connected. `quietly` writes the state only if a node changed: a frontend that is
   * Connected to us already has nothing to learn. Otherwise as {@linkcode offer}.
   */
  connect(from: ObservedState, nodes: readonly NodeValue[], error: string | undefined, quietly: boolean): boolean {
    return this.#fromState(from, [...namesOf(nodes), "hotplug-status"], (transaction, read) => {
      const changed = this.#update(transaction, read, nodes);
      this.#showError(transaction, read, error);
      this.#update(transaction, read, [["hotplug-status", "connected"]]);
      if (changed || !quietly) transaction.write(`${this.#path}/state`, String(XenbusState.Connected));
    });
  }

  /**
   * Answers a request to look at the image's size. A frontend that knows another size is told by the node `sectors` and
   * by Connected, written again.
   */
  answerResize(answer: string, sectors: number | undefined): void {
    this.#fromState(undefined, ["sectors"], (transaction, read, state) => {
      const known = sectors === undefined || read("sectors") === String(sectors);
      if (!known && parseState(state) === XenbusState.Connected) {
        transaction.write(`${this.#path}/sectors`, String(sectors));
        transaction.write(`${this.#path}/state`, state);
      }
      // The toolstack may have stopped waiting and removed its request.
      const request = `${this.#path}/${RESIZE_NODE}`;
      if (transaction.read(request) !== undefined) transaction.write(request, printable(answer));
    });
  }

  /**
   * Names another image in place of the one that was seen, and its size if the guest is to learn that. False, with nothing
   * written, if the state or the image's name changed.
   */
  nameImage({ backendState, params: before }: Observation, image: NamedImage, sectors?: number): boolean {
    let named = false;
    this.#fromState(backendState, ["sectors"], (transaction, read, state) => {
      named = transaction.read(`${this.#path}/params`) === before;
      if (!named) return;
      writeImageName(transaction, this.#path, image);
      if (sectors === undefined) return;
      this.#update(transaction, read, [["sectors", String(sectors)]]);
      transaction.write(`${this.#path}/state`, state);
    });
    return named;
  }

  /** Names the image `but` if the nodes name the other one. */
  renameImage(not: NamedImage, but: NamedImage): void {
    this.#fromState(undefined, [], (transaction) => renameImage(transaction, this.#path, not, but));
  }

  /** Asks for the device's removal as a toolstack does. */
  requestRemoval(): void {
    requestRemoval(this.#store, this.#path);
  }

  /** Goes to another state. False, with nothing written, if the state changed. */
  switchState(from: ObservedState, to: XenbusState): boolean {
    return this.#fromState(from, [], (transaction) => {
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
    const [shown, toldToolstack] = readAll(this.#store, [`${this.#path}/error`, `${this.#path}/hotplug-error`]);
    if (shown === line && (!opening || toldToolstack === line)) return;
    this.#fromState(undefined, [], (transaction, read) => {
      this.#showError(transaction, read, text);
      if (!opening || line === undefined) return;
      transaction.write(`${this.#path}/hotplug-error`, line);
      transaction.write(`${this.#path}/hotplug-status`, "error");
    });
  }

  /** Removes what {@linkcode showError} wrote, also if the device's directory is gone. */
  clearError(): void {
    this.#store.transaction((transaction) => {
      this.#showError(transaction, readerOf(transaction, this.#path, ERROR_NODES), undefined);
      this.#clearErrorDirectory(transaction);
    });
  }

  #clearErrorDirectory(transaction: XenstoreOperations): void {
    if (transaction.read(this.#errorDirectory) === undefined) return;
    removeWithEmptyParents(transaction, this.#errorDirectory, `${this.#ownDomainPath}/error`);
  }

  /** True if the toolstack had been told that the image could not be opened. */
  #showError(transaction: XenstoreOperations, read: ReadNode, text: string | undefined): boolean {
    if (text === undefined) {
      if (this.#removeNode(transaction, read, "error")) this.#clearErrorDirectory(transaction);
    } else {
      transaction.write(`${this.#path}/error`, printable(text));
      transaction.write(`${this.#errorDirectory}/error`, printable(text));
    }
    return this.#removeNode(transaction, read, "hotplug-error");
  }

  /** Features that an earlier backend published and that are not offered are removed or, in the list, 0. */
  #writeFeatures(transaction: XenstoreOperations, read: ReadNode, features: readonly NodeValue[]): void {
    const offered = new Set(namesOf(features));
    for (const name of ABSENT_IF_NOT_OFFERED) if (!offered.has(name)) this.#removeNode(transaction, read, name);
    this.#update(transaction, read, features);
  }

  get #ownDomainPath(): string {
    return this.#store.domainPath(this.#address.backendDomain);
  }

  get #errorDirectory(): string {
    return `${this.#ownDomainPath}/error/${this.#path.slice(this.#ownDomainPath.length + 1)}`;
  }

  /**
   * Runs `body` if there is a state node and it says `from`; undefined stands for any state. `body` can read what the nodes
   * with these names said at the beginning, and those of errors. They are this backend's own, so they are read before the
   * transaction, in which each read would be dearer, and only where there are such nodes.
   */
  #fromState(
    from: ObservedState | undefined,
    names: readonly string[],
    body: (transaction: XenstoreOperations, read: ReadNode, state: string) => void,
  ): boolean {
    const read = this.#readOwn([...names, ...ERROR_NODES]);
    return this.#store.transaction((transaction) => {
      const text = transaction.read(`${this.#path}/state`);
      if (text === undefined || (from !== undefined && parseState(text) !== from)) return false;
      body(transaction, read, text);
      return true;
    });
  }

  #readOwn(names: readonly string[]): ReadNode {
    const present = new Set(this.#store.list(this.#path));
    const wanted = names.filter((name) => present.has(name));
    const values = readAll(this.#store, wanted.map((name) => `${this.#path}/${name}`));
    return (name) => values[wanted.indexOf(name)];
  }

  #update(transaction: XenstoreOperations, read: ReadNode, nodes: readonly NodeValue[]): boolean {
    const changed = nodes.filter(([name, value]) => read(name) !== value);
    for (const [name, value] of changed) transaction.write(`${this.#path}/${name}`, value);
    return changed.length > 0;
  }

  /** False if there was none. */
  #removeNode(transaction: XenstoreOperations, read: ReadNode, name: string): boolean {
    return read(name) !== undefined && transaction.remove(`${this.#path}/${name}`);
  }
}

function namesOf(nodes: readonly NodeValue[]): string[] {
  return nodes.map(([name]) => name);
}

function guestState(value: string | undefined | XenstoreError): Pick<Observation, "frontendState" | "hidden"> {
  if (isHidden(value)) return { frontendState: "invalid", hidden: true };
  return { frontendState: parseState(unlessError(value)), hidden: false };
}

/** The frontend has published rings, or had them served. */
function hasRings({ frontendState }: Observation): boolean {
  return frontendState === XenbusState.Initialised || frontendState === XenbusState.Connected;
}

/** The toolstack's request for removal is carried out. */
export function isRemoved({ backendState, online }: Observation): boolean {
  return backendState === XenbusState.Closed && !online;
}
