/**
 * Tables for people: plain text in aligned columns under headings. On a terminal that is too narrow, columns are shortened
 * or left out, so that no line is broken by the terminal. Programs get JSON instead.
 */

import { printable } from "../log.ts";
import { wrap } from "./text.ts";

/** A column's heading and alignment, and what becomes of it on a narrow terminal. */
export interface Column {
  readonly heading: string;
  readonly align?: "left" | "right";
  /**
   * What happens to texts that are too long for a narrow terminal: `start` cuts off their starts (of paths, since a file's
   * name is at the end), `end` their ends, and `wrap` continues them on the next line. Absent: they stay whole.
   */
  readonly cut?: "start" | "end" | "wrap";
  /** Columns with a number are left out on a narrow terminal, those with low numbers first. Absent: never. */
  readonly leaveOut?: number;
}

/** Characters between two columns. */
const GAP = 2;
/** Least width of a column that is cut. */
const LEAST_CUT = 12;
/** Least width of a note in the last column; where there is less room, it starts near the left edge. */
const LEAST_NOTE = 30;
const NOTE_INDENT = 4;

/**
 * The rows below their headings. Every line ends with a line break. A row with text in its last cell only is a note to
 * the row above it. Without headings if `headings` is false. `terminalColumns`: the width of the terminal; Infinity
 * (there is none) shows everything in full.
 */
export function renderTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  headings = true,
  terminalColumns = Infinity,
): string {
  // A cell can hold text of a guest; control characters must not reach the terminal.
  const all = rows.map((row) => columns.map((_, index) => printable(row[index] ?? "")));
  const shown = headings ? [columns.map(({ heading }) => heading), ...all] : all;
  const layout = layoutFor(columns, shown, terminalColumns);
  return shown.flatMap((row) => isNote(row) ? noteLines(row.at(-1)!, layout) : rowLines(row, layout))
    .map((line) => line.trimEnd() + "\n").join("");
}

/** One name and value per line, the values aligned. */
export function renderFields(
  fields: readonly (readonly [name: string, value: string])[],
  terminalColumns = Infinity,
): string {
  return renderTable([{ heading: "" }, { heading: "", cut: "wrap" }], fields, false, terminalColumns);
}

/** The columns that are shown, each with its width, and the width of all. */
interface Layout {
  readonly shown: readonly { readonly column: Column; readonly index: number; readonly width: number }[];
  readonly terminalColumns: number;
}

function layoutFor(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  terminalColumns: number,
): Layout {
  const ordinary = rows.filter((row) => !isNote(row));
  let shown = columns.map((column, index) => ({
    column,
    index,
    width: Math.max(0, ...ordinary.map((row) => width(row[index]!))),
  }));
  const least = (): number => shown.reduce((sum, { column, width }) => sum + GAP + leastWidth(column, width), -GAP);
  while (least() > terminalColumns) {
    const next = Math.min(...shown.map(({ column }) => column.leaveOut ?? Infinity));
    if (next === Infinity) break;
    shown = shown.filter(({ column }) => column.leaveOut !== next);
  }
  let excess = shown.reduce((sum, { width }) => sum + GAP + width, -GAP) - terminalColumns;
  for (const [place, entry] of [...shown.entries()].reverse()) {
    const less = Math.min(Math.max(0, excess), entry.width - leastWidth(entry.column, entry.width));
    excess -= less;
    shown[place] = { ...entry, width: entry.width - less };
  }
  return { shown, terminalColumns };
}

function leastWidth({ cut, heading }: Column, width: number): number {
  return cut === undefined ? width : Math.min(width, Math.max(LEAST_CUT, heading.length));
}

/** The row, which has several lines if a text is wrapped. */
function rowLines(row: readonly string[], { shown }: Layout): string[] {
  const cells = shown.map(({ column, index, width: room }) => cellLines(row[index]!, column, room));
  const height = Math.max(...cells.map((lines) => lines.length));
  return Array.from({ length: height }, (_, line) =>
    shown.map(({ column, width: room }, place) => {
      const cell = cells[place]![line] ?? "";
      const padding = " ".repeat(Math.max(0, room - width(cell)));
      return column.align === "right" ? padding + cell : cell + padding;
    }).join(" ".repeat(GAP)));
}

function cellLines(text: string, { cut }: Column, room: number): string[] {
  if (cut === undefined || width(text) <= room) return [text];
  if (cut === "wrap") return wrap(text, 0, room);
  const characters = [...text];
  const kept = room - 1;
  return [cut === "start" ? `…${characters.slice(-kept).join("")}` : `${characters.slice(0, kept).join("")}…`];
}

function noteLines(text: string, { shown, terminalColumns }: Layout): string[] {
  const place = shown.slice(0, -1).reduce((sum, { width }) => sum + width + GAP, 0);
  if (terminalColumns === Infinity) return [" ".repeat(place) + text];
  return wrap(text, terminalColumns - place < LEAST_NOTE ? NOTE_INDENT : place, terminalColumns);
}

function isNote(row: readonly string[]): boolean {
  return row.length > 1 && row.every((cell, index) => (cell !== "") === (index === row.length - 1));
}

/** The width in characters, not UTF-16 units. */
function width(text: string): number {
  return [...text].length;
}
