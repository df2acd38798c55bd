/**
 * How a guest introduces its rings: which of the many legal ways it takes, and what wrong values it may publish
 * instead. It must not know when it does that.
 */

import type { AbiName } from "../../lib/blkif/abi.ts";
import type { Xenstore } from "../../lib/hypervisor.ts";
import type { Offer } from "../../lib/xenbus/features.ts";
import { XenbusState } from "../../lib/xenbus/states.ts";
import type { Decisions } from "./decisions.ts";
import type { ConnectedRing, ConnectionShape } from "./guest_connection.ts";

/** One guest's way. */
export interface Handshake {
  readonly abi: AbiName;
  /** It waits until the backend is at InitWait. */
  readonly waits: boolean;
  /** It says so in its own state: Initialised, or at once Connected. */
  readonly readyState: number;
  /** It sends requests before the backend can know its ring. */
  readonly early: boolean;
  /** Nodes beside those of the rings. */
  readonly nodes: Readonly<Record<string, string>>;
  /** A ring of one page is `ring-ref0`. */
  readonly numbered: boolean;
  /** How the pages of a ring are said: as a power of two, as a number, or, if there is one, not at all. */
  readonly pagesSaid: "order" | "number" | "not";
  /** Of what is offered, how much it takes; the first is one page and one ring. */
  readonly greed: readonly [pages: number, queues: number];
  /** The one wrong node, if there is one. */
  readonly wrong: readonly [name: string, value: string] | undefined;
}

const ABIS: readonly AbiName[] = ["x86_64-abi", "x86_32-abi", "arm-abi"];

/** Values that no backend may accept. */
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

/** Nodes that an earlier introduction may have left. */
const OWN_NODES =
  /^(ring-ref\d*|ring-page-order|num-ring-pages|event-channel|protocol|multi-queue-num-queues|feature-persistent|queue-\d+)$/;

/** Chooses a way; `wrongPerMille` of a thousand are wrong. */
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

/** What such a guest makes of an offer. One that is about to say something wrong keeps to a single ring. */
export function shapeOf({ abi, greed, wrong }: Handshake, offer: Offer): ConnectionShape {
  if (wrong !== undefined) return { abi, queues: 1, ringPages: 1 };
  const [pages, queues] = greed;
  return {
    abi,
    queues: Math.min(1 + queues, offer.maxQueues),
    ringPages: 2 ** Math.min(pages, offer.maxRingPageOrder),
  };
}

/** Publishes the rings; all at once. */
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
