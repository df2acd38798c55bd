/**
 * This backend beside the C reference, QEMU and fio: the ratios of their figures, cell by cell.
 */

import { renderTable } from "../lib/cli/table.ts";
import type { StorageName } from "./cases.ts";
import { type Limit, limitOf } from "./limits.ts";
import { counterpart, type Measurement, medianSample, type Sample } from "./samples.ts";
import { ratio } from "./statistics.ts";

/** Those that it is compared with, and their names in headings. */
const OTHERS = { c: "C", qemu: "QEMU", fio: "fio" } as const;
type Other = keyof typeof OTHERS;

/** The compared figures, and their names in headings. */
const FIGURES: Readonly<Record<string, (sample: Sample) => number | undefined>> = {
  IOPS: ({ iops }) => iops,
  CPU: ({ cpuUs }) => cpuUs,
  p50: ({ latencyUs }) => latencyUs?.p50,
  p99: ({ latencyUs }) => latencyUs?.p99,
};

/** What the limits are worth on a busy machine. */
const DOUBTFUL =
  "Limits are doubtful: the machine was not idle, and a backend and its guest, two processes, get more of a\n" +
  "busy machine than fio, which is one.\n";

/** One cell: this backend's medians divided by those of others. */
export interface CellRatios {
  readonly storage: StorageName;
  readonly case: string;
  /** By figure and other, such as `IOPS/C`; undefined where one of the two was not measured. */
  readonly ratios: Readonly<Record<string, number | undefined>>;
  /** Of the C reference. */
  readonly limit: Limit | undefined;
}

/** The cells in which this backend was measured beside others, in the order of the report. */
export function ratiosOf(measurements: readonly Measurement[]): CellRatios[] {
  return measurements.flatMap((own) => {
    const { storage, subject, case: { name } } = own;
    if (subject !== "xenblk" || storage === undefined) return [];
    const others = Object.keys(OTHERS).filter(isOther);
    const known = others.filter((other) => counterpart(measurements, own, other) !== undefined);
    if (known.length === 0) return [];
    const ratios: Record<string, number | undefined> = {};
    for (const [figure, valueOf] of Object.entries(FIGURES)) {
      for (const other of known) {
        const theirs = counterpart(measurements, own, other)!;
        ratios[`${figure}/${OTHERS[other]}`] = ratio(valueOf(medianSample(own)), valueOf(medianSample(theirs)));
      }
    }
    return [{ storage, case: name, ratios, limit: limitOf(measurements, own) }];
  });
}

/** The ratios as a table, and below it where the C reference shows no limit; empty without any. `idle`: see load.ts. */
export function renderRatios(
  measurements: readonly Measurement[],
  storages: Readonly<Partial<Record<StorageName, string>>>,
  idle: boolean,
): string {
  const cells = ratiosOf(measurements);
  if (cells.length === 0) return "";
  const headings = Object.keys(FIGURES).flatMap((figure) => Object.values(OTHERS).map((other) => `${figure}/${other}`))
    .filter((heading) => cells.some(({ ratios }) => ratios[heading] !== undefined));
  const columns = [
    ...["xenblk BESIDE OTHERS", "CASE"].map((heading) => ({ heading })),
    ...headings.map((heading) => ({ heading, align: "right" as const })),
    { heading: "C IS A LIMIT" },
  ];
  const rows = cells.map(({ storage, case: name, ratios, limit }) => [
    storages[storage] ?? storage,
    name,
    ...headings.map((heading) => ratios[heading]?.toFixed(2) ?? "-"),
    limit === undefined ? "-" : limit.counts ? "yes" : "no",
  ]);
  return renderTable(columns, rows) + notes(cells, idle);
}

function notes(cells: readonly CellRatios[], idle: boolean): string {
  const lines = cells.flatMap(({ storage, case: name, limit }) =>
    limit === undefined || limit.counts ? [] : [`No limit: C reference, ${name} on ${storage}: ${limit.why}\n`]
  );
  if (!idle && cells.some(({ limit }) => limit?.counts === true)) lines.push(DOUBTFUL);
  return lines.length === 0 ? "" : `\n${lines.join("")}`;
}

function isOther(name: string): name is Other {
  return name in OTHERS;
}
