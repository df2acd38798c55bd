/**
 * Which grant mode a connection uses: what the operator chose, as far as both sides agreed to it. Pure; it must not
 * know how nodes are read or pages are mapped.
 */

import type { GrantMode } from "../dataplane/types.ts";

/** What an operator can choose: a mode, or `auto` for the one that was measured to be best. */
export type GrantChoice = GrantMode | "auto";

/** What `auto` stands for. On a real Xen copying was level with or ahead of the others but for large reads. */
const AUTO_MODE: GrantMode = "copy";

/** Whether feature-persistent is published as 1: only where it would be used. */
export function offersPersistent(choice: GrantChoice): boolean {
  return modeOf(choice) === "persistent";
}

/** Who published feature-persistent=1, as it stands in xenstore. */
export interface PersistentNodes {
  /**
   * Ours, as the frontend saw it. It may be an earlier process's: what counts for the frontend is what it read when it
   * connected, and one that was told 0 takes a page that stays mapped for a backend gone wrong, and gives up its disk.
   */
  readonly backend: boolean;
  readonly frontend: boolean;
}

/**
 * The mode for a connection, and why it is not the one that was chosen, if so. `guestPages`: the engine may work on the
 * guest's own pages, since they go through the page cache or the toolstack vouches for it.
 */
export function grantModeOf(
  choice: GrantChoice,
  nodes: PersistentNodes,
  guestPages = true,
): { mode: GrantMode; reason?: string } {
  const mode = modeOf(choice);
  if (mode !== "copy" && !guestPages) {
    return { mode: "copy", reason: "cache none reaches guest pages only with the node direct-io-safe=1" };
  }
  if (mode !== "persistent" || (nodes.backend && nodes.frontend)) return { mode };
  const reason = nodes.backend
    ? "the frontend did not publish feature-persistent=1"
    : "the frontend connected to a backend that did not offer feature-persistent";
  return { mode: "copy", reason };
}

function modeOf(choice: GrantChoice): GrantMode {
  return choice === "auto" ? AUTO_MODE : choice;
}
