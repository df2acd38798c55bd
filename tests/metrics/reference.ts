/**
 * The table of metrics in docs/metrics.md, from the program's own. As a program it writes the table into the page; a
 * test compares them.
 */

import { METRICS } from "../../lib/metrics/table.ts";
import { ROOT } from "../house/source.ts";

/** The page, and what encloses its table. */
export const PAGE = `${ROOT}docs/metrics.md`;
const START = "<!-- The table is written by `deno task docs`. -->\n\n";
const END = "\n## ";

/** The page's text with the table as it must be. Throws Error if the place of the table is not there. */
export function withTable(page: string): string {
  const start = page.indexOf(START);
  const end = page.indexOf(END, start);
  if (start < 0 || end < 0) throw new Error(`Cannot find the table in ${PAGE}`);
  return page.slice(0, start + START.length) + table() + page.slice(end);
}

function table(): string {
  const rows = METRICS.map(({ name, type, labelNames, help }) => {
    const own = labelNames.filter((label) => !["domain", "domid", "vdev", "kind"].includes(label));
    return [`\`${name}\``, type, own.map((label) => `\`${label}\``).join(", "), help];
  });
  const all = [["metric", "type", "more labels", "meaning"], ...rows];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string => (
    `| ${row.map((cell, column) => cell.padEnd(widths[column]!)).join(" | ")} |\n`
  );
  const rule = line(widths.map((width) => "-".repeat(width)));
  return line(all[0]!) + rule + rows.map(line).join("");
}

if (import.meta.main) Deno.writeTextFileSync(PAGE, withTable(Deno.readTextFileSync(PAGE)));
