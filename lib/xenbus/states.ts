/**
 * The XenbusState values of `xen/io/xenbus.h`, their names, and how the text of a `state` node is read: strictly, since
 * the guest writes one of the two nodes. transitions.ts decides what a state leads to.
 */

/** Where one end of a device stands. Values are those of enum xenbus_state. */
export const XenbusState = {
  Unknown: 0,
  Initialising: 1,
  InitWait: 2,
  Initialised: 3,
  Connected: 4,
  Closing: 5,
  Closed: 6,
  Reconfiguring: 7,
  Reconfigured: 8,
} as const;

/** One of the values of {@linkcode XenbusState}. */
export type XenbusState = typeof XenbusState[keyof typeof XenbusState];

/** What a `state` node says: a state, `gone` if there is no node, `invalid` if its text is not a state. */
export type ObservedState = XenbusState | "gone" | "invalid";

const NAMES: readonly string[] = Object.keys(XenbusState);

/** Reads the value of a `state` node. Only a single digit 0 to 8 is a state: no sign, space or leading zero. */
export function parseState(text: string | undefined): ObservedState {
  if (text === undefined) return "gone";
  return /^[0-8]$/.test(text) ? Number(text) as XenbusState : "invalid";
}

/** The name as in xenbus.h without its prefix, such as `InitWait`; `gone` and `invalid` are their own names. */
export function stateName(state: ObservedState): string {
  return typeof state === "string" ? state : NAMES[state] ?? "invalid";
}
