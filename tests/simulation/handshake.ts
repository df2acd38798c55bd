/**
 * How a guest introduces its ring: which of the many legal ways it takes, and what wrong values it may publish instead.
 * It must not know when it does that.
 */

import type { AbiName } from "../../lib/blkif/abi.ts";
import type { EvtchnPort, GrantRef, Xenstore } from "../../lib/hypervisor.ts";
import { XenbusState } from "../../lib/xenbus/states.ts";
import type { Decisions } from "./decisions.ts";

/** One guest's way. */
export interface Handshake {
  readonly abi: AbiName;
  /** It waits until the backend is at InitWait. */
  readonly waits: boolean;
  /** It says so in its own state: Initialised, or at once Connected. */
  readonly readyState: number;
  /** It sends requests before the backend can know its ring. */
  readonly early: boolean;
  /** Nodes beside those of the ring. */
  readonly nodes: Readonly<Record<string, string>>;
  readonly ringRefNode: "ring-ref" | "ring-ref0";
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

/** Nodes that an earlier, wrong introduction may have left. */
const ALL_NODES = [
  "ring-ref",
  "ring-ref0",
  "ring-page-order",
  "num-ring-pages",
  "event-channel",
  "protocol",
  "multi-queue-num-queues",
  "feature-persistent",
];

/** Chooses a way; `wrongPerMille` of a thousand are wrong. */
export function chooseHandshake(decisions: Decisions, defaultAbi: AbiName, wrongPerMille: number): Handshake {
  const abi = decisions.pick(ABIS);
  const nodes: Record<string, string> = {};
  if (abi !== defaultAbi || decisions.chance(500)) nodes["protocol"] = abi;
  if (decisions.chance(800)) nodes["feature-persistent"] = String(decisions.pick([1, 0]));
  const ringRefNode = decisions.pick(["ring-ref", "ring-ref0"] as const);
  if (decisions.chance(300)) nodes["ring-page-order"] = "0";
  else if (decisions.chance(200)) nodes["num-ring-pages"] = "1";
  return {
    abi,
    waits: !decisions.chance(300),
    readyState: decisions.pick([XenbusState.Initialised, XenbusState.Initialised, XenbusState.Connected]),
    early: decisions.chance(300),
    nodes,
    ringRefNode,
    wrong: decisions.chance(wrongPerMille) ? decisions.pick(WRONG) : undefined,
  };
}

/** Publishes the ring; all at once. */
export function publish(
  store: Xenstore,
  path: string,
  handshake: Handshake,
  ring: { readonly ref: GrantRef; readonly port: EvtchnPort },
): void {
  const { nodes, ringRefNode, wrong } = handshake;
  const all: Record<string, string> = {
    ...nodes,
    [wrong?.[0] === "ring-ref" ? "ring-ref" : ringRefNode]: String(ring.ref),
    "event-channel": String(ring.port),
    ...(wrong === undefined ? {} : { [wrong[0]]: wrong[1] }),
  };
  store.transaction((transaction) => {
    for (const name of ALL_NODES) if (all[name] === undefined) transaction.remove(`${path}/${name}`);
    for (const [name, value] of Object.entries(all)) transaction.write(`${path}/${name}`, value);
  });
}
