/**
 * What the process that serves a disk says about it, for the verbs that show disks: more than xenstore holds.
 */

import type { LiveDevice } from "../control/serving.ts";
import type { DeviceReport } from "../control/protocol.ts";
import type { DomId } from "../hypervisor.ts";
import { type DeviceListing, OTHERS_KINDS } from "../toolstack/list.ts";

/** The member `live` of a disk in JSON. */
export interface LiveMember extends Pick<DeviceReport, "connected" | "latched" | "image" | "error" | "waitsFor"> {
  /** The process that serves it. */
  readonly pid: number;
  readonly verb: string;
}

/** The member `live`; none where no process of ours serves the disk. */
export function liveMember(device: LiveDevice | undefined): { readonly live?: LiveMember } {
  if (device === undefined) return {};
  const { hello: { pid, verb }, report: { connected, latched, image, error, waitsFor } } = device;
  return {
    live: {
      pid,
      verb,
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
  { kind, backendDomain, backendState, hint }: DeviceListing,
  served: LiveDevice | undefined,
  ownDomain: DomId,
): { readonly hint?: string } {
  const isOurs = backendDomain === ownDomain && !OTHERS_KINDS.has(kind);
  if (served !== undefined || hint !== undefined || !isOurs || !ATTENDED.has(backendState)) return {};
  return {
    hint: `no process of xenblk answers for it; if none runs, its requests wait: start \`xenblk serve --kind ${kind}\``,
  };
}
