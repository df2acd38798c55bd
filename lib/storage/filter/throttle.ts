/**
 * The filter `throttle`: limits the requests and the bytes per second of a disk, over all its rings. Flushes pass. A ring
 * starts its requests in order; rings take turns.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { createThrottleState, type ThrottleState } from "./budget.ts";
import type { FilterAttachment, FilterDefinition, FilterValue, FilterValues } from "./filter.ts";
import { live, size, whole } from "./options.ts";
import { ThrottledChannel } from "./throttled_channel.ts";

/**
 * Options of the filter `throttle`; 0 is no limit. All can be changed while the disk is served. Requests are limited
 * together (`iops`) or apart (`readIops`, `writeIops`), and so are bytes: a limit of one kind replaces those of the other.
 */
export interface ThrottleOptions {
  /** Most reads, writes and discards per second. */
  readonly iops?: number;
  /** Most of them at once, after a pause, or of each of both that are limited apart. 0: what the limit allows in 0.1 s. */
  readonly iopsBurst?: number;
  /** Most bytes per second that are read and written: a number, or a text such as `10M`. */
  readonly bytesPerSecond?: number | string;
  /** Most of them at once, after a pause, or of each of both that are limited apart. 0: what the limit allows in 0.1 s. */
  readonly bytesBurst?: number | string;
  /** Most reads per second. */
  readonly readIops?: number;
  /** Most writes and discards per second. */
  readonly writeIops?: number;
  /** Most bytes per second that are read. */
  readonly readBytesPerSecond?: number | string;
  /** Most bytes per second that are written. */
  readonly writeBytesPerSecond?: number | string;
}

const MOST_IOPS = 1e9;
const MOST_BYTES = 2 ** 50;

/** What limits reads and writes together, and what limits them apart. */
const KINDS = [
  { what: "requests", all: "iops", apart: ["readIops", "writeIops"] },
  { what: "bytes", all: "bytesPerSecond", apart: ["readBytesPerSecond", "writeBytesPerSecond"] },
] as const;

/** See FilterModule. Channels see the options in this order: see budget.ts. */
export const filter: FilterDefinition = {
  summary: "Limits requests and bytes per second, over all rings of the disk",
  options: {
    iops: live(whole("Reads, writes and discards per second; 0: no limit", 0, MOST_IOPS, 0)),
    iopsBurst: live(whole("Most of them at once, after a pause; 0: what the limit allows in 0.1 s", 0, MOST_IOPS, 0)),
    bytesPerSecond: live(size("Bytes per second; 0: no limit", 0, MOST_BYTES, 0)),
    bytesBurst: live(size("Most of them at once, after a pause; 0: what the limit allows in 0.1 s", 0, MOST_BYTES, 0)),
    readIops: live(whole("Reads per second; 0: no limit", 0, MOST_IOPS, 0)),
    writeIops: live(whole("Writes and discards per second; 0: no limit", 0, MOST_IOPS, 0)),
    readBytesPerSecond: live(size("Bytes read per second; 0: no limit", 0, MOST_BYTES, 0)),
    writeBytesPerSecond: live(size("Bytes written per second; 0: no limit", 0, MOST_BYTES, 0)),
  },
  atEnd: Object.fromEntries(KINDS.flatMap(({ all, apart }) => [all, ...apart]).map((name) => [name, 0])),
  createState: createThrottleState,
  refuse: bothKinds,
  replaced: replacedLimits,
};

/** Why these limits exclude one another. */
function bothKinds(values: FilterValues, spell: (name: string) => string): string | undefined {
  const both = KINDS.find(({ all, apart }) => isSet(values[all]) && apart.some((name) => isSet(values[name])));
  if (both === undefined) return undefined;
  const { what, all, apart } = both;
  return `${what} are limited together, by ${spell(all)}, and apart, by ${
    apart.map(spell).join(" and ")
  }; use one of both`;
}

/** Limits of the other kind end with those that are named. */
export function replacedLimits(named: Readonly<Record<string, FilterValue | undefined>>): FilterValues {
  const replaced = KINDS.flatMap(({ all, apart }) => [
    ...(isSet(named[all]) ? apart : []),
    ...(apart.some((name) => isSet(named[name])) ? [all] : []),
  ]);
  return Object.fromEntries(replaced.map((name) => [name, 0]));
}

function isSet(value: FilterValue | undefined): boolean {
  return value !== undefined && Number(value) !== 0;
}

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, live, state } = attachment as FilterAttachment;
  const memory = { live, state: state as ThrottleState };
  return new ThrottledChannel(context.openChannel(inner, options), options, memory, context.platform);
}
