/**
 * Which grant mode a connection uses: the operator's choice, if both sides and the disk allow it.
 * Pure.
 */

import type { GrantMode } from "../dataplane/types.ts";
import type { DiskProperties } from "../storage/disk.ts";

/** What an operator can choose: a mode, or `auto` for the one that was measured to be best. */
export type GrantChoice = GrantMode | "auto";

/** What `auto` stands for. On a real Xen copying was level with or ahead of the others but for large reads. */
const AUTO_MODE: GrantMode = "copy";

/** Whether feature-persistent is published as 1: only where it would be used. */
export function offersPersistent(choice: GrantChoice, { copyOnly }: Pick<DiskProperties, "copyOnly"> = {}): boolean {
  return modeOf(choice) === "persistent" && copyOnly === undefined;
}

/** Who published feature-persistent=1, as it stands in xenstore. */
export interface PersistentNodes {
  /**
   * The backend, as the frontend read it when it connected, perhaps from an earlier process. A frontend that read 0
   * takes a page that stays mapped for a defect of the backend, and gives up its disk.
   */
  readonly backend: boolean;
  readonly frontend: boolean;
}

/**
 * The mode for a connection, and the reason if it is not the chosen one. `refusal`: why the engine may not work on the
 * guest's own pages, for instance because I/O goes past the page cache and the toolstack does not declare that safe.
 */
export function grantModeOf(
  choice: GrantChoice,
  nodes: PersistentNodes,
  refusal?: string,
): { mode: GrantMode; reason?: string } {
  const mode = modeOf(choice);
  if (mode !== "copy" && refusal !== undefined) return { mode: "copy", reason: refusal };
  if (mode !== "persistent" || (nodes.backend && nodes.frontend)) return { mode };
  const reason = nodes.backend
    ? "the frontend did not publish feature-persistent=1"
    : "the frontend connected to a backend that did not offer feature-persistent";
  return { mode: "copy", reason };
}

function modeOf(choice: GrantChoice): GrantMode {
  return choice === "auto" ? AUTO_MODE : choice;
}
