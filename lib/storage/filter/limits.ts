/**
 * The limits of a disk: the filter `throttle` without a place in a stack. They stand in front of all filters, and only
 * while something is limited: the data plane puts a channel of the filter before each ring then, and takes it away again
 * (lib/dataplane/limiter.ts). So a disk that was never limited pays nothing, and every disk can be.
 */

import { XenblkError } from "../../errors.ts";
import type { FilterValue, FilterValues } from "./filter.ts";
import { createLive, writeLive } from "./live.ts";
import { liveOptions } from "./spec.ts";
import type { LiveFilter } from "./stack.ts";
import { filter, type ThrottleOptions } from "./throttle.ts";
import type { ThrottleMemory, ThrottleState } from "./throttled_channel.ts";
import { createBucket, TokenBucket } from "./token_bucket.ts";

/** All limits, 0 is none. */
export type AllLimits = { readonly [K in keyof ThrottleOptions]-?: number };

/** No limits. */
const NONE: FilterValues = Object.fromEntries(liveOptions(filter).map(([key, { fallback }]) => [key, fallback!]));

/** The limits of one disk. */
export class DiskLimits implements LiveFilter<ThrottleOptions> {
  readonly name = "limits";
  /** For the data plane. */
  readonly memory: ThrottleMemory;
  #values: FilterValues;

  /** Throws {@linkcode XenblkError} (usage) if one is not allowed. */
  constructor(limits: ThrottleOptions = {}) {
    const state: ThrottleState = { requests: createBucket(), bytes: createBucket() };
    this.memory = { live: createLive(numbersOf(NONE)), state };
    this.#values = NONE;
    this.set(limits);
  }

  get options(): FilterValues {
    return this.#values;
  }

  /** A limit that begins holds at once: the disk has saved up nothing. Throws as the constructor does. */
  set(limits: Partial<ThrottleOptions>): void {
    const before = limitsIn(this.#values);
    this.#values = { ...this.#values, ...readLimits({ ...limits }) };
    const now = limitsIn(this.#values);
    const { requests, bytes } = this.memory.state;
    if (before.iops === 0 && now.iops > 0) new TokenBucket(requests).empty();
    if (before.bytesPerSecond === 0 && now.bytesPerSecond > 0) new TokenBucket(bytes).empty();
    writeLive(this.memory.live, numbersOf(this.#values));
  }

  /** Nothing is limited any more, and what waits goes on. */
  end(): void {
    this.set(filter.atEnd ?? {});
  }
}

/** Those that are named, as numbers. Throws {@linkcode XenblkError} (usage) if one is not allowed. */
export function readLimits(named: Readonly<Record<string, FilterValue | undefined>>): Partial<AllLimits> {
  const read = Object.entries(named).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, readLimit(name, value)]]
  );
  return Object.fromEntries(read);
}

function readLimit(name: string, value: FilterValue): number {
  const option = Object.hasOwn(filter.options, name) ? filter.options[name] : undefined;
  const parsed = option?.parse(value);
  if (parsed !== undefined) return Number(parsed);
  const why = option === undefined
    ? `there is no limit ${name}; there are ${Object.keys(filter.options).join(", ")}`
    : `${name} takes ${option.allowed}, not ${JSON.stringify(value)}`;
  throw new XenblkError(`Cannot use limits: ${why}`, { kind: "usage" });
}

/** The limits among the values of a filter `throttle`. */
export function limitsIn(values: FilterValues): AllLimits {
  const number = (name: keyof ThrottleOptions): number => Number(values[name] ?? 0);
  return {
    iops: number("iops"),
    iopsBurst: number("iopsBurst"),
    bytesPerSecond: number("bytesPerSecond"),
    bytesBurst: number("bytesBurst"),
  };
}

/** Whether they limit anything. */
export function limitsAny({ iops, bytesPerSecond }: AllLimits): boolean {
  return iops > 0 || bytesPerSecond > 0;
}

/** In the order of the live options; the size of the disk, which comes last, does not matter here. */
function numbersOf(values: FilterValues): number[] {
  return [...liveOptions(filter).map(([key, { live }]) => live!(values[key]!)), 0];
}
