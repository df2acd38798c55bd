/**
 * Which writes to its state node a backend may make, and what must be true when it makes them. A pure function of the
 * circumstances.
 */

import { parseState, stateName, XenbusState } from "../../lib/xenbus/states.ts";

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** States that may follow each state of a backend. From any other value it may only go to Closed. */
const MAY_FOLLOW: ReadonlyMap<unknown, readonly number[]> = new Map([
  [Initialising, [InitWait, Closing, Closed]],
  [InitWait, [InitWait, Connected, Closing, Closed]],
  [Initialised, [InitWait, Connected, Closing, Closed]],
  // Connected again: the disk's size changed, or another process took over.
  [Connected, [InitWait, Connected, Closing, Closed]],
  // Closing again: it asks for its own removal, as a toolstack does.
  [Closing, [InitWait, Closing, Closed]],
  [Closed, [InitWait]],
]);

/** The circumstances of a write. */
interface Circumstances {
  /** The process serves a ring of the device. */
  readonly serving: boolean;
  /** Reads a node of the backend's directory, as it is together with the new state. */
  readonly node: (name: string) => string | undefined;
  /** The disk's size in 512-byte sectors. */
  readonly sectors: number;
}

/** Why the backend must not write this state, or undefined. */
export function stateFault(before: string | undefined, after: string, now: Circumstances): string | undefined {
  const [from, to] = [parseState(before), parseState(after)];
  if (from === "gone") return `a missing state node was written with ${after}`;
  const allowed = MAY_FOLLOW.get(from) ?? [Closed];
  if (!allowed.some((state) => state === to)) return `the backend went from ${stateName(from)} to ${stateName(to)}`;
  if (to === Connected && !now.serving) return "the backend went to Connected without serving the ring";
  if (to === Connected && now.node("sectors") !== String(now.sectors)) return "Connected without the right size";
  if (to === Closed && now.serving) return "the backend went to Closed and still serves a ring";
  if (to === InitWait && now.serving) return "the backend went to InitWait and still serves a ring";
  const features = ["feature-barrier", "feature-flush-cache", "max-ring-page-order"];
  const missing = features.find((name) => to === InitWait && now.node(name) === undefined);
  return missing === undefined ? undefined : `the backend went to InitWait before it published ${missing}`;
}
