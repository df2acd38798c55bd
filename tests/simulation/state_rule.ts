/**
 * Which writes of a backend to its state node are legal, and what must be true when it makes them. Pure but for what it
 * is told; it must not know how the backend works.
 */

import { parseState, stateName, XenbusState } from "../../lib/xenbus/states.ts";

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** From each state, what a backend may go to. Other states are no backend's own: it may only close then. */
const MAY_FOLLOW: ReadonlyMap<unknown, readonly number[]> = new Map([
  [Initialising, [InitWait, Closing, Closed]],
  [InitWait, [InitWait, Connected, Closing, Closed]],
  [Initialised, [InitWait, Connected, Closing, Closed]],
  // Connected again: the disk's properties have changed, or another process took over.
  [Connected, [InitWait, Connected, Closing, Closed]],
  // Closing again: asking for its removal itself, as a toolstack would.
  [Closing, [InitWait, Closing, Closed]],
  [Closed, [InitWait]],
]);

/** What is so when the backend writes. */
export interface Circumstances {
  /** The process serves a ring of the device. */
  readonly serving: boolean;
  /** A node of the backend's directory, as it will be with the state. */
  readonly node: (name: string) => string | undefined;
  /** The disk's size in 512-byte sectors. */
  readonly sectors: number;
}

/** Why a backend must not write this state now, or undefined. */
export function stateFault(before: string | undefined, after: string, now: Circumstances): string | undefined {
  const [from, to] = [parseState(before), parseState(after)];
  if (from === "gone") return `a state node that was not there was written with ${after}`;
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
