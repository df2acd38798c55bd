/**
 * Engine `uring` as a disk's module: opens channels through the io_uring that is the reactor's place to sleep.
 */

import { XenblkError } from "../../lib/errors.ts";
import type { ChannelContext, ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import type { UringAttachment } from "../../lib/storage/image/medium.ts";
import { UringEngine } from "./engine.ts";

/** See DiskModule. Throws if the file cannot be opened or is another one now, or this thread has no io_uring. */
export function openChannel(
  attachment: UringAttachment,
  options: ChannelOptions,
  { parker }: Pick<ChannelContext, "parker">,
): IoChannel {
  if (parker instanceof UringEngine) return parker.openChannel(attachment, options);
  throw new XenblkError(`Cannot open image ${attachment.image.path} for io_uring: this thread has none`);
}
