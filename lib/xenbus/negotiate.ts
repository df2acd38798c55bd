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

/** The value of a node below the frontend's directory, or undefined if it is not there. */
export type ReadNode = (name: string) => string | undefined;

/**
 * Reads the frontend's parameters, once it is at Initialised or Connected; `read` should be one transaction's. Throws
 * {@linkcode XenblkError} at the first node that is wrong.
 */
export function readFrontend(read: ReadNode, options: NegotiationOptions): FrontendParameters {
  const nodes = new FrontendNodes(read, options.frontendPath);
  const abi = readProtocol(nodes, options.defaultProtocol);
  const persistent = (nodes.optionalNumber("feature-persistent", 0, 1) ?? 0) === 1;
  const pages = readRingPages(nodes, options.offer.maxRingPageOrder);
  const queueCount = nodes.optionalNumber("multi-queue-num-queues", 1, options.offer.maxQueues) ?? 1;
  // With one queue its nodes are in the frontend's directory itself, however the number was given.
  const queues = queueCount === 1
    ? [readQueue(nodes, "", pages)]
    : Array.from({ length: queueCount }, (_, queue) => readQueue(nodes, `queue-${queue}/`, pages));
  return { abi, persistent, queues };
}

/** Reads single nodes, with errors for people. */
class FrontendNodes {
  constructor(readonly read: ReadNode, readonly path: string) {}

  wrong(name: string, why: string): XenblkError {
    return new XenblkError(`Cannot connect to the frontend: ${this.path}/${name} ${why}`);
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

/** Pages per ring: from ring-page-order, or from num-ring-pages, its deprecated spelling, or 1. */
function readRingPages(nodes: FrontendNodes, maxOrder: number): number {
  const order = nodes.optionalNumber("ring-page-order", 0, maxOrder);
  if (order !== undefined) return 2 ** order;
  const pages = nodes.optionalNumber("num-ring-pages", 1, 2 ** maxOrder);
  if (pages === undefined) return 1;
  if (!Number.isInteger(Math.log2(pages))) throw nodes.wrong("num-ring-pages", `is ${pages}, not a power of two`);
  return pages;
}

/** The ring in the frontend's directory (`prefix` empty) or in a queue's. Port 0 is never a channel in Xen. */
function readQueue(nodes: FrontendNodes, prefix: string, pages: number): QueueParameters {
  return {
    ringRefs: readRingRefs(nodes, prefix, pages),
    eventChannel: nodes.number(`${prefix}event-channel`, 1, MAX_U32) as EvtchnPort,
  };
}

/** A ring of one page may be named either way; ring-ref is what frontends without larger rings know. */
function readRingRefs(nodes: FrontendNodes, prefix: string, pages: number): GrantRef[] {
  if (pages === 1) {
    const first = nodes.optionalNumber(`${prefix}ring-ref0`, 0, MAX_U32);
    return [(first ?? nodes.number(`${prefix}ring-ref`, 0, MAX_U32)) as GrantRef];
  }
  return Array.from({ length: pages }, (_, page) => nodes.number(`${prefix}ring-ref${page}`, 0, MAX_U32) as GrantRef);
}
