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

/** Limits for people, each with its burst; absent: there is none. A process of an earlier version names fewer of them. */
export function limitTexts(
  limits: Pick<AllLimits, "iopsBurst" | "bytesBurst"> & Partial<AllLimits>,
): { readonly iops?: string; readonly bytes?: string } {
  const { iopsBurst, bytesBurst } = limits;
  const iops = limitText(limits.iops, limits.readIops, limits.writeIops, String);
  const bytes = limitText(limits.bytesPerSecond, limits.readBytesPerSecond, limits.writeBytesPerSecond, formatSize);
  return {
    ...(iops === "" ? {} : { iops: iops + burstText(iopsBurst, String) }),
    ...(bytes === "" ? {} : { bytes: bytes + burstText(bytesBurst, formatSize) }),
  };
}

/** `500`, or `reads 500, writes 100`; empty without a limit. */
function limitText(all = 0, reads = 0, writes = 0, format: (limit: number) => string): string {
  const apart = [...(reads > 0 ? [`reads ${format(reads)}`] : []), ...(writes > 0 ? [`writes ${format(writes)}`] : [])];
  return all > 0 ? format(all) : apart.join(", ");
}

function burstText(burst: number, format: (limit: number) => string): string {
  return burst === 0 ? "" : `, ${format(burst)} at once`;
}
