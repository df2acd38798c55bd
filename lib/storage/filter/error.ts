/**
 * The filter `error`: chosen operations fail, and do not reach the disk.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { Choice, CHOICE_OPTIONS, type ChoiceOptions, createChoiceState } from "./choice.ts";
import type { FilterAttachment, FilterDefinition } from "./filter.ts";
import { HoldingChannel } from "./holding.ts";
import { errno } from "./options.ts";

/** Options of the filter `error`. */
export interface ErrorOptions extends ChoiceOptions {
  /** The error, such as `EIO` or `ENOSPC`; can be changed while the disk is served. Default `EIO`. */
  readonly errno?: string;
}

/** The live options of the choice come first. */
const ERRNO = 5;

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "Makes chosen operations fail",
  options: { ...CHOICE_OPTIONS, errno: errno("How they fail", "EIO") },
  createState: createChoiceState,
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, live, state, options: { seed } } = attachment as FilterAttachment;
  const choice = new Choice(live, state as SharedArrayBuffer, seed!);
  return new FailingChannel(context.openChannel(inner, options), options, choice);
}

class FailingChannel extends HoldingChannel {
  protected override passes = true;
  readonly #choice: Choice;

  constructor(inner: IoChannel, options: ChannelOptions, choice: Choice) {
    super(inner, options);
    this.#choice = choice;
    this.refresh();
  }

  protected override refresh(): void {
    if (this.#choice.live.refresh()) this.passes = this.#choice.isOff;
  }

  protected override take(tag: number): void {
    const isChosen = this.#choice.chooses(this.operation[tag]!, this.offsetBytes[tag]!, this.lengthOf(tag));
    if (isChosen) this.answer(tag, -this.#choice.live.numbers[ERRNO]!);
    else this.start(tag);
  }
}
