/**
 * Work on a disk that its serving process does, asked for by the control socket; or, where no process of xenblk serves
 * it or the process ends meanwhile, by the nodes in xenstore, as with other backends.
 */

import { ConnectionLostError, type ControlClient } from "../control/client.ts";
import { clientOf } from "../control/serving.ts";
import { XenblkError } from "../errors.ts";
import type { FoundDisk } from "../toolstack/detach.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { Silent } from "./silent.ts";

/** How much longer a call may take than what it waits for. */
export const CALL_SLACK_MS = 10_000;

/** A connection to the process that serves the disk. Throws {@linkcode XenblkError} if none does; `verb`: "weigh". */
export async function clientOfServing({ guest, device }: FoundDisk, verb: string): Promise<ControlClient> {
  const silent = new Silent();
  const client = await clientOf(backendPath(device), silent.note);
  if (client !== undefined) return client;
  const what = `Cannot ${verb} ${formatVdev(device.vdev)} of ${domainLabel(guest)}`;
  if (!silent.isEmpty) throw silent.error(what);
  throw new XenblkError(`${what}: no process of xenblk serves it`, {
    remedy: "see `xenblk list`; the process may also belong to another user",
  });
}

/** The result of `asked`, or else of `direct`. */
export async function throughSocket<T>(
  device: DeviceAddress,
  asked: (client: ControlClient) => Promise<T>,
  direct: () => Promise<T>,
): Promise<T> {
  const silent = new Silent();
  using client = await clientOf(backendPath(device), silent.note).catch(() => undefined);
  if (client === undefined) {
    return await direct().catch((error) => {
      // The process that does not answer is the backend that did nothing.
      if (error instanceof XenblkError && error.kind === "timeout" && !silent.isEmpty) {
        throw silent.error(error.message, "timeout");
      }
      throw error;
    });
  }
  try {
    return await asked(client);
  } catch (error) {
    if (!(error instanceof ConnectionLostError)) throw error;
  }
  return await direct();
}
