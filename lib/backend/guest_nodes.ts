/**
 * Nodes of a guest, which it can make unreadable for a driver domain.
 */

import { XenblkError } from "../errors.ts";
import { type DomId, XenstoreError, type XenstoreOperations } from "../hypervisor.ts";

/** The guest owns its nodes and can make them unreadable for a driver domain. */
export function isHidden(error: unknown): boolean {
  return error instanceof XenstoreError && error.code === "EACCES";
}

/** The error for a guest's node that this process may not read. */
export function hiddenNode(path: string): XenblkError {
  return new XenblkError(`Cannot read ${path}: the guest does not permit it (EACCES)`, {
    remedy: "let the guest's driver, or xenstore-chmod in domain 0, give this domain read access to that directory",
  });
}

/** A guest's name, if its toolstack has named it and this domain may read it: a driver domain may not. */
export function guestName(store: XenstoreOperations, domain: DomId): string | undefined {
  try {
    return store.read(`/local/domain/${domain}/name`) || undefined;
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "EACCES") return undefined;
    throw error;
  }
}

/** The value that was read, if there is one. Throws why it could not be read. */
export function unlessError(value: string | undefined | XenstoreError): string | undefined {
  if (value instanceof XenstoreError) throw value;
  return value;
}

/** The same, undefined for a node that is hidden. */
export function unlessHidden(value: string | undefined | XenstoreError): string | undefined {
  return isHidden(value) ? undefined : unlessError(value);
}
