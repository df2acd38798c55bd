/**
 * The one state machine of a block backend: what a device does next, as a pure table over everything that decides it.
 * The handshake, closing, reconnecting, taking over after a restart, removal, and what to do after a failure are all
 * decided here; the device carries the action out and reports an outcome.
 */

import { type ObservedState, XenbusState } from "./states.ts";

/** Everything that the decision depends on. A node that changes while the others are read leads to another look. */
export interface Situation {
  /** The backend's own node, which the toolstack writes too. */
  readonly backendState: ObservedState;
  /** The guest's node; `gone` also if its directory is missing or its domain has ended. */
  readonly frontendState: ObservedState;
  /** The backend's `online` node says 1: keep the device for a reconnect. */
  readonly online: boolean;
  /** The toolstack asks to look at the image's size again. */
  readonly resizeAsked: boolean;
  /** False after xenstore came back, perhaps empty, until the nodes were seen again: missing nodes prove nothing. */
  readonly proven: boolean;
  /** Who holds the device's lock. */
  readonly owner: Owner;
  /** The image in this process. */
  readonly image: Image;
  /** The frontend's rings. */
  readonly ring: Ring;
  /** How the last attempt ended, if nothing has changed since. */
  readonly attempt: Attempt;
  /** What this process wants with the device. */
  readonly intent: Intent;
  /**
   * Since this process wants to detach the device, its removal was asked for. If the backend is Initialising after that,
   * the disk was attached again: the next process offers it.
   */
  readonly removalAsked: boolean;
}

/**
 * Who holds the device's lock, and so may serve it and write its nodes:
 *
 * - `nobody`: this process has not tried to take the lock.
 * - `us`, `other`: this process, or another one.
 * - `unknown`: the lock cannot be taken or tested. Nothing is served, but a frontend that closes is answered.
 */
export type Owner = "nobody" | "us" | "other" | "unknown";

/**
 * - `none`: it is not open; it may be being opened.
 * - `open`: the image that the nodes name is open.
 * - `changed`: an image is open, and the nodes name another one by now.
 */
export type Image = "none" | "open" | "changed";

/**
 * - `none`: this process serves no ring.
 * - `served`: it does, and no node of the connection is left to write.
 * - `replaced`: it does, but the frontend has started over and published another ring, without closing.
 * - `untold`: it does, but writing the nodes of the connection failed or was not confirmed.
 * - `stopped`: the data plane stopped a ring; the rings must be closed and the error reported.
 * - `broken`: that is done; the frontend has to start over with a new ring.
 */
export type Ring = "none" | "served" | "replaced" | "untold" | "stopped" | "broken";

/**
 * - `fresh`: nothing was tried, or something has changed since.
 * - `refused`: offering, opening or connecting failed; `fresh` again after a while, which grows.
 * - `busy`: it failed because another process holds the image's lock; `fresh` again after a while.
 * - `failed`: xenstore, or closing something, failed; `fresh` again after a while, which grows.
 */
export type Attempt = "fresh" | "refused" | "busy" | "failed";

/** `serve` it; `detach` it: ask for its removal and serve until the guest has closed it; `detach-now`: do not wait. */
export type Intent = "serve" | "detach" | "detach-now";

/**
 * What to do. State nodes are written only where they exist and still say what the decision was based on.
 *
 * - `claim`: take the device's lock.
 * - `offer`: close any earlier ring, publish the features that do not depend on the image, write InitWait.
 * - `open`: open the image that the nodes name, and close another one; then publish the other features and
 *   `hotplug-status`. Begins it, or goes on waiting for it: the action ends early when a node changes.
 * - `connect`: close any earlier ring, lock the image, open the rings, then as `publish`.
 * - `publish`: write the disk's properties and Connected. The state is written although it is Connected already if the
 *   frontend is not.
 * - `resume`: as `connect`, but write nothing.
 * - `change-image`: a CD-ROM: close rings and image, so that the disc that the nodes name is opened. A disk: report that
 *   the change is ignored until the guest has closed it.
 * - `drop-ring`: close the rings, report why the data plane stopped one, write Closing if Connected.
 * - `resize`: read the image's size, notify the rings and the frontend, answer the toolstack.
 * - `request-removal`: write `online` 0 and Closing, as a toolstack does.
 * - `close-begin`: write Closing; requests are still served.
 * - `close`: finish what is in flight, close rings and image, write Closed.
 * - `teardown`: the same for a frontend or device that is gone.
 * - `forget`: drop a device that is gone and that another process owns; write nothing.
 * - `wait`: nothing now; look again after a while.
 * - `unknown-state`: ignore it, with one log line.
 * - `none`: nothing until something changes.
 */
export type Action =
  | { readonly kind: PlainActionKind }
  | { readonly kind: "wait"; readonly for: "owner" | "image" | "retry" }
  | { readonly kind: "unknown-state"; readonly side: "backend" | "frontend" };

/** An action without further data. */
export type PlainActionKind =
  | "claim"
  | "offer"
  | "open"
  | "connect"
  | "publish"
  | "resume"
  | "change-image"
  | "drop-ring"
  | "resize"
  | "request-removal"
  | "close-begin"
  | "close"
  | "teardown"
  | "forget"
  | "none";

/**
 * How an action ended. Only this, and what the nodes then say, makes the next situation.
 *
 * - `done`: look again at once.
 * - `refused`, `busy`, `failed`: look again at once; the next `attempt` says so.
 * - `idle`: look again when something changes.
 * - `waiting`: the same, or after a while; by then `attempt` is `fresh`, and another process may have ended.
 * - `ended`: the device is gone, and nothing of it is held.
 */
export type Outcome = "done" | "refused" | "busy" | "failed" | "idle" | "waiting" | "ended";

/**
 * One action for every situation.
 *
 * By the backend's state (rows) and the frontend's (columns); `0 7 8 !` are states that mean nothing to a disk, and text
 * that is no state. "Held": the image is open or a ring is not `none` or `broken`.
 *
 * | be \ fe | gone     | 1, 2      | 3           | 4           | 5           | 6        | 0 7 8 !  |
 * |---------|----------|-----------|-------------|-------------|-------------|----------|----------|
 * | gone    | teardown | teardown  | teardown    | teardown    | teardown    | teardown | teardown |
 * | 1       | (a)      | offer     | offer       | offer       | close-begin | close    | unknown  |
 * | 2, 3    | teardown | (b)       | (c)         | (c)         | close-begin | close    | unknown  |
 * | 4       | teardown | offer     | (d)         | (d)         | close-begin | close    | unknown  |
 * | 5       | teardown | (e)       | none        | (f)         | (f)         | close    | (g)      |
 * | 6       | (a)      | offer (h) | offer (h)   | (i)         | (i)         | (i)      | (i)      |
 * | 0 7 8 ! | teardown | unknown   | unknown     | unknown     | unknown     | unknown  | unknown  |
 *
 * InitWait is written before the image is opened: a toolstack waits ten seconds for that state and only then, for
 * longer, for the image, and a frontend needs nothing of the image to publish its rings.
 *
 * - a: none if nothing is held: the toolstack may be about to create the frontend's directory. Else teardown.
 * - b: offer if a ring is held. None if the image is open: it is the frontend's turn. Else open.
 * - c: connect if the image is open, else open. Close-begin if connecting was refused or the ring is broken: the
 *   frontend learns by Closing that it must start over. If busy, wait: the holder of the image's lock may be the source
 *   of a migration, or a firmware that is about to hand over.
 * - d: by the ring. `served`: none, or change-image. `untold`: publish. `broken`: close-begin. `replaced`: connect.
 *   `none`: another process left the device Connected, and this one takes over: open, then connect. If refused, none:
 *   Closing would cost the guest a disk that can still be put right. If busy, wait: the holder of the image's lock may
 *   be a process that is about to end.
 * - e: offer if online; else the toolstack wants the device removed and no frontend is active: close.
 * - f: none if online, or while a ring is held, until the frontend goes to 6. Else the toolstack wants the device
 *   removed, and a guest that an earlier process served may wait for I/O: open, then resume. Close if that was refused
 *   or busy, or the ring is broken.
 * - g: close if the toolstack wants the device removed and no ring is held, so that nonsense does not delay it.
 * - h: only if online; else as i. A frontend at 3 here did not wait for InitWait.
 * - i: close if a ring is held; teardown if the image is open and the device not online; else none, or unknown. A
 *   frontend at 4 has yet to see that we closed.
 *
 * In all rows an offer or opening that was refused is none: time has to pass, or a node to change.
 *
 * What comes before the table, first match first:
 *
 * | if                                                                           | then            |
 * |------------------------------------------------------------------------------|-----------------|
 * | a ring is held, the store is not proven, backend or frontend is gone         | none            |
 * | detach or detach-now, the owner is other or unknown                          | none            |
 * | detach or detach-now, removal was asked for, backend 1: attached again       | none            |
 * | detach or detach-now, backend not gone, online or not yet 5 or 6             | request-removal |
 * | detach-now, backend not gone, and not 6 or something is held                 | close           |
 * | the ring is stopped, neither backend nor frontend is gone, backend not 6     | drop-ring       |
 *
 * What comes after it:
 *
 * | if                                                                           | then            |
 * |------------------------------------------------------------------------------|-----------------|
 * | none, unknown or change-image, a resize is asked for, rings are served       | resize          |
 * | not none, the last attempt failed                                            | wait            |
 * | not none, the owner is other; forget if the backend is gone                  | wait            |
 * | not none, the owner is nobody                                                | claim           |
 */
export function decide(situation: Situation): Action {
  const wanted = wantedIn(situation);
  if (wanted.kind === "none") return wanted;
  if (situation.attempt === "failed") return { kind: "wait", for: "retry" };
  switch (situation.owner) {
    case "other":
      return situation.backendState === "gone" ? act("forget") : { kind: "wait", for: "owner" };
    case "nobody":
      return act("claim");
    default:
      return wanted;
  }
}

/** What the owner of the device would do if the last attempt had not failed. */
function wantedIn(situation: Situation): Action {
  const { backendState, frontendState, intent, owner } = situation;
  const somethingGone = backendState === "gone" || frontendState === "gone";
  if (somethingGone && ringHeld(situation) && !situation.proven) return act("none");
  if (intent !== "serve" && (owner === "other" || owner === "unknown")) return act("none");
  if (situation.removalAsked && backendState === XenbusState.Initialising) return act("none");
  if (intent !== "serve" && removalNotAsked(situation)) return act("request-removal");
  if (intent === "detach-now" && backendState !== "gone") {
    return backendState === XenbusState.Closed && !held(situation) ? act("none") : act("close");
  }
  if (situation.ring === "stopped" && !somethingGone && backendState !== XenbusState.Closed) return act("drop-ring");
  const action = byStates(situation);
  if (situation.resizeAsked && served(situation) && COMES_AFTER_RESIZE.has(action.kind)) return act("resize");
  const beginning = action.kind === "offer" || action.kind === "open";
  return beginning && situation.attempt === "refused" ? act("none") : action;
}

const COMES_AFTER_RESIZE: ReadonlySet<Action["kind"]> = new Set(["none", "unknown-state", "change-image"]);

function removalNotAsked(situation: Situation): boolean {
  return situation.backendState !== "gone" && !isRemovalAsked(situation);
}

/** The nodes ask for the device's removal, as a toolstack does. */
export function isRemovalAsked({ backendState, online }: Pick<Situation, "backendState" | "online">): boolean {
  return !online && (backendState === XenbusState.Closing || backendState === XenbusState.Closed);
}

/** The table itself. */
function byStates(situation: Situation): Action {
  const { backendState, frontendState } = situation;
  if (backendState === "gone") return act("teardown");
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
      return { kind: "unknown-state", side: "backend" };
  }
}

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

/** Note a. */
function withoutFrontend(situation: Situation): Action {
  const { backendState } = situation;
  const quiet = backendState === XenbusState.Initialising || backendState === XenbusState.Closed;
  return act(quiet && !held(situation) ? "none" : "teardown");
}

/** Rows 1, 2, 3 and 4. */
function whileOpen(situation: Situation, phase: FrontendPhase): Action {
  if (phase === "unknown") return UNKNOWN_FRONTEND;
  if (phase === "closing") return act("close-begin");
  if (phase === "closed") return act("close");
  if (situation.backendState === XenbusState.Initialising) return act("offer");
  if (situation.backendState === XenbusState.Connected) {
    return phase === "starting" ? act("offer") : whileConnected(situation);
  }
  if (phase === "starting") return ringHeld(situation) ? act("offer") : onceOpen(situation, "none");
  return whileAsked(situation);
}

/** The action if the image is open, else to open it. */
function onceOpen({ image }: Situation, kind: PlainActionKind): Action {
  return act(image === "open" ? kind : "open");
}

/** Note c. */
function whileAsked(situation: Situation): Action {
  const { ring, attempt, image } = situation;
  if (ring === "broken" || (attempt === "refused" && image === "open")) return act("close-begin");
  return attempt === "busy" ? WAIT_FOR_IMAGE : onceOpen(situation, "connect");
}

/** The rings as the frontend has published them cannot be served. */
function hopeless({ ring, attempt }: Situation): boolean {
  return ring === "broken" || attempt === "refused" || attempt === "busy";
}

/** Note d. */
function whileConnected(situation: Situation): Action {
  const { ring, attempt, image } = situation;
  switch (ring) {
    case "served":
      return act(image === "changed" ? "change-image" : "none");
    case "replaced":
      return act("connect");
    case "untold":
      return act("publish");
    case "broken":
      return act("close-begin");
    case "none":
      if (attempt === "busy") return WAIT_FOR_IMAGE;
      return attempt === "refused" ? act("none") : onceOpen(situation, "connect");
    default:
      return act("none");
  }
}

/** Row 5. */
function whileClosing(situation: Situation, phase: FrontendPhase): Action {
  const { online } = situation;
  const patient = online || ringHeld(situation);
  switch (phase) {
    case "starting":
      return act(online ? "offer" : "close");
    case "ready":
      return act("none");
    case "connected":
    case "closing":
      if (patient) return act("none");
      return hopeless(situation) ? act("close") : onceOpen(situation, "resume");
    case "closed":
      return act("close");
    case "unknown":
      return patient ? UNKNOWN_FRONTEND : act("close");
  }
}

/** Row 6. */
function whileClosed(situation: Situation, phase: FrontendPhase): Action {
  if (situation.online && (phase === "starting" || phase === "ready")) return act("offer");
  if (ringHeld(situation)) return act("close");
  if (situation.image !== "none" && !situation.online) return act("teardown");
  return phase === "unknown" ? UNKNOWN_FRONTEND : act("none");
}

const UNKNOWN_FRONTEND: Action = { kind: "unknown-state", side: "frontend" };
const WAIT_FOR_IMAGE: Action = { kind: "wait", for: "image" };

function act(kind: PlainActionKind): Action {
  return { kind };
}

function served({ ring }: Situation): boolean {
  return ring === "served" || ring === "replaced" || ring === "untold";
}

/** Rings are open in the data plane, whether it still works on them or not. */
function ringHeld(situation: Situation): boolean {
  return served(situation) || situation.ring === "stopped";
}

function held(situation: Situation): boolean {
  return situation.image !== "none" || ringHeld(situation);
}
