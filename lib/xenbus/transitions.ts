/**
 * What a block backend does next, as a pure table over the two state nodes and what this process holds. The whole
 * handshake, closing, reconnecting and re-attaching after a restart is decided here; doing it is the device's work. It
 * must not know xenstore, disks or rings.
 */

import { type ObservedState, XenbusState } from "./states.ts";

/** All that the decision depends on. Read both state nodes and `online` together, in one transaction. */
export interface Situation {
  /** The backend's own node, which the toolstack writes too. */
  readonly backendState: ObservedState;
  /** `gone` also if the whole frontend directory is. A store that has just come back empty proves nothing. */
  readonly frontendState: ObservedState;
  /** The backend's `online` node says 1: keep the device for a reconnect. */
  readonly online: boolean;
  /** This process serves the frontend's ring. */
  readonly connected: boolean;
  /** This process has the image open. */
  readonly opened: boolean;
}

/**
 * What to do. After each action but none, unknown-state and teardown the situation is to be looked at again. State
 * nodes are written only where they exist, and only where the value changes except by `offer`, `reoffer`, `connect`.
 *
 * - `offer`: open the image, publish features, write InitWait.
 * - `reoffer`: the same after an earlier connection: drain and release its ring first; the image may be open already.
 * - `connect`: release any earlier ring, open the image if need be, map and bind, publish the disk's properties, write
 *   Connected, look at the ring once. When it fails: note the error, write Closing, and wait for the frontend.
 * - `resume`: as connect, but nothing is published and the state stays as it is.
 * - `close-begin`: write Closing; requests are still served.
 * - `close`: finish what is in flight, release ring and image, write Closed.
 * - `teardown`: the same for good; Closed is written only if the backend's state node is still there.
 * - `unknown-state`: ignore it, with one log line.
 */
export type Action =
  | { readonly kind: "offer" }
  | { readonly kind: "reoffer" }
  | { readonly kind: "connect" }
  | { readonly kind: "resume" }
  | { readonly kind: "close-begin" }
  | { readonly kind: "close" }
  | { readonly kind: "teardown" }
  | { readonly kind: "none" }
  | { readonly kind: "unknown-state"; readonly side: "backend" | "frontend" };

const OFFER: Action = { kind: "offer" };
const REOFFER: Action = { kind: "reoffer" };
const CONNECT: Action = { kind: "connect" };
const RESUME: Action = { kind: "resume" };
const CLOSE_BEGIN: Action = { kind: "close-begin" };
const CLOSE: Action = { kind: "close" };
const TEARDOWN: Action = { kind: "teardown" };
const NONE: Action = { kind: "none" };
const UNKNOWN_BACKEND: Action = { kind: "unknown-state", side: "backend" };
const UNKNOWN_FRONTEND: Action = { kind: "unknown-state", side: "frontend" };

/** What a frontend's state means to a backend. */
type FrontendPhase = "starting" | "ready" | "connected" | "closing" | "closed" | "unknown";

function phaseOf(state: ObservedState): FrontendPhase {
  switch (state) {
    case XenbusState.Initialising:
    case XenbusState.InitWait:
      return "starting";
    case XenbusState.Initialised:
      return "ready";
    case XenbusState.Connected:
      return "connected";
    case XenbusState.Closing:
      return "closing";
    case XenbusState.Closed:
      return "closed";
    default:
      return "unknown";
  }
}

/**
 * One action for every situation, by the backend's state (rows) and the frontend's (columns). `0 7 8 !` are states that
 * mean nothing to a disk, and text that is no state. "Held" is: this process has the image open or serves the ring.
 *
 * | be \ fe | gone     | 1, 2        | 3           | 4           | 5           | 6        | 0 7 8 !  |
 * |---------|----------|-------------|-------------|-------------|-------------|----------|----------|
 * | gone    | teardown | teardown    | teardown    | teardown    | teardown    | teardown | teardown |
 * | 1       | (a)      | offer (b)   | offer (b)   | offer (b)   | close-begin | close    | unknown  |
 * | 2, 3    | teardown | (c)         | connect     | connect     | close-begin | close    | unknown  |
 * | 4       | teardown | offer (b)   | connect (d) | connect (d) | close-begin | close    | unknown  |
 * | 5       | teardown | (e)         | none        | (f)         | (f)         | close    | (g)      |
 * | 6       | (h)      | reoffer (i) | reoffer (i) | (j)         | (j)         | (j)      | (k)      |
 * | 0 7 8 ! | teardown | unknown     | unknown     | unknown     | unknown     | unknown  | unknown  |
 *
 * - a: none as long as nothing is held: the toolstack may be about to create the frontend's directory. Else teardown.
 * - b: reoffer if anything is held: the device was created anew, or the frontend started over without closing. With the
 *   backend at 1 and the frontend already at 3 or 4 the next look finds the backend at 2 and connects.
 * - c: none if the image is open and no ring is served: the frontend's turn. offer if not open (this process has
 *   just started), reoffer if a ring is still served.
 * - d: none if this process serves the ring: the frontend's 3 and then 4 are expected. Otherwise another process left
 *   the device Connected, and this one re-attaches.
 * - e: reoffer if online; else the toolstack wants the device removed and no frontend is active: close.
 * - f: none while this process serves the ring, until the frontend goes to 6. If it does not and the toolstack wants
 *   the device removed, the process was restarted meanwhile and the guest may still wait for I/O: resume.
 * - g: close if the toolstack wants the device removed and no ring is served, so that nonsense does not hold it up.
 * - h: none if nothing is held, else teardown.
 * - i: only if online; else as j. A frontend at 3 here skipped waiting for InitWait.
 * - j: close if a ring is still served; teardown if the image is still open and the device not online; else none. In
 *   particular a frontend at 4 is one that has yet to see that we closed.
 * - k: as j, but unknown instead of none.
 */
export function decide(situation: Situation): Action {
  const { backendState, frontendState } = situation;
  if (backendState === "gone") return TEARDOWN;
  if (frontendState === "gone") return withoutFrontend(situation);
  const phase = phaseOf(frontendState);
  switch (backendState) {
    case XenbusState.Initialising:
    case XenbusState.InitWait:
    case XenbusState.Initialised:
    case XenbusState.Connected:
      return whileOpen(situation, phase);
    case XenbusState.Closing:
      return whileClosing(situation, phase);
    case XenbusState.Closed:
      return whileClosed(situation, phase);
    default:
      return UNKNOWN_BACKEND;
  }
}

function held(situation: Situation): boolean {
  return situation.connected || situation.opened;
}

/** Notes a and h: with nothing held, a device that is new or closed is left alone. */
function withoutFrontend(situation: Situation): Action {
  const { backendState } = situation;
  const quiet = backendState === XenbusState.Initialising || backendState === XenbusState.Closed;
  return quiet && !held(situation) ? NONE : TEARDOWN;
}

/** Rows 1, 2, 3 and 4. */
function whileOpen(situation: Situation, phase: FrontendPhase): Action {
  if (phase === "unknown") return UNKNOWN_FRONTEND;
  if (phase === "closing") return CLOSE_BEGIN;
  if (phase === "closed") return CLOSE;
  const begin = held(situation) ? REOFFER : OFFER;
  if (situation.backendState === XenbusState.Initialising) return begin;
  if (situation.backendState === XenbusState.Connected) {
    if (phase === "starting") return begin;
    return situation.connected ? NONE : CONNECT;
  }
  if (phase !== "starting") return CONNECT;
  return situation.opened && !situation.connected ? NONE : begin;
}

/** Row 5. */
function whileClosing(situation: Situation, phase: FrontendPhase): Action {
  const { online, connected } = situation;
  switch (phase) {
    case "starting":
      return online ? REOFFER : CLOSE;
    case "ready":
      return NONE;
    case "connected":
    case "closing":
      return connected || online ? NONE : RESUME;
    case "closed":
      return CLOSE;
    case "unknown":
      return connected || online ? UNKNOWN_FRONTEND : CLOSE;
  }
}

/** Row 6. */
function whileClosed(situation: Situation, phase: FrontendPhase): Action {
  if (situation.online && (phase === "starting" || phase === "ready")) return REOFFER;
  if (situation.connected) return CLOSE;
  if (situation.opened && !situation.online) return TEARDOWN;
  return phase === "unknown" ? UNKNOWN_FRONTEND : NONE;
}
