/**
 * An abstract device and everything around it that can change what the transition table sees: the frontend, the
 * toolstack, another process, xenstore, the data plane, time, and what each action may come to. It enumerates every
 * situation that can be reached, and judges what a table does in each.
 */

import type { ObservedState } from "../../lib/xenbus/states.ts";
import { type Action, isRemovalAsked, type Situation } from "../../lib/xenbus/transitions.ts";

/** A table under test. */
export type Table = (situation: Situation) => Action;

/** A situation, and what the table cannot see. */
export interface ModelState extends Situation {
  /** Another process holds the device's lock. */
  readonly otherHolds: boolean;
}

/** Values of each part; 3 and 2 are alike for a backend, 7 stands for every state without a meaning. */
const VALUES: { readonly [Key in keyof ModelState]: readonly ModelState[Key][] } = {
  backendState: ["gone", 1, 2, 4, 5, 6, 7],
  frontendState: ["gone", 1, 3, 4, 5, 6, 7],
  online: [false, true],
  resizeAsked: [false, true],
  proven: [false, true],
  owner: ["nobody", "us", "other", "unknown"],
  image: ["none", "open", "changed"],
  ring: ["none", "served", "replaced", "untold", "stopped", "broken"],
  attempt: ["fresh", "refused", "busy", "failed"],
  intent: ["serve", "detach", "detach-now"],
  removalAsked: [false, true],
  otherHolds: [false, true],
};
const KEYS = Object.keys(VALUES) as (keyof ModelState)[];

/** A process that has just started. */
const NOTHING = {
  proven: true,
  owner: "nobody",
  image: "none",
  ring: "none",
  attempt: "fresh",
  intent: "serve",
  removalAsked: false,
} as const;

/** The state as one number. */
function encode(state: ModelState): number {
  let code = 0;
  for (const key of KEYS) code = code * VALUES[key].length + (VALUES[key] as unknown[]).indexOf(state[key]);
  return code;
}

/** Rings are open in the data plane. */
export function ringHeld({ ring }: Situation): boolean {
  return ring !== "none" && ring !== "broken";
}

/**
 * What the device does to a situation before it decides: what is not served cannot be lost with an empty store, and a
 * removal that was asked for is remembered.
 */
function observed(state: ModelState): ModelState {
  const complete = state.backendState !== "gone" && state.frontendState !== "gone";
  const proven = state.proven || complete || !ringHeld(state);
  const removalAsked = state.removalAsked || (state.intent !== "serve" && isRemovalAsked(state));
  return proven === state.proven && removalAsked === state.removalAsked ? state : { ...state, proven, removalAsked };
}

/** All situations that can be reached, each as the device sees it when it looks. */
export function reachable(table: Table): ModelState[] {
  const seen = new Set<number>();
  const all: ModelState[] = [];
  const queue: ModelState[] = [];
  const add = (state: ModelState): void => {
    const code = encode(state);
    if (seen.has(code)) return;
    seen.add(code);
    queue.push(state);
  };
  for (const otherHolds of VALUES.otherHolds) {
    for (const online of VALUES.online) {
      add({ ...NOTHING, backendState: 1, frontendState: 1, online, resizeAsked: false, otherHolds });
    }
  }
  for (let state = queue.pop(); state !== undefined; state = queue.pop()) {
    for (const next of surroundings(state)) add(next);
    const look = observed(state);
    if (look !== state) {
      add(look);
      continue;
    }
    all.push(look);
    for (const next of results(table(look), look)) add(next);
  }
  return all;
}

/** What everybody else can do. */
function surroundings(state: ModelState): ModelState[] {
  const { backendState, owner, ring, intent, otherHolds } = state;
  // A changed node makes a refusal void.
  const attempt = state.attempt === "refused" || state.attempt === "busy" ? "fresh" : state.attempt;
  const changed = { ...state, attempt } as const;
  const next: ModelState[] = VALUES.frontendState.map((frontendState) => ({ ...changed, frontendState }));
  next.push({ ...changed, backendState: 1, frontendState: 1, online: true, resizeAsked: false }); // attached
  next.push({ ...changed, backendState: "gone", online: false, resizeAsked: false }); // removed
  if (backendState !== "gone") {
    next.push(askedToGo(changed), { ...changed, backendState: 7 }, { ...changed, resizeAsked: true });
    const states: readonly ObservedState[] = otherHolds ? [2, 4, 5, 6] : [];
    for (const backendState of states) next.push({ ...changed, backendState });
  }
  if (owner !== "us") next.push({ ...state, otherHolds: !otherHolds });
  if (ringHeld(state)) next.push({ ...state, ring: "stopped" });
  if (ring === "served") next.push({ ...changed, ring: "replaced" });
  if (state.image !== "none") next.push({ ...changed, image: state.image === "open" ? "changed" : "open" });
  if (intent !== "detach-now") next.push({ ...state, intent: intent === "serve" ? "detach" : "detach-now" });
  next.push({ ...state, ...NOTHING }); // the process is restarted
  next.push({ ...state, proven: false, attempt: "fresh" }); // xenstore is back
  next.push({ ...state, backendState: "gone", frontendState: "gone", online: false, proven: false, attempt: "fresh" });
  next.push(later(state));
  return next;
}

function askedToGo(state: ModelState): ModelState {
  return { ...state, online: false, backendState: state.backendState === 6 ? 6 : 5 };
}

/** The time is over for which the device waits. */
function later(state: ModelState): ModelState {
  const { owner } = state;
  return {
    ...state,
    attempt: "fresh",
    owner: owner === "other" ? "nobody" : owner,
  };
}

/** What an action can come to: first what it does if nothing goes wrong. */
export function results(action: Action, state: ModelState): ModelState[] {
  const good = { ...state, attempt: "fresh" } as const;
  const failed = { ...state, attempt: "failed" } as const;
  const closed = { image: "none", ring: "none" } as const;
  const refused = { ...state, ring: "none", attempt: "refused" } as const;
  const [opened, claimed] = [{ owner: "us", image: "open" } as const, { owner: "us" } as const];
  const isOthers = state.owner === "unknown" && state.otherHolds;
  switch (action.kind) {
    case "claim":
      return state.otherHolds
        ? [{ ...good, owner: "other" }]
        : [{ ...good, ...claimed }, { ...good, owner: "unknown" }];
    case "offer":
      if (isOthers) return [{ ...good, owner: "other" }];
      return [{ ...good, ...claimed, ring: "none", backendState: 2 }, refused, { ...failed, ...claimed, ring: "none" }];
    case "open":
      if (isOthers) return [{ ...good, owner: "other" }];
      return [
        { ...good, ...opened },
        { ...good, ...claimed }, // a node has changed meanwhile
        { ...refused, image: "none" },
        { ...failed, ...claimed, image: "none" },
      ];
    case "connect":
      return isOthers ? [{ ...good, owner: "other" }] : connections(state);
    case "change-image":
      return [{ ...good, ...closed }, state, { ...failed, ...closed }];
    case "publish":
      return [{ ...good, ring: "served" }, failed];
    case "resume":
      if (isOthers) return [{ ...good, owner: "other" }];
      return [{ ...good, ...opened, ring: "served" }, refused, { ...refused, attempt: "busy" }, {
        ...failed,
        ring: "none",
      }];
    case "drop-ring":
      return [{ ...good, ring: "broken", backendState: state.backendState === 4 ? 5 : state.backendState }, failed];
    case "resize":
      return [{ ...good, resizeAsked: false }, failed];
    case "request-removal":
      return [{ ...askedToGo(good), removalAsked: true }, failed];
    case "close-begin":
      return [{ ...good, backendState: 5 }, failed];
    case "close":
      return [{ ...good, ...closed, backendState: 6 }, failed, { ...failed, ...closed }];
    case "teardown":
      if (state.backendState === "gone") return [{ ...state, ...NOTHING }, { ...failed, ...closed }];
      return [{ ...good, ...closed, backendState: 6 }, failed, { ...failed, ...closed }];
    case "forget":
      return [{ ...state, ...NOTHING }];
    default:
      return [state];
  }
}

/** What connecting can come to. */
function connections(state: ModelState): ModelState[] {
  const good = { ...state, owner: "us", attempt: "fresh" } as const;
  const failed = { ...good, attempt: "failed" } as const;
  return [
    { ...good, image: "open", ring: "served", backendState: 4 },
    { ...good, image: "none", ring: "none" }, // the nodes name another image
    { ...state, ring: "none", attempt: "refused" },
    { ...state, ring: "none", attempt: "busy" },
    { ...failed, ring: "none" },
    { ...failed, image: "open", ring: "untold" },
    { ...good, image: "open", ring: "untold" }, // xenstore was lost before the commit, or after it
    { ...good, image: "open", ring: "untold", backendState: 4 },
  ];
}

/** More steps than any device needs to come to rest. */
const MOST_STEPS = 40;

/**
 * No more faults and no other party acts: the device acts until it has nothing to do. Time passes
 * only where the table waits. Returns undefined if it never comes to rest, and the state without a backend if it ended.
 */
export function rest(
  table: Table,
  from: ModelState,
): { readonly state: ModelState; readonly action: Action } | undefined {
  let state = from;
  for (let step = 0; step < MOST_STEPS; step++) {
    state = observed(state);
    const action = table(state);
    if (action.kind === "wait" && action.for === "owner" && state.otherHolds) return { state, action };
    if (action.kind === "none" || action.kind === "unknown-state") return { state, action };
    state = action.kind === "wait" ? later(state) : results(action, state)[0]!;
    if (action.kind === "forget" || (action.kind === "teardown" && state.backendState === "gone")) {
      return { state, action };
    }
  }
  return undefined;
}

/** Why a device may not rest there; undefined if it waits for the guest or the toolstack. */
export function deadEnd(
  table: Table,
  { state, action }: { readonly state: ModelState; readonly action: Action },
): string | undefined {
  const { backendState, frontendState, attempt, ring, image, intent } = state;
  if (action.kind === "wait" || action.kind === "forget" || action.kind === "teardown") return undefined;
  if (!state.proven) return ringHeld(state) ? undefined : "an empty store ends a device that serves nothing";
  if (intent !== "serve" && state.owner !== "us") return undefined; // not ours to act on
  if (state.removalAsked && backendState === 1) return undefined; // attached again: the next process offers it
  const waits = attempt === "failed" || attempt === "busy";
  if (waits && table({ ...state, attempt: "fresh" }).kind !== action.kind) {
    return `an attempt that is ${attempt} is never repeated`;
  }
  if (backendState === "gone") return "it is gone, and not released";
  if (ring === "stopped") return "its rings were stopped, and the frontend does not learn it";
  if (state.resizeAsked && ringHeld(state)) return "the toolstack waits for its resize";
  const closed = backendState === 6 && !state.online && image === "none" && !ringHeld(state);
  if (intent === "detach-now") return closed ? undefined : "not Closed for good";
  if (action.kind === "unknown-state") return undefined; // whoever wrote it
  // The error node tells the operator why, and it is retried; a frontend whose rings were refused has to be told.
  const awaited = backendState === 2 && (frontendState === 3 || frontendState === 4) && image === "open";
  if (attempt === "refused" && !awaited) return undefined;
  const waiting: Readonly<Record<string, boolean>> = {
    "1": frontendState === "gone", // for the toolstack
    "2": frontendState === 1 && image === "open" && !ringHeld(state), // for the frontend
    "4": (frontendState === 3 || frontendState === 4) && ring === "served" && image !== "changed",
    "5": frontendState === 3 || ((frontendState === 4 || frontendState === 5) && (state.online || ringHeld(state))),
    "6": !ringHeld(state) && (image === "none" || state.online),
  };
  return waiting[backendState] ? undefined : "it waits for no event";
}

/**
 * Lets a sane frontend, which follows Linux's blkfront, and a sane toolstack go on from there, until the disk is served
 * or, where it is to be removed, closed. Returns what it came to.
 */
export function withSaneOthers(table: Table, from: ModelState): "served" | "closed" | "ended" | "stuck" {
  let state: ModelState = { ...from, otherHolds: false };
  for (let step = 0; step < MOST_STEPS; step++) {
    const rested = rest(table, state);
    if (rested === undefined) return "stuck";
    state = rested.state;
    if (rested.action.kind === "forget" || rested.action.kind === "teardown") return "ended";
    const { backendState, frontendState, intent, owner, ring, image } = state;
    if (backendState === 4 && frontendState === 4 && ring === "served") return "served";
    const over = intent !== "serve" && (owner !== "us" || (state.removalAsked && backendState === 1));
    const released = backendState === 6 && !ringHeld(state) && image === "none";
    if (over || (released && !state.online)) return "closed";
    // The operator mends what was refused, and touches a node; a store that came back empty is filled again.
    state = { ...state, attempt: state.attempt === "refused" ? "fresh" : state.attempt, proven: true };
    if (frontendState === "gone") state = { ...state, backendState: "gone", online: false, resizeAsked: false };
    else state = backendState === 7 ? askedToGo(state) : { ...state, frontendState: blkfront(state) };
  }
  return "stuck";
}

/** The state that blkfront goes to next; a guest that nonsense or no directory was left of closes. */
function blkfront({ backendState, frontendState, online }: ModelState): ObservedState {
  if (frontendState === "gone") return "gone";
  if (frontendState === 7) return 6;
  switch (backendState) {
    case 2:
      return frontendState === 1 ? 3 : frontendState;
    case 4:
      return frontendState === 3 ? 4 : frontendState;
    case 5:
      return 6;
    case 6:
      return online && frontendState === 6 ? 1 : 6;
    default:
      return frontendState;
  }
}
