/**
 * The filter that docs/filters.md shows, word for word.
 */

import type { ChannelContext, ChannelOptions, FilterAttachment, FilterDefinition, IoChannel } from "../../../../mod.ts";
import { ERRNO, HoldingChannel, OPERATION } from "../../../../mod.ts";

export const filter: FilterDefinition = {
  summary: "Fails reads of a sector",
  options: {
    sector: {
      help: "The sector",
      placeholder: "N",
      allowed: "a whole number",
      parse: (value) => Number.isSafeInteger(Number(value)) ? Number(value) : undefined,
    },
  },
};

export function openChannel(attachment: FilterAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const bad = 512 * Number(attachment.options["sector"]);
  return new BadSectorChannel(context.openChannel(attachment.inner, options), options, bad);
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
    const isBad = this.operation[tag] === OPERATION.read && begin <= this.#bad &&
      this.#bad < begin + this.lengthOf(tag);
    if (isBad) this.answer(tag, -ERRNO.EIO);
    else this.start(tag);
  }
}
