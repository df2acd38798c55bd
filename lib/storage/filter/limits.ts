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
import { filter, replacedLimits, type ThrottleOptions } from "./throttle.ts";
import { createThrottleState, type ThrottleMemory } from "./budget.ts";
import { TokenBucket } from "./token_bucket.ts";

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
    this.memory = { live: createLive(numbersOf(NONE)), state: createThrottleState() };
    this.#values = NONE;
    this.set(limits);
  }

  get options(): FilterValues {
    return this.#values;
  }

  /** A limit that begins holds at once: the disk has saved up nothing. Throws as the constructor does. */
  set(limits: Partial<ThrottleOptions>): void {
    const before = bucketRates(limitsIn(this.#values));
    const named = readLimits({ ...limits });
    this.#values = { ...this.#values, ...replacedLimits(named), ...named };
    const { requests, bytes } = this.memory.state;
    bucketRates(limitsIn(this.#values)).forEach((rate, i) => {
      if (before[i] === 0 && rate > 0) new TokenBucket([...requests, ...bytes][i >> 1]!).empty();
    });
    writeLive(this.memory.live, numbersOf(this.#values));
  }

  /** Nothing is limited any more, and what waits goes on. */
  end(): void {
    this.set(filter.atEnd ?? {});
  }
}

/**
 * Those that are named, as numbers. Throws {@linkcode XenblkError} (usage) if one is not allowed, or some exclude one
 * another; `spell` turns a name into what whoever gave it calls it.
 */
export function readLimits(
  named: Readonly<Record<string, FilterValue | undefined>>,
  spell: (name: string) => string = (name) => name,
): Partial<AllLimits> {
  const read: FilterValues = Object.fromEntries(
    Object.entries(named).flatMap(([name, value]) => value === undefined ? [] : [[name, readLimit(name, value)]]),
  );
  const refusal = filter.refuse?.(read, spell);
  if (refusal !== undefined) throw new XenblkError(`Cannot use limits: ${refusal}`, { kind: "usage" });
  return read;
}

/** The limits of several sources: the later one counts, limit by limit, and ends those that its own exclude. */
export function mergedLimits(...sources: readonly (ThrottleOptions | undefined)[]): ThrottleOptions {
  return sources.reduce<ThrottleOptions>(
    (all, named = {}) => ({ ...all, ...replacedLimits({ ...named }), ...named }),
    {},
  );
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
    readIops: number("readIops"),
    writeIops: number("writeIops"),
    readBytesPerSecond: number("readBytesPerSecond"),
    writeBytesPerSecond: number("writeBytesPerSecond"),
  };
}

/** Whether they limit anything. */
export function limitsAny(limits: AllLimits): boolean {
  return bucketRates(limits).some((rate) => rate > 0);
}

/** What may fill each bucket of {@linkcode ThrottleMemory}, of which the first of a kind has two uses. */
function bucketRates(limits: AllLimits): number[] {
  const { iops, readIops, writeIops, bytesPerSecond, readBytesPerSecond, writeBytesPerSecond } = limits;
  return [iops, readIops, writeIops, 0, bytesPerSecond, readBytesPerSecond, writeBytesPerSecond, 0];
}

/** In the order of the live options; the size of the disk, which comes last, does not matter here. */
function numbersOf(values: FilterValues): number[] {
  return [...liveOptions(filter).map(([key, { live }]) => live!(values[key]!)), 0];
}
