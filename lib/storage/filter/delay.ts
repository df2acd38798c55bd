/**
 * The filter `delay`: each operation goes to the disk so many milliseconds after the guest asked for it. Operations of a
 * kind keep their order.
 */

import type { Platform } from "../../hypervisor.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";
import { TagLine } from "../tag_line.ts";
import type { FilterAttachment, FilterDefinition, FilterOption } from "./filter.ts";
import { HoldingChannel, RECHECK_MS } from "./holding.ts";
import { LiveValues } from "./live.ts";
import { decimal, live } from "./options.ts";

/** Options of the filter `delay`, in milliseconds. All can be changed while the disk is served. */
export interface DelayOptions {
  /** Before a read. Default 0. */
  readonly read?: number;
  /** Before a write. Default 0. */
  readonly write?: number;
  /** Before a flush. Default 0. */
  readonly flush?: number;
  /** Before a discard. Default 0. */
  readonly discard?: number;
}

const MOST_MS = 3_600_000;
const KINDS = Object.keys(OPERATION);

function delayBefore(kind: string): [string, FilterOption] {
  return [kind, live(decimal(`Milliseconds before a ${kind}`, 0, MOST_MS, 0, "MS"))];
}

/** See FilterModule. The order of its live options is that of {@linkcode OPERATION}. */
export const filter: FilterDefinition = {
  summary: "Delays operations by milliseconds",
  options: Object.fromEntries(KINDS.map(delayBefore)),
  atEnd: Object.fromEntries(KINDS.map((kind) => [kind, 0])),
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, live } = attachment as FilterAttachment;
  return new DelayedChannel(context.openChannel(inner, options), options, live, context.platform);
}

class DelayedChannel extends HoldingChannel {
  protected override passes = true;
  readonly #platform: Platform;
  readonly #live: LiveValues;
  /** Operations that were not submitted yet, and those that wait, by kind. */
  readonly #fresh: TagLine;
  readonly #lines: readonly TagLine[];
  /** By tag. */
  readonly #submittedMs: Float64Array;
  #nextMs = Infinity;

  constructor(inner: IoChannel, options: ChannelOptions, live: SharedArrayBuffer, platform: Platform) {
    super(inner, options);
    this.#platform = platform;
    this.#live = new LiveValues(live);
    this.#fresh = new TagLine(options.depth);
    this.#lines = KINDS.map(() => new TagLine(options.depth));
    this.#submittedMs = new Float64Array(options.depth);
    this.refresh();
  }

  protected override take(tag: number): void {
    this.#fresh.add(tag);
    this.held++;
  }

  protected override refresh(): void {
    if (this.#live.refresh()) this.#adapt();
  }

  protected override release(): void {
    const nowMs = this.#platform.now();
    for (let tag = this.#fresh.shift(); tag >= 0; tag = this.#fresh.shift()) {
      this.#submittedMs[tag] = nowMs;
      this.#lines[this.operation[tag]!]!.add(tag);
    }
    this.#nextMs = nowMs + RECHECK_MS;
    for (let kind = 0; kind < this.#lines.length; kind++) this.#releaseLine(this.#lines[kind]!, kind, nowMs);
    if (this.held === 0) this.#adapt();
  }

  protected override nextMs(): number {
    return this.#nextMs;
  }

  #releaseLine(line: TagLine, kind: number, nowMs: number): void {
    for (let tag = line.first; tag >= 0; tag = line.first) {
      const dueMs = this.#submittedMs[tag]! + this.#live.numbers[kind]!;
      if (dueMs > nowMs) {
        this.#nextMs = Math.min(this.#nextMs, dueMs);
        return;
      }
      line.shift();
      this.held--;
      this.start(tag);
    }
  }

  #adapt(): void {
    const { numbers } = this.#live;
    let isZero = this.held === 0;
    for (let kind = 0; kind < numbers.length; kind++) isZero = isZero && numbers[kind] === 0;
    this.passes = isZero;
  }
}
