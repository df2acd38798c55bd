/**
 * Tables for people: plain text in aligned columns under headings.
 * Programs get JSON instead.
 */

import { printable } from "../log.ts";

/** A column's heading and alignment. */
export interface Column {
  readonly heading: string;
  readonly align?: "left" | "right";
}

/** The rows below their headings. Every line ends with a line break. Without headings if `headings` is false. */
export function renderTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  headings = true,
): string {
  // A cell can hold text of a guest; control characters must not reach the terminal.
  const cells = rows.map((row) => columns.map((_, index) => printable(row[index] ?? "")));
  const shown = headings ? [columns.map(({ heading }) => heading), ...cells] : cells;
  const widths = columns.map((_, index) => Math.max(0, ...shown.map((row) => width(row[index]!))));
  return shown.map((row) => line(columns, row, widths)).join("");
}

/** One name and value per line, the values aligned. */
export function renderFields(fields: readonly (readonly [name: string, value: string])[]): string {
  return renderTable([{ heading: "" }, { heading: "" }], fields, false);
}

function line(columns: readonly Column[], row: readonly string[], widths: readonly number[]): string {
  const padded = row.map((cell, index) => {
    const fill = " ".repeat(widths[index]! - width(cell));
    return columns[index]!.align === "right" ? fill + cell : cell + fill;
  });
  return padded.join("  ").trimEnd() + "\n";
}

/** The width in characters, not UTF-16 units. */
function width(text: string): number {
  return [...text].length;
}
