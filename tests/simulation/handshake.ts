/**
 * How a guest publishes its rings: which of the many legal ways it chooses, and which wrong values it may publish
 * instead.
 */

import type { AbiName } from "../../lib/blkif/abi.ts";
import type { Xenstore } from "../../lib/hypervisor.ts";
import type { Offer } from "../../lib/xenbus/features.ts";
import { XenbusState } from "../../lib/xenbus/states.ts";
import type { Decisions } from "./decisions.ts";
import type { ConnectedRing, ConnectionShape } from "./guest_connection.ts";

/** One way to publish. */
export interface Handshake {
  readonly abi: AbiName;
  /** Waits until the backend is in InitWait. */
  readonly waits: boolean;
  /** The state that it goes to: Initialised, or directly Connected. */
  readonly readyState: number;
  /** Sends requests before it publishes the ring. */
  readonly early: boolean;
  /** Other nodes. */
  readonly nodes: Readonly<Record<string, string>>;
  /** Publishes a ring of one page as `ring-ref0`. */
  readonly numbered: boolean;
  /** How it publishes the number of pages: as a power of two, as a number, or, for one page, not at all. */
  readonly pagesSaid: "order" | "number" | "not";
  /** How much of the offer it takes: page order and queues, from the least. */
  readonly greed: readonly [pages: number, queues: number];
  /** One wrong node. */
  readonly wrong: readonly [name: string, value: string] | undefined;
}

const ABIS: readonly AbiName[] = ["x86_64-abi", "x86_32-abi", "arm-abi"];

/** Nodes that no backend may accept. */
const WRONG: readonly (readonly [string, string])[] = [
  ["ring-ref", "abc"],
  ["ring-ref", "-8"],
  ["ring-ref", "4000000000"],
  ["ring-ref", ""],
  ["event-channel", "0"],
  ["event-channel", "31"],
  ["event-channel", "1e1"],
  ["protocol", "x86_16-abi"],
  ["ring-page-order", "9"],
  ["multi-queue-num-queues", "99"],
];

/** Nodes that an earlier handshake may have left. */
const OWN_NODES =
  /^(ring-ref\d*|ring-page-order|num-ring-pages|event-channel|protocol|multi-queue-num-queues|feature-persistent|queue-\d+)$/;

/** Chooses a way; `wrongPerMille` of 1000 are wrong. */
export function chooseHandshake(decisions: Decisions, defaultAbi: AbiName, wrongPerMille: number): Handshake {
  const abi = decisions.pick(ABIS);
  const nodes: Record<string, string> = {};
  if (abi !== defaultAbi || decisions.chance(500)) nodes["protocol"] = abi;
  if (decisions.chance(800)) nodes["feature-persistent"] = String(decisions.pick([1, 0]));
  return {
    abi,
    waits: !decisions.chance(300),
    readyState: decisions.pick([XenbusState.Initialised, XenbusState.Initialised, XenbusState.Connected]),
    early: decisions.chance(300),
    nodes,
    numbered: decisions.chance(300),
    pagesSaid: decisions.pick(["not", "order", "number"] as const),
    greed: [decisions.below(5), decisions.below(4)],
    wrong: decisions.chance(wrongPerMille) ? decisions.pick(WRONG) : undefined,
  };
}

/** The shape of the connection, within the offer. A wrong handshake has a single ring. */
export function shapeOf({ abi, greed, wrong }: Handshake, offer: Offer): ConnectionShape {
  if (wrong !== undefined) return { abi, queues: 1, ringPages: 1 };
  const [pages, queues] = greed;
  return {
    abi,
    queues: Math.min(1 + queues, offer.maxQueues),
    ringPages: 2 ** Math.min(pages, offer.maxRingPageOrder),
  };
}

/** Publishes the rings, in one transaction. */
export function publish(store: Xenstore, path: string, handshake: Handshake, rings: readonly ConnectedRing[]): void {
  const all: Record<string, string> = { ...handshake.nodes, ...pageNodes(handshake, rings[0]!.memory.refs.length) };
  if (rings.length > 1) all["multi-queue-num-queues"] = String(rings.length);
  rings.forEach(({ memory: { refs }, port }, queue) => {
    const prefix = rings.length > 1 ? `queue-${queue}/` : "";
    all[`${prefix}event-channel`] = String(port);
    const numbered = refs.length > 1 || (handshake.numbered && handshake.wrong?.[0] !== "ring-ref");
    refs.forEach((ref, page) => all[`${prefix}ring-ref${numbered ? page : ""}`] = String(ref));
  });
  if (handshake.wrong !== undefined) all[handshake.wrong[0]] = handshake.wrong[1];
  store.transaction((transaction) => {
    for (const name of transaction.list(path) ?? []) if (OWN_NODES.test(name)) transaction.remove(`${path}/${name}`);
    for (const [name, value] of Object.entries(all)) transaction.write(`${path}/${name}`, value);
  });
}

function pageNodes({ pagesSaid }: Handshake, pages: number): Record<string, string> {
  if (pagesSaid === "number") return { "num-ring-pages": String(pages) };
  return pages > 1 || pagesSaid === "order" ? { "ring-page-order": String(Math.log2(pages)) } : {};
}
