/**
 * How the verbs of `image` end when INT, TERM or HUP come: qemu-img is ended, what it made is removed, and the exit
 * status is that of the signal.
 */

import { isAbort } from "../../abort.ts";
import { errorText } from "../../errors.ts";
import { signalStatus } from "../signals.ts";
import type { Context } from "../verb.ts";

/** Runs the work; `what` is the beginning of the message if a signal ends it: `Cannot convert a.img`. */
export async function endingBySignal(
  { output, signals }: Context,
  what: string,
  work: () => Promise<number>,
): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (signals.received === undefined || !isAbort(error)) throw error;
    output.message(`xenblk: ${what}: ${errorText(error)}`);
    return signalStatus(signals.received);
  }
}
