/**
 * The isolation table as text: one row per hostility, beside the figures of an earlier run if there are some.
 */

import type { Figures, Hostility } from "./scene.ts";

/** Figures by the name of the row. */
export type Table = ReadonlyMap<string, Figures>;

const COLUMNS: readonly (readonly [string, (figures: Figures) => string])[] = [
  ["alone ms", ({ aloneMs }) => milliseconds(aloneMs)],
  ["worst ms", ({ worstMs }) => milliseconds(worstMs)],
  ["p99 ms", ({ p99Ms }) => milliseconds(p99Ms)],
  ["reads/s alone", ({ aloneRate }) => aloneRate.toFixed(0)],
  ["reads/s", ({ rate }) => rate.toFixed(0)],
  ["attach ms", ({ attachMs }) => milliseconds(attachMs)],
  ["TERM heard ms", ({ heardMs }) => milliseconds(heardMs)],
  ["gone ms", ({ goneMs }) => milliseconds(goneMs)],
  ["taken over ms", ({ takenOverMs }) => milliseconds(takenOverMs)],
  ["pages left", ({ leftPages }) => leftPages === undefined ? "-" : String(leftPages)],
];

function milliseconds(value: number | undefined): string {
  if (value === undefined) return "-";
  if (value === Infinity) return "never";
  return value < 10 ? value.toFixed(2) : value.toFixed(0);
}

/** A Markdown table. A cell with an earlier figure reads `earlier > present`. */
export function formatTable(table: Table, earlier: Table = new Map()): string {
  const rows = [["while another guest's disk or the store has", ...COLUMNS.map(([title]) => title)]];
  for (const [name, figures] of table) {
    const before = earlier.get(name);
    const cell = (text: (figures: Figures) => string): string =>
      before === undefined ? text(figures) : `${text(before)} > ${text(figures)}`;
    rows.push([name, ...COLUMNS.map(([, text]) => cell(text))]);
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    `| ${row.map((cell, n) => n === 0 ? cell.padEnd(widths[n]!) : cell.padStart(widths[n]!)).join(" | ")} |`
  );
  lines.splice(1, 0, `|${widths.map((width, n) => `${"-".repeat(width + 1)}${n === 0 ? "-" : ":"}`).join("|")}|`);
  return lines.join("\n");
}

/** The figures in a form to keep. */
export function serialise(table: Table): string {
  const keep = (_: string, value: unknown): unknown => value === Infinity ? "never" : value;
  return `${JSON.stringify(Object.fromEntries(table), keep, 2)}\n`;
}

/** Reads what {@linkcode serialise} wrote. */
export function parseTable(text: string): Table {
  const revive = (_: string, value: unknown): unknown => value === "never" ? Infinity : value;
  return new Map(Object.entries(JSON.parse(text, revive) as Record<string, Figures>));
}

/** The largest figures that a row allows: generous times in milliseconds, since machines are noisy. */
const BOUNDS: Readonly<Partial<Record<keyof Figures, number>>> = {
  worstMs: 5000,
  attachMs: 10_000,
  heardMs: 2000,
  goneMs: 25_000,
  takenOverMs: 15_000,
  leftPages: 0,
};

/** Which figures of a row are beyond their bounds, in words; empty if none is. */
export function beyondBounds(figures: Figures, { kept }: Pick<Hostility, "kept">): string[] {
  return Object.entries(BOUNDS).flatMap(([key, bound]) => {
    const value = figures[key as keyof Figures];
    if (value === undefined || value <= bound || (kept && key === "goneMs")) return [];
    return [`${key} is ${milliseconds(value)}, expected at most ${bound}`];
  });
}
