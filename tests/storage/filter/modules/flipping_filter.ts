/**
 * A filter from outside the project, on its public face alone: the disk holds every byte with the bits of a mask flipped,
 * so that a test can tell who stored it.
 */

import type {
  ChannelContext,
  ChannelOptions,
  DiskAttachment,
  FilterAttachment,
  FilterDefinition,
  FilterValue,
  IoChannel,
} from "../../../../mod.ts";
import { HoldingChannel, OPERATION } from "../../../../mod.ts";

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "Flips bits of all data on its way to the disk and back",
  options: {
    mask: {
      help: "The bits",
      placeholder: "BYTE",
      allowed: "a whole number from 0 to 255",
      parse: (value: FilterValue): number | undefined => {
        const number = Number(value);
        return Number.isInteger(number) && number >= 0 && number <= 255 ? number : undefined;
      },
      fallback: 255,
    },
  },
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, options: values } = attachment as FilterAttachment;
  return new FlippingChannel(context.openChannel(inner, options), options, Number(values["mask"]));
}

class FlippingChannel extends HoldingChannel {
  protected override readonly passes = false;
  readonly #options: ChannelOptions;
  readonly #mask: number;

  constructor(inner: IoChannel, options: ChannelOptions, mask: number) {
    super(inner, options);
    this.#options = options;
    this.#mask = mask;
  }

  /** The memory is the channel's until the operation completes. */
  protected override take(tag: number): void {
    if (this.operation[tag] === OPERATION.write) this.#flip(tag);
    this.start(tag);
  }

  protected override finish(tag: number, result: number): number {
    if (this.operation[tag] === OPERATION.read && result === 0) this.#flip(tag);
    return result;
  }

  #flip(tag: number): void {
    const { memory, vectors: { addresses, lengths } } = this.#options;
    const end = this.first[tag]! + this.count[tag]!;
    for (let i = this.first[tag]!; i < end; i++) {
      const bytes = memory.view(addresses[i]!, lengths[i]!);
      for (let at = 0; at < bytes.length; at++) bytes[at]! ^= this.#mask;
    }
  }
}
