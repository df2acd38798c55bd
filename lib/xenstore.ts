/**
 * What the backend and the toolstack side both do with xenstore: telling a lost connection from other errors, and
 * removing nodes with the directories that become empty.
 */

import { XenstoreError, type XenstoreOperations } from "./hypervisor.ts";

/** Whether an error says that the connection to xenstored is lost. */
export function isDisconnection(error: unknown): boolean {
  return error instanceof XenstoreError && error.code === "EDISCONNECTED";
}

/** Removes a node and all below it, then each of its parents below `root` that has no child left. */
export function removeWithEmptyParents(store: XenstoreOperations, path: string, root: string): void {
  store.remove(path);
  for (let parent = parentOf(path); parent.length > root.length; parent = parentOf(parent)) {
    const children = store.list(parent);
    if (children === undefined) continue;
    if (children.length > 0) return;
    store.remove(parent);
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}
