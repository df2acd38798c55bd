/**
 * Small things that both the backend and the toolstack side do with xenstore nodes. It must not know what the nodes
 * mean.
 */

import { XenstoreError, type XenstoreOperations } from "./hypervisor.ts";

/** Whether something failed because the connection to xenstored was lost. */
export function isDisconnection(error: unknown): boolean {
  return error instanceof XenstoreError && error.code === "EDISCONNECTED";
}

/** Removes a node and all below it, then each node above it, below `root`, that has no child left. */
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
