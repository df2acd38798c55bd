/**
 * The filter `readonly`: the guest sees a read-only disk, and the image is opened for reading.
 */

import { EBADF } from "../../errno.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";
import type { FilterAttachment, FilterDefinition } from "./filter.ts";
import { HoldingChannel } from "./holding.ts";

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "The guest sees a read-only disk, and the image is opened for reading",
  options: {},
  readsOnly: true,
  properties: ({ discard: _, ...disk }) => ({ ...disk, readOnly: true }),
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner } = attachment as FilterAttachment;
  return new ReadOnlyChannel(context.openChannel(inner, options), options);
}

/** The backend refuses writes before they come here; this refuses those of any other caller. */
class ReadOnlyChannel extends HoldingChannel {
  protected override readonly passes = false;

  protected override take(tag: number): void {
    const operation = this.operation[tag]!;
    const changes = operation === OPERATION.write || operation === OPERATION.discard;
    if (changes) this.answer(tag, -EBADF);
    else this.start(tag);
  }
}
