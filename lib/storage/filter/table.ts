/**
 * The filters of this project, by name. A filter is a module beside this one and a row here; its options have a row in
 * {@linkcode FilterOptions}, for programs.
 */

import type { FilterDefinition } from "./filter.ts";
import type { CowOptions } from "./cow.ts";
import type { DelayOptions } from "./delay.ts";
import type { ErrorOptions } from "./error.ts";
import type { HangOptions } from "./hang.ts";
import type { LogOptions } from "./log.ts";
import type { ThrottleOptions } from "./throttle.ts";

export type { CowOptions, DelayOptions, ErrorOptions, HangOptions, LogOptions, ThrottleOptions };

/** A filter and its module. */
export interface FilterRow {
  /** The module's absolute URL. */
  readonly module: string;
  /** Loads what the module exports: a process loads only the filters that its disks have. */
  readonly load: () => Promise<FilterDefinition>;
}

/** The options of each filter, as programs give them. All are optional unless the filter needs one. */
export interface FilterOptions {
  /** Limits on requests and bytes. */
  readonly throttle: ThrottleOptions;
  /** Delays. */
  readonly delay: DelayOptions;
  /** Errors. */
  readonly error: ErrorOptions;
  /** Operations that do not complete. */
  readonly hang: HangOptions;
  /** An overlay in memory. */
  readonly cow: CowOptions;
  /** A trace. */
  readonly log: LogOptions;
  /** It has none. */
  readonly: Readonly<Record<never, never>>;
}

/** The name of a filter of this project. */
export type FilterName = keyof FilterOptions;

/** In the order of the documentation. */
export const FILTERS: Readonly<Record<FilterName, FilterRow>> = {
  throttle: row(new URL("./throttle.ts", import.meta.url), () => import("./throttle.ts")),
  delay: row(new URL("./delay.ts", import.meta.url), () => import("./delay.ts")),
  error: row(new URL("./error.ts", import.meta.url), () => import("./error.ts")),
  hang: row(new URL("./hang.ts", import.meta.url), () => import("./hang.ts")),
  cow: row(new URL("./cow.ts", import.meta.url), () => import("./cow.ts")),
  log: row(new URL("./log.ts", import.meta.url), () => import("./log.ts")),
  readonly: row(new URL("./readonly.ts", import.meta.url), () => import("./readonly.ts")),
};

/** The row of a name, if it is one of this project's. */
export function filterRow(name: string): FilterRow | undefined {
  return Object.hasOwn(FILTERS, name) ? FILTERS[name as FilterName] : undefined;
}

/** The URL is written out in each row, so that a packager finds the module. */
function row({ href }: URL, load: () => Promise<{ readonly filter: FilterDefinition }>): FilterRow {
  return { module: href, load: async () => (await load()).filter };
}
