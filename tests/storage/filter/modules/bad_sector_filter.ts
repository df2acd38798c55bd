/**
 * The filter that docs/filters.md shows, word for word.
 */

import type {
  ChannelContext,
  ChannelOptions,
  DiskAttachment,
  FilterAttachment,
  FilterDefinition,
  IoChannel,
} from "../../../../mod.ts";
import { HoldingChannel } from "../../../../mod.ts";

export const filter: FilterDefinition = {
  summary: "Fails reads of a sector",
  options: {
    sector: { help: "The sector", placeholder: "N", allowed: "a number", parse: (value) => Number(value) || undefined },
  },
};

export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, options: { sector } } = attachment as FilterAttachment;
  return new BadSectorChannel(context.openChannel(inner, options), options, 512 * Number(sector));
}

class BadSectorChannel extends HoldingChannel {
  protected override readonly passes = false;
  readonly #bad: number;

  constructor(inner: IoChannel, options: ChannelOptions, bad: number) {
    super(inner, options);
    this.#bad = bad;
  }

  protected override take(tag: number): void {
    const begin = this.offsetBytes[tag]!;
    const isBad = this.operation[tag] === 0 && begin <= this.#bad && this.#bad < begin + this.lengthOf(tag);
    if (isBad) this.answer(tag, -5); // EIO
    else this.start(tag);
  }
}
