/**
 * Reads what the frontend published into typed parameters, strictly: the guest writes these nodes and is not trusted.
 * A value that is missing, not a number, out of range or more than was offered is an error that names the node.
 */

import { ABI_NAMES, type AbiName } from "../blkif/abi.ts";
import { XenblkError } from "../errors.ts";
import type { EvtchnPort, GrantRef } from "../hypervisor.ts";
import { MAX_U32, parseDecimal, quoted } from "./decimal.ts";
import type { Offer } from "./features.ts";

/** One ring that the frontend granted. */
export interface QueueParameters {
  /** One per page: 1, 2, 4, 8 or 16. */
  readonly ringRefs: readonly GrantRef[];
  readonly eventChannel: EvtchnPort;
}

/** What a frontend asks for. */
export interface FrontendParameters {
  readonly abi: AbiName;
  /** The frontend reuses its grants; in use only if the backend offered it too. */
  readonly persistent: boolean;
  /** At least one. */
  readonly queues: readonly QueueParameters[];
}

/** What the frontend's nodes are read against. */
export interface NegotiationOptions {
  /** The frontend's directory, for messages. */
  readonly frontendPath: string;
  /** Used if the frontend names no protocol. */
  readonly defaultProtocol: AbiName;
  /** What the backend published. */
  readonly offer: Offer;
}

/** What {@linkcode readFrontend} reads of a frontend with one ring of one page. */
export const USUAL_FRONTEND_NODES: readonly string[] = [
  "protocol",
  "feature-persistent",
  "ring-page-order",
  "num-ring-pages",
  "multi-queue-num-queues",
  "ring-ref",
  "ring-ref0",
  "event-channel",
];

/** The value of a node below the frontend's directory, or undefined if it is not there. */
export type ReadNode = (name: string) => string | undefined;

/**
 * Reads the frontend's parameters, once it is at Initialised or Connected. Nodes that change meanwhile may be read from
 * several moments: whoever relies on the result reads again and compares. Throws
 * {@linkcode XenblkError} at the first node that is wrong.
 */
export function readFrontend(read: ReadNode, options: NegotiationOptions): FrontendParameters {
  const nodes = new FrontendNodes(read, options.frontendPath);
  const abi = readProtocol(nodes, options.defaultProtocol);
  const persistent = (nodes.optionalNumber("feature-persistent", 0, 1) ?? 0) === 1;
  const size = readRingSize(nodes, options.offer.maxRingPageOrder);
  const queueCount = nodes.optionalNumber("multi-queue-num-queues", 1, options.offer.maxQueues) ?? 1;
  // With one queue its nodes are in the frontend's directory itself, however the number was given.
  const queues = queueCount === 1
    ? [readQueue(nodes, "", size)]
    : Array.from({ length: queueCount }, (_, queue) => readQueue(nodes, `queue-${queue}/`, size));
  return { abi, persistent, queues };
}

/** Reads single nodes, with errors for people. */
class FrontendNodes {
  constructor(readonly read: ReadNode, readonly path: string) {}

  wrong(name: string, why: string): XenblkError {
    const ofQueue = name.startsWith("queue-")
      ? ` (multi-queue-num-queues is ${this.read("multi-queue-num-queues")})`
      : "";
    return new XenblkError(`Cannot connect to the frontend: ${this.path}/${name} ${why}${ofQueue}`);
  }

  /** A decimal number in range, or undefined if there is no such node. */
  optionalNumber(name: string, minimum: number, maximum: number): number | undefined {
    const text = this.read(name);
    if (text === undefined) return undefined;
    const value = parseDecimal(text, minimum, maximum);
    if (value === undefined) {
      const allowed = minimum === maximum ? `the number ${minimum}` : `a decimal number from ${minimum} to ${maximum}`;
      throw this.wrong(name, `is ${quoted(text)}, not ${allowed}`);
    }
    return value;
  }

  number(name: string, minimum: number, maximum: number): number {
    const value = this.optionalNumber(name, minimum, maximum);
    if (value === undefined) throw this.wrong(name, "is missing");
    return value;
  }
}

function readProtocol(nodes: FrontendNodes, defaultProtocol: AbiName): AbiName {
  const text = nodes.read("protocol");
  if (text === undefined) return defaultProtocol;
  const protocol = ABI_NAMES.find((name) => name === text);
  if (protocol === undefined) throw nodes.wrong("protocol", `is ${quoted(text)}, not one of ${ABI_NAMES.join(", ")}`);
  return protocol;
}

/** How large every ring is, and whether the frontend says so. */
interface RingSize {
  readonly pages: number;
  /** There is a node with the size: the frontend knows of rings of several pages, and numbers them. */
  readonly said: boolean;
}

/** From ring-page-order, or from num-ring-pages, its deprecated spelling; without both a ring has one page. */
function readRingSize(nodes: FrontendNodes, maxOrder: number): RingSize {
  const order = nodes.optionalNumber("ring-page-order", 0, maxOrder);
  if (order !== undefined) return { pages: 2 ** order, said: true };
  const pages = nodes.optionalNumber("num-ring-pages", 1, 2 ** maxOrder);
  if (pages === undefined) return { pages: 1, said: false };
  if (!Number.isInteger(Math.log2(pages))) throw nodes.wrong("num-ring-pages", `is ${pages}, not a power of two`);
  return { pages, said: true };
}

/** The ring in the frontend's directory (`prefix` empty) or in a queue's. Port 0 is never a channel in Xen. */
function readQueue(nodes: FrontendNodes, prefix: string, size: RingSize): QueueParameters {
  return {
    ringRefs: readRingRefs(nodes, prefix, size),
    eventChannel: nodes.number(`${prefix}event-channel`, 1, MAX_U32) as EvtchnPort,
  };
}

/**
 * A driver that gives a size writes ring-ref0 and so on; one that gives none writes ring-ref. The other name may be left
 * of an earlier driver of the guest, so it counts only where the right one is missing.
 */
function readRingRefs(nodes: FrontendNodes, prefix: string, { pages, said }: RingSize): GrantRef[] {
  if (pages === 1) {
    const [first, second] = said ? ["ring-ref0", "ring-ref"] : ["ring-ref", "ring-ref0"];
    const ref = nodes.optionalNumber(`${prefix}${first}`, 0, MAX_U32) ??
      nodes.optionalNumber(`${prefix}${second}`, 0, MAX_U32);
    return [(ref ?? nodes.number(`${prefix}ring-ref`, 0, MAX_U32)) as GrantRef];
  }
  return Array.from({ length: pages }, (_, page) => nodes.number(`${prefix}ring-ref${page}`, 0, MAX_U32) as GrantRef);
}
