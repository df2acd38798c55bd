/**
 * Why a guest's driver has not done what it was asked to, as far as its nodes show it. The guest writes them, so they are
 * quoted, and nothing depends on them.
 */

import { XenstoreError, type XenstoreOperations } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { type DeviceAddress, frontendErrorPath } from "../xenbus/paths.ts";

/** The most that is quoted. */
const MOST_CHARACTERS = 200;

/** The end of a sentence, such as `; its driver says "Device in use; refusing to close"`; empty if it says nothing. */
export function frontendSays(store: XenstoreOperations, device: DeviceAddress): string {
  const text = errorNode(store, device);
  if (text === undefined || text === "") return "";
  // Linux writes the errno before the text.
  const words = printable(text).replace(/^-?[0-9]+ /, "");
  return `; its driver says ${JSON.stringify(words.slice(0, MOST_CHARACTERS))}`;
}

function errorNode(store: XenstoreOperations, device: DeviceAddress): string | undefined {
  try {
    return store.read(frontendErrorPath(device));
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "EACCES") return undefined;
    throw error;
  }
}
