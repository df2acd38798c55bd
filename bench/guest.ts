/**
 * A guest's disk as a load generator: requests a case's blocks from a backend without looking at the data, and reports
 * the processor time of both processes.
 */

import { XenblkError } from "../lib/errors.ts";
import type { LoadOutcome, LoadSpec } from "../lib/guest/load_types.ts";
import { SECTOR_BYTES } from "../lib/units.ts";
import type { GuestDisk } from "../tests/native/serve/guest.ts";
import { type DiskCase, requestShape } from "./cases.ts";
import { processorSeconds } from "./machine.ts";
import type { Sample } from "./samples.ts";
import { EMPTY_PART_BYTES } from "./storage.ts";

/** A backend that has not answered this long after the end of a load has failed. */
const PATIENCE_MS = 20_000;

/** Both ends of a disk. */
export interface LoadedDisk {
  readonly disk: GuestDisk;
  /** The largest number of segments per request that both ends support. */
  readonly mostSegments: number;
  /** The backend's processes. */
  readonly backendPids: readonly number[];
}

/** One round of a case. Throws {@linkcode XenblkError} if a request fails or is not answered in time. */
export async function runGuest(
  { disk, mostSegments, backendPids }: LoadedDisk,
  diskCase: DiskCase,
  durationMs: number,
  seed: number,
): Promise<Sample> {
  const shape = requestShape(diskCase, mostSegments);
  const spec: LoadSpec = {
    seed,
    pattern: diskCase.pattern,
    readShare: diskCase.operation === "read" ? 1 : 0,
    blockBytes: [shape.blockBytes],
    depth: shape.depth,
    flushEvery: 0,
    barrierEvery: 0,
    durationMs,
    ...(diskCase.allocates ? { area: neverWritten(seed) } : {}),
  };
  const frontendPid = disk.guest.pid;
  const backendSeconds = (): number => backendPids.reduce((sum, pid) => sum + processorSeconds(pid), 0);
  const [backendBefore, frontendBefore] = [backendSeconds(), processorSeconds(frontendPid)];
  const outcome = await within(durationMs + PATIENCE_MS, disk.measure(spec), diskCase);
  const [backendAfter, frontendAfter] = [backendSeconds(), processorSeconds(frontendPid)];
  refuseFailures(outcome, diskCase);
  const seconds = outcome.elapsedMs / 1000;
  const blocks = (outcome.bytesRead + outcome.bytesWritten) / diskCase.blockBytes;
  const { p50Ns, p99Ns, p999Ns } = outcome.latency;
  return {
    iops: blocks / seconds,
    cpuUs: (backendAfter - backendBefore) * 1e6 / blocks,
    latencyUs: shape.blockBytes === diskCase.blockBytes
      ? { p50: p50Ns / 1000, p99: p99Ns / 1000, p999: p999Ns / 1000 }
      : undefined,
    frontendShare: (frontendAfter - frontendBefore) / seconds,
  };
}

/** A part of an empty disk that no round with another seed uses. */
function neverWritten(seed: number): NonNullable<LoadSpec["area"]> {
  const sectors = EMPTY_PART_BYTES / SECTOR_BYTES;
  return { firstSector: (seed - 1) * sectors, sectors };
}

async function within<T>(timeoutMs: number, work: Promise<T>, { name }: DiskCase): Promise<T> {
  const timeout = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => timeout.reject(new XenblkError(`Cannot measure ${name}: its backend does not answer requests`)),
    timeoutMs,
  );
  try {
    return await Promise.race([work, timeout.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function refuseFailures(outcome: LoadOutcome, { name }: DiskCase): void {
  const { errors, errorsByKind, protocolErrors, firstProtocolError, reads, writes } = outcome;
  const kinds = JSON.stringify(errorsByKind);
  if (errors > 0) throw new XenblkError(`Cannot measure ${name}: ${errors} requests failed (${kinds})`);
  if (protocolErrors > 0) throw new XenblkError(`Cannot measure ${name}: ${firstProtocolError}`);
  if (reads + writes === 0) throw new XenblkError(`Cannot measure ${name}: no request was answered`);
}
