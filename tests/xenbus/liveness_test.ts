/**
 * Properties of the transition table over every situation that can be reached: a process that does not own a device
 * writes nothing, and there is no dead end. Each property is also shown to fail for a table that breaks it.
 */

import { assert, assertEquals } from "@std/assert";
import { decide, type Situation } from "../../lib/xenbus/transitions.ts";
import { deadEnd, type ModelState, reachable, rest, ringHeld, type Table, withSaneOthers } from "./model.ts";

/** The first few faults that a judgement finds. */
function faults(table: Table, judge: (state: ModelState) => string | undefined): string[] {
  const found: string[] = [];
  for (const state of reachable(table)) {
    const fault = judge(state);
    if (fault !== undefined) found.push(`${fault}: ${JSON.stringify(state)}`);
    if (found.length === 5) break;
  }
  return found;
}

/** What may be done without the device's lock. */
const HARMLESS = { other: ["none", "wait", "forget"], nobody: ["none", "wait", "claim"] } as const;

function unowned(table: Table): (state: ModelState) => string | undefined {
  return (state) => {
    const { owner } = state;
    if (owner === "us") return state.otherHolds ? "two owners" : undefined;
    if (ringHeld(state) || state.image !== "none") return "holds a device that it does not own";
    const { kind } = table(state);
    if (owner === "unknown") return kind === "request-removal" ? "asks for removal, the owner unknown" : undefined;
    return (HARMLESS[owner] as readonly string[]).includes(kind) ? undefined : `${kind} without the lock`;
  };
}

function stuck(table: Table): (state: ModelState) => string | undefined {
  return (state) => {
    for (const otherHolds of state.otherHolds ? [true, false] : [false]) {
      const rested = rest(table, { ...state, otherHolds });
      const fault = rested === undefined ? "no rest" : deadEnd(table, rested);
      if (fault !== undefined) return fault;
    }
    return undefined;
  };
}

function unserved(table: Table): (state: ModelState) => string | undefined {
  return (state) => {
    const end = withSaneOthers(table, state);
    if (end === "stuck") return "stuck though everybody is sane";
    const wanted = state.online && state.intent === "serve" && state.frontendState !== "gone" &&
      state.backendState !== 7;
    return wanted && state.backendState !== "gone" && end !== "served" ? `${end}, not served` : undefined;
  };
}

Deno.test("every reachable situation has one action, and a device that another process owns is not touched", () => {
  const kinds = new Set(reachable(decide).map((state) => decide(state).kind));
  assertEquals(kinds.size, 17, `${[...kinds]}`);
  assertEquals(faults(decide, unowned(decide)), []);
});

Deno.test("no situation is a dead end: a device that has nothing to do waits for the guest or the toolstack", () => {
  assertEquals(faults(decide, stuck(decide)), []);
});

Deno.test("from every situation a sane frontend gets its disk, or the toolstack its removal", () => {
  assertEquals(faults(decide, unserved(decide)), []);
});

/** The table, but for what `instead` returns. */
function broken(instead: (situation: Situation, kind: string) => string | undefined): Table {
  return (situation) => {
    const action = decide(situation);
    const kind = instead(situation, action.kind === "wait" ? `wait for ${action.for}` : action.kind);
    return kind === undefined ? action : { kind } as ReturnType<Table>;
  };
}

const LOSSES = {
  "a failure is not retried": [stuck, broken((_, kind) => kind === "wait for retry" ? "none" : undefined)],
  "a busy image is not tried again": [stuck, broken((_, kind) => kind === "wait for image" ? "none" : undefined)],
  "the end of another process is not noticed": [
    unserved,
    broken((_, kind) => kind === "wait for owner" ? "none" : undefined),
  ],
  "nodes of a connection that could not be written are never written": [
    stuck,
    broken((_, kind) => kind === "publish" ? "none" : undefined),
  ],
  "an image is never opened": [unserved, broken((_, kind) => kind === "open" ? "none" : undefined)],
  "a ring that was replaced is not connected to": [
    stuck,
    broken(({ ring }, kind) => kind === "connect" && ring === "replaced" ? "none" : undefined),
  ],
  "a changed disc is not opened": [stuck, broken((_, kind) => kind === "change-image" ? "none" : undefined)],
  "a frontend with a refused ring gets no Closing": [
    stuck,
    broken(({ attempt }, kind) => kind === "close-begin" && attempt === "refused" ? "none" : undefined),
  ],
  "a process that stands by detaches the device": [
    unowned,
    broken(({ intent, owner, online }) =>
      intent === "detach" && owner === "other" && online ? "request-removal" : undefined
    ),
  ],
  "a process that stands by leaves the device Closed": [
    unowned,
    broken(({ intent, owner, backendState }) =>
      intent === "detach-now" && owner === "other" && backendState === 4 ? "close" : undefined
    ),
  ],
} as const;

for (const [loss, [judge, table]] of Object.entries(LOSSES)) {
  Deno.test(`the properties notice if ${loss}`, () => assert(faults(table, judge(table)).length > 0));
}
