/**
 * What the process that serves a disk says about it, for the verbs that show disks: more than xenstore holds.
 */

import type { LiveDevice } from "../control/serving.ts";
import type { DeviceReport } from "../control/protocol.ts";
import type { Measured } from "./live_rates.ts";
import type { DomId } from "../hypervisor.ts";
import { type DeviceListing, OTHERS_KINDS } from "../toolstack/list.ts";

/** The member `live` of a disk in JSON. */
export interface LiveMember extends Pick<DeviceReport, "connected" | "latched" | "image" | "error" | "waitsFor"> {
  /** The process that serves it. */
  readonly pid: number;
  readonly verb: string;
  /** Its version of xenblk: after an update not yet that of the command. */
  readonly version: string;
}

/** The member `live`; none where no process of ours serves the disk. */
export function liveMember(device: LiveDevice | undefined): { readonly live?: LiveMember } {
  if (device === undefined) return {};
  const { hello: { pid, verb, version }, report: { connected, latched, image, error, waitsFor } } = device;
  return {
    live: {
      pid,
      verb,
      version,
      connected,
      latched,
      ...(image === undefined ? {} : { image }),
      ...(error === undefined ? {} : { error }),
      ...(waitsFor === undefined ? {} : { waitsFor }),
    },
  };
}

/** A backend in one of these states has work to do. */
const ATTENDED: ReadonlySet<string> = new Set(["InitWait", "Initialised", "Connected", "Closing"]);

/**
 * The hint for a disk of this domain for which no process of ours answers: xenstore keeps the states of a process that
 * was killed.
 */
export function unattendedHint(
  { backendPath, kind, backendDomain, backendState, hint }: DeviceListing,
  { live, isWhole }: Measured,
  ownDomain: DomId,
): { readonly hint?: string } {
  const isOurs = backendDomain === ownDomain && !OTHERS_KINDS.has(kind);
  if (!isWhole || live.has(backendPath) || hint !== undefined || !isOurs || !ATTENDED.has(backendState)) return {};
  return {
    hint: `no process of xenblk answers for it; if none runs, its requests wait: start \`xenblk serve --kind ${kind}\``,
  };
}
