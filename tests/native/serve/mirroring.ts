/**
 * Mirrors of a guest's disk, asked for by the control socket of the process that serves it.
 */

import { assert, assertEquals } from "@std/assert";
import { deviceLabel } from "../../../lib/backend/journals.ts";
import { isActive, type JobReport } from "../../../lib/jobs/job.ts";
import { backendPath, type DeviceAddress } from "../../../lib/xenbus/paths.ts";
import type { NativeXen } from "../harness.ts";
import { type BackendProcess, nodeValue } from "./backend.ts";
import { clientOf } from "./swap_stage.ts";

const PATIENT = { timeoutMs: 60_000 };

/** A disk on a machine. */
export interface MirroredDisk {
  readonly xen: NativeXen;
  readonly device: DeviceAddress;
}

/** Begins one to an image. */
export async function mirrorBegins(
  { xen, device }: MirroredDisk,
  by: BackendProcess,
  image: string,
  bytesPerSecond: number,
): Promise<void> {
  using client = await clientOf(xen, by);
  await client.call("mirror", { device: deviceLabel(device), image, bytesPerSecond }, PATIENT);
}

/** The mirror once it is over. */
export async function mirrorEnds({ xen, device }: MirroredDisk, by: BackendProcess): Promise<JobReport> {
  using client = await clientOf(xen, by);
  for (const end = performance.now() + 60_000;;) {
    const [job] = (await client.call("jobs", { device: deviceLabel(device) }, PATIENT)).jobs;
    if (job !== undefined && !isActive(job)) return job;
    assert(performance.now() < end, `the job does not end: ${JSON.stringify(job)}; ${by.messages}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Makes one, as fast as it goes, which succeeds. */
export async function mirrored(disk: MirroredDisk, by: BackendProcess, image: string): Promise<void> {
  await mirrorBegins(disk, by, image, 2 ** 40);
  const { state, error } = await mirrorEnds(disk, by);
  const params = await nodeValue(disk.xen, `${backendPath(disk.device)}/params`);
  assertEquals([state, error, params], ["completed", undefined, image], by.messages);
}
