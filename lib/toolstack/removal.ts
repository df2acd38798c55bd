/**
 * Asks a backend to release a device, as every toolstack does: writes the request into its nodes, and does not wait.
 */

import type { Xenstore } from "../hypervisor.ts";
import { parseState, XenbusState } from "../xenbus/states.ts";

/**
 * Writes `online` 0 and `state` Closing into a backend's directory, in one transaction. A device that is Closed already
 * stays Closed. Returns false, and writes nothing, if there is no such device.
 */
export function requestRemoval(store: Xenstore, backendPath: string): boolean {
  return store.transaction((transaction) => {
    const state = parseState(transaction.read(`${backendPath}/state`));
    if (state === "gone") return false;
    transaction.write(`${backendPath}/online`, "0");
    if (state !== XenbusState.Closed) transaction.write(`${backendPath}/state`, String(XenbusState.Closing));
    return true;
  });
}
