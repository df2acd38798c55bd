/**
 * What people and programs are told of a raw disk's visit in its storage daemon: that it entered for a verb, that it left
 * afterwards, and how long its guest's requests waited each time.
 */

import type { ControlClient } from "../control/client.ts";
import type { VisitState } from "../jobs/visits.ts";
import { formatVdev } from "../xenbus/vdev.ts";

/** Leaving may take so long. */
const LEAVE_MS = 60_000;

/** Requests waited. */
type Pause = NonNullable<VisitState["left"]>;

/** `xvda`, of a device's label. */
function nameOf(device: string): string {
  return formatVdev(Number(device.slice(device.lastIndexOf("/") + 1)));
}

/** `xvda has entered its storage daemon; its requests waited for 12 ms`. */
export function enteredText(device: string, { pausedMs }: Pause): string {
  return `${nameOf(device)} has entered its storage daemon; its requests waited for ${Math.ceil(pausedMs)} ms`;
}

/** The end of the visit, or why it goes on. Undefined: there is nothing to tell. */
export function leftText(device: string, { visits, left, trouble }: VisitState): string | undefined {
  const name = nameOf(device);
  if (trouble !== undefined) return `${name} stays in its storage daemon for now, and is tried again: ${trouble}`;
  if (visits) return `${name} stays in its storage daemon, which is still needed`;
  if (left === undefined) return undefined;
  return `${name} has left its storage daemon; its requests waited for ${Math.ceil(left.pausedMs)} ms`;
}

/** Where the visit stands once the disk neither enters nor leaves. Nothing: its process has ended, or knows of no visits. */
export async function visitOf(client: ControlClient, device: string): Promise<VisitState> {
  return await client.call("daemonVisit", { device }, { timeoutMs: LEAVE_MS }).catch(() => ({ visits: false }));
}
