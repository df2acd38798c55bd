/**
 * Keeps the node `params` true: a snapshot, or the note of one, puts another image on top of a device's disk than the
 * toolstack named. The node is written after the fact, and decides nothing: whoever opens an earlier image for writing is
 * led on by the same notes (storage/image/overlay_note.ts).
 */

import { needsDaemon } from "../storage/image/formats.ts";
import type { DeviceParts } from "./connect.ts";
import type { DeviceDescription } from "./description.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import { UNKNOWN_FILE } from "./in_daemon.ts";

/** The observation with the name of the image that is open; it is written if the nodes still have the earlier one. */
export function followImage(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Observation {
  const { resources, settings, announced, log } = device;
  const disk = resources.image?.disk;
  const named = disk?.named;
  const isSame = announced !== undefined && announced.disk === disk && announced.params === seen.params;
  if (named === undefined || !isSame || named === seen.params || settings.image !== undefined) return seen;
  if (resources.lock.owner !== "us") return seen;
  const { inDaemon } = resources.image!.description;
  const name = { params: named, ...(inDaemon === undefined ? visitOf(device) : { inDaemon }) };
  if (!nodes.nameImage(seen, name)) return seen;
  device.announced = { ...announced, params: named };
  resources.imageRenamed(name);
  log.info(`its image is ${named} now: the node params says so`);
  return { ...seen, params: named };
}

/** A daemon that has merged all snapshots into a raw image has that one for no other reason any more. */
function visitOf({ resources, settings }: DeviceParts): Pick<DeviceDescription, "inDaemon"> {
  const image = resources.image?.disk.daemon?.image;
  const isDone = image !== undefined && !needsDaemon(image) && settings.engine !== "qemu";
  return isDone ? { inDaemon: UNKNOWN_FILE } : {};
}
