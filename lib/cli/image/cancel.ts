/**
 * How the verbs of `image` end when INT, TERM or HUP come: qemu-img is ended, what it made is removed, and the exit
 * status is that of the signal.
 */

import { isAbort } from "../../abort.ts";
import { EndedBySignal } from "../signals.ts";
import type { Context } from "../verb.ts";

/** Runs the work; `what` is the beginning of the error if a signal ends it: `Cannot convert a.img`. */
export async function endingBySignal(
  { signals }: Pick<Context, "signals">,
  what: string,
  work: () => Promise<number>,
): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (signals.received === undefined || !isAbort(error)) throw error;
    throw new EndedBySignal(what, signals.received);
  }
}
