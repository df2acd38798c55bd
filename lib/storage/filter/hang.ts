/**
 * The filter `hang`, for tests: chosen operations do not complete until their filter releases them, or the device is
 * given up. Then they go to the disk.
 */

import type { Platform } from "../../hypervisor.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { TagLine } from "../tag_line.ts";
import { Choice, CHOICE_OPTIONS, type ChoiceOptions, createChoiceState } from "./choice.ts";
import type { FilterAttachment, FilterDefinition } from "./filter.ts";
import { HoldingChannel, RECHECK_MS } from "./holding.ts";

/** Options of the filter `hang`. Setting `rate` to 0 releases all that hang. */
export type HangOptions = ChoiceOptions;

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "Makes chosen operations hang until rate is set to 0, for tests",
  options: CHOICE_OPTIONS,
  atEnd: { rate: 0 },
  createState: createChoiceState,
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, live, state, options: { seed } } = attachment as FilterAttachment;
  const choice = new Choice(live, state as SharedArrayBuffer, seed!);
  return new HangingChannel(context.openChannel(inner, options), options, choice, context.platform);
}

class HangingChannel extends HoldingChannel {
  protected override passes = true;
  readonly #choice: Choice;
  readonly #platform: Platform;
  readonly #line: TagLine;
  #recheckMs = 0;

  constructor(inner: IoChannel, options: ChannelOptions, choice: Choice, platform: Platform) {
    super(inner, options);
    this.#choice = choice;
    this.#platform = platform;
    this.#line = new TagLine(options.depth);
    this.refresh();
  }

  protected override refresh(): void {
    if (this.#choice.live.refresh()) this.passes = this.#choice.isOff;
  }

  protected override take(tag: number): void {
    if (!this.#choice.chooses(this.operation[tag]!, this.offsetBytes[tag]!, this.lengthOf(tag))) return this.start(tag);
    this.#line.add(tag);
    this.held++;
  }

  protected override release(): void {
    this.#recheckMs = this.#platform.now() + RECHECK_MS;
    if (!this.#choice.isOff) return;
    for (let tag = this.#line.shift(); tag >= 0; tag = this.#line.shift()) {
      this.held--;
      this.start(tag);
    }
  }

  protected override nextMs(): number {
    return this.#recheckMs;
  }
}
