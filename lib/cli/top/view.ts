/**
 * The table of `top`: iostat's columns, sorted by one of them. A narrow terminal shows fewer columns.
 */

import type { DiskRates } from "../../figures/rates.ts";
import { formatSize } from "../../sizes.ts";
import { type Column, renderTable } from "../table.ts";
import type { RateRow, Sample } from "./sampler.ts";

/** For a person who sees no disk. */
const NOBODY = "no process of xenblk serves a disk here: start `xenblk serve`, or run this as its user";

/** Lines of the screen beside the table's rows: title, headings, keys. */
const OTHER_LINES = 3;
const KEYS = "q quit   s sort   r reverse   g guests";

/** The columns that rows can be sorted by, in the order of the table. */
export const RATE_COLUMNS = [
  "r/s",
  "rkB/s",
  "r_await",
  "r_p99",
  "rareq-sz",
  "w/s",
  "wkB/s",
  "w_await",
  "w_p99",
  "wareq-sz",
  "d/s",
  "dkB/s",
  "d_await",
  "dareq-sz",
  "f/s",
  "f_await",
  "aqu-sz",
  "util",
] as const satisfies readonly (keyof DiskRates)[];

/** One of them. */
export type RateColumn = typeof RATE_COLUMNS[number];

/** In this order a narrow terminal leaves columns out. */
const DISPENSABLE: readonly RateColumn[] = [
  ...["d_await", "dareq-sz", "dkB/s", "d/s", "rareq-sz", "wareq-sz", "f_await", "f/s", "r_p99", "w_p99"] as const,
  ...["aqu-sz", "r_await", "w_await"] as const,
];

/** How rows are shown. */
export interface TopView {
  readonly sort: RateColumn;
  /** Smallest first. */
  readonly reverse: boolean;
  readonly byGuest: boolean;
}

/** The rows in the order of the view; equal ones by name. */
export function sorted(rows: readonly RateRow[], { sort, reverse }: TopView): RateRow[] {
  const sign = reverse ? -1 : 1;
  return rows.toSorted((a, b) =>
    sign * (b.rates[sort] - a.rates[sort]) || a.disk_device.localeCompare(b.disk_device, "en", { numeric: true })
  );
}

/**
 * The table, with `columns` characters at most where that is possible. `marked`: the heading of the column that the rows
 * are sorted by says so. Scripts look for the plain names.
 */
export function renderRates(rows: readonly RateRow[], view: TopView, columns: number, marked = false): string {
  const named: Column[] = view.byGuest
    ? [{ heading: "DOMAIN", align: "right" }, { heading: "NAME", cut: "end" }]
    : [{ heading: "DOMAIN", align: "right" }, { heading: "NAME", cut: "end" }, { heading: "VDEV" }];
  const mark = view.reverse ? "^" : "v";
  const rated = RATE_COLUMNS.map((name): Column => {
    const place = DISPENSABLE.indexOf(name);
    const heading = (name === "util" ? "%util" : name) + (marked && name === view.sort ? mark : "");
    return { heading, align: "right", ...(place < 0 || name === view.sort ? {} : { leaveOut: place }) };
  });
  const isLimited = rows.some(({ limits }) => limits !== undefined);
  const limited: Column[] = isLimited ? [{ heading: "limit", align: "right", leaveOut: DISPENSABLE.length }] : [];
  const cells = sorted(rows, view).map((row) => [
    String(row.domain),
    row.domainName ?? "-",
    ...(view.byGuest ? [] : [row.vdev ?? "-"]),
    ...RATE_COLUMNS.map((name) => rateText(row.rates[name])),
    ...(isLimited ? [limitText(row)] : []),
  ]);
  return renderTable([...named, ...rated, ...limited], cells, true, columns);
}

/** `500/s 10.0MiB/s`; of reads and of writes: `r500/s w100/s`. */
function limitText({ limits }: RateRow): string {
  if (limits === undefined) return "-";
  const { iops, readIops, writeIops, bytesPerSecond, readBytesPerSecond, writeBytesPerSecond } = limits;
  const rates: readonly (readonly [string, number | undefined, (limit: number) => string])[] = [
    ["", iops, String],
    ["r", readIops, String],
    ["w", writeIops, String],
    ["", bytesPerSecond, sizeText],
    ["r", readBytesPerSecond, sizeText],
    ["w", writeBytesPerSecond, sizeText],
  ];
  // A process of an earlier version names fewer limits.
  return rates.flatMap(([of, limit = 0, format]) => limit > 0 ? [`${of}${format(limit)}/s`] : []).join(" ");
}

function sizeText(bytes: number): string {
  return formatSize(bytes).replace(" ", "");
}

/** Digits that matter, in a column that is not too wide. */
function rateText(rate: number): string {
  return rate.toFixed(rate >= 1000 ? 0 : rate >= 100 ? 1 : 2);
}

/** The view after a key; the same for any other. */
export function viewAfter(view: TopView, key: string): TopView {
  const move = (by: number): RateColumn => {
    const place = RATE_COLUMNS.indexOf(view.sort) + by;
    return RATE_COLUMNS[(place + RATE_COLUMNS.length) % RATE_COLUMNS.length]!;
  };
  if (key === "s" || key === "right") return { ...view, sort: move(1) };
  if (key === "left") return { ...view, sort: move(-1) };
  if (key === "r") return { ...view, reverse: !view.reverse };
  return key === "g" ? { ...view, byGuest: !view.byGuest } : view;
}

/** All lines of the screen, none longer than it is wide. */
export function screenLines(
  sample: Sample,
  view: TopView,
  { columns, rows }: { readonly columns: number; readonly rows: number },
): string[] {
  const what = sample.live === 1 ? "1 disk" : `${sample.live} disks`;
  const title = `xenblk top, ${new Date().toTimeString().slice(0, 8)}, ${what}`;
  const notes = notesOf(sample);
  const table = renderRates(rowsOf(sample, view), view, columns, true).trimEnd().split("\n");
  const room = Math.max(1, rows - OTHER_LINES - notes.length);
  const hidden = table.length - 1 - room;
  const shown = hidden > 0 ? [...table.slice(0, room), `... and ${hidden + 1} more`] : table;
  return [title, ...notes, ...(sample.live === 0 ? [] : shown), KEYS].map((line) =>
    line.slice(0, Math.max(1, columns))
  );
}

/** What is missing among the disks, if anything. */
export function notesOf({ live, silence }: Sample): string[] {
  return silence === undefined ? (live === 0 ? [NOBODY] : []) : [silence];
}

/** The rows that the view is about. */
export function rowsOf({ disks, guests }: Sample, { byGuest }: TopView): Sample["disks"] {
  return byGuest ? guests : disks;
}
