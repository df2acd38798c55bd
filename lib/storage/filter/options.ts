/**
 * The kinds of options that filters declare. A value comes from the command line, as text, or from a program.
 */

import { ERRNO, errnoValue } from "../../errno.ts";
import { XenblkError } from "../../errors.ts";
import { parseSize } from "../../sizes.ts";
import { OPERATION } from "../engine/executor.ts";
import type { FilterOption, FilterValue } from "./filter.ts";

/** Makes an option live: channels see its value as a number. */
export function live(option: FilterOption, number: (value: FilterValue) => number = Number): FilterOption {
  return { ...option, live: number };
}

/** A whole number in a range. */
export function whole(help: string, least: number, most: number, fallback?: number, placeholder = "N"): FilterOption {
  return {
    help,
    placeholder,
    allowed: `a whole number from ${least} to ${most}`,
    parse: (value) => {
      const number = typeof value === "string" && /^\d{1,16}$/.test(value) ? Number(value) : value;
      return Number.isSafeInteger(number) && isWithin(number, least, most) ? number : undefined;
    },
    ...(fallback === undefined ? {} : { fallback }),
  };
}

/** A number in a range, with or without a fraction. */
export function decimal(help: string, least: number, most: number, fallback?: number, placeholder = "N"): FilterOption {
  return {
    help,
    placeholder,
    allowed: `a number from ${least} to ${most}`,
    parse: (value) => {
      const number = typeof value === "string" && /^\d{1,15}(\.\d+)?$/.test(value) ? Number(value) : value;
      return isWithin(number, least, most) ? number : undefined;
    },
    ...(fallback === undefined ? {} : { fallback }),
  };
}

/** A number of bytes: `64M`. */
export function size(help: string, least: number, most: number, fallback?: number): FilterOption {
  return {
    help,
    placeholder: "SIZE",
    allowed: `a size such as 64K, 64M or 1G, from ${least} to ${most} bytes`,
    parse: (value) => {
      const bytes = typeof value === "string" ? sizeOf(value) : value;
      return Number.isSafeInteger(bytes) && isWithin(bytes, least, most) ? bytes : undefined;
    },
    ...(fallback === undefined ? {} : { fallback }),
  };
}

/** The name of an errno; channels see it as the positive value. */
export function errno(help: string, fallback: string): FilterOption {
  return {
    help,
    placeholder: "ERRNO",
    allowed: `the name of an error, such as ${Object.keys(ERRNO).slice(4, 7).join(", ")} or ENOSPC`,
    parse: (value) => typeof value === "string" && errnoValue(value) !== undefined ? value : undefined,
    fallback,
    live: (value) => errnoValue(String(value))!,
  };
}

/** Names of operations, joined by `+`; channels see the sum of `1 << OPERATION.name`. */
export function operations(help: string, fallback: string): FilterOption {
  return {
    help,
    placeholder: "OPERATIONS",
    allowed: `names joined by +, of ${Object.keys(OPERATION).join(", ")}`,
    parse: (value) => operationMask(value) === undefined ? undefined : value,
    fallback,
    live: (value) => operationMask(value)!,
  };
}

function operationMask(value: FilterValue): number | undefined {
  let mask = 0;
  for (const name of String(value).split("+")) {
    if (!Object.hasOwn(OPERATION, name)) return undefined;
    mask |= 1 << OPERATION[name as keyof typeof OPERATION];
  }
  return mask;
}

function isWithin(value: unknown, least: number, most: number): value is number {
  return typeof value === "number" && value >= least && value <= most;
}

function sizeOf(text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    if (error instanceof XenblkError) return NaN;
    throw error;
  }
}
