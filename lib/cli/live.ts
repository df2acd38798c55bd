/**
 * What the process that serves a disk says about it, for the verbs that show disks: more than xenstore holds.
 */

import type { LiveDevice } from "../control/serving.ts";
import type { DeviceReport } from "../backend/status.ts";
import { formatSize } from "../sizes.ts";
import type { AllLimits } from "../storage/filter/limits.ts";

/** The member `live` of a disk in JSON. */
export interface LiveMember
  extends
    Pick<DeviceReport, "connected" | "latched" | "image" | "reactors" | "error" | "waitsFor" | "weight" | "limits"> {
  /** The process that serves it. */
  readonly pid: number;
  readonly verb: string;
  /** Its version of xenblk: after an update not yet that of the command. */
  readonly version: string;
}

/** The member `live`; none where no process of ours serves the disk. */
export function liveMember(device: LiveDevice | undefined): { readonly live?: LiveMember } {
  if (device === undefined) return {};
  const { hello: { pid, verb, version }, report } = device;
  const { connected, latched, image, reactors, error, waitsFor, weight, limits } = report;
  return {
    live: {
      pid,
      verb,
      version,
      connected,
      latched,
      weight,
      ...(limits === undefined ? {} : { limits }),
      ...(image === undefined ? {} : { image }),
      ...(reactors === undefined ? {} : { reactors }),
      ...(error === undefined ? {} : { error }),
      ...(waitsFor === undefined ? {} : { waitsFor }),
    },
  };
}

/** Limits for people, each with its burst; absent: there is none. */
export function limitTexts(limits: AllLimits): { readonly iops?: string; readonly bytes?: string } {
  const { iops, iopsBurst, bytesPerSecond, bytesBurst } = limits;
  const text = (limit: string, burst: number, burstText: string): string =>
    burst === 0 ? limit : `${limit}, ${burstText} at once`;
  return {
    ...(iops === 0 ? {} : { iops: text(String(iops), iopsBurst, String(iopsBurst)) }),
    ...(bytesPerSecond === 0 ? {} : { bytes: text(formatSize(bytesPerSecond), bytesBurst, formatSize(bytesBurst)) }),
  };
}
