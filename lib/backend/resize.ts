/**
 * Making a disk that a guest uses as large as its image has become: the rings take requests up to the new end first,
 * then the guest is told, by the size and by writing the state again, at which Linux's frontend reads the size anew.
 * When that is asked for is not known here.
 */

import { SECTOR_BYTES } from "../units.ts";
import { errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import { formatSize } from "../sizes.ts";
import { RESIZE_DONE } from "../xenbus/resize.ts";
import { isDisconnection } from "../xenstore.ts";
import type { DeviceNodes } from "./device_nodes.ts";
import type { DeviceResources } from "./resources.ts";

/** Carries a request out and answers it in its node. Rejects only if xenstore is lost. */
export async function growDisk(nodes: DeviceNodes, resources: DeviceResources, log: Logger): Promise<void> {
  try {
    const { before, now } = await resources.grow();
    nodes.answerResize(RESIZE_DONE, now);
    if (now > before) log.info(`grown from ${formatSize(before * SECTOR_BYTES)} to ${formatSize(now * SECTOR_BYTES)}`);
  } catch (error) {
    if (isDisconnection(error)) throw error;
    log.warning(errorText(error));
    nodes.answerResize(errorText(error), undefined);
  }
}
