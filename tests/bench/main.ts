/**
 * `deno task bench`: what the data plane does on this machine. A simulated guest drives the real backend: on the null
 * disk (the ring alone) and on a file in the page cache, beside fio on the same file. Runs alternate, medians are
 * shown, and ratios are what counts: the figures depend on the machine. Nothing is verified here; dry-run does that.
 */

import type { LoadSpec } from "../../lib/sim/load_types.ts";
import { parseArguments } from "../../lib/cli/args.ts";
import type { GuestImage } from "../../lib/cli/dry_run_guest.ts";
import { DryRunMachine } from "../../lib/cli/dry_run_machine.ts";
import { GRANTS } from "../../lib/cli/device_options.ts";
import { verbHelp } from "../../lib/cli/help.ts";
import { decimal, defaulting, flag, integer, type OptionValues, size } from "../../lib/cli/options.ts";
import { Output } from "../../lib/cli/output.ts";
import { Progress } from "../../lib/cli/progress.ts";
import { reportError } from "../../lib/cli/report.ts";
import { renderTable } from "../../lib/cli/table.ts";
import { type BenchLoad, fioIops, missingFio } from "./fio.ts";

const BENCH = {
  name: "bench",
  summary: "Measure the data plane on this machine, beside fio",
  operands: [],
  permissions: "all.",
  examples: ["deno task bench --seconds 5 --rounds 5"],
  options: {
    "seconds": defaulting(decimal("Time of each run", 0.1, 600, "S"), "1"),
    "rounds": defaulting(integer("Runs of each case", 1, 100), "3"),
    "size": defaulting(size("Size of the file", 4096, 1 << 20, 2 ** 34), "256M"),
    "grants": GRANTS,
    "json": flag("Print JSON", "J"),
  },
} as const;

/** The cases; all random I/O. */
const LOADS: readonly BenchLoad[] = [
  { write: false, blockBytes: 4096, depth: 32 },
  { write: false, blockBytes: 45056, depth: 32 },
  { write: true, blockBytes: 4096, depth: 32 },
  { write: false, blockBytes: 4096, depth: 1 },
];

/** I/O operations a second of one case; `fio` is undefined where there is no fio. */
interface Measured {
  readonly load: string;
  readonly nullDisk: number;
  readonly file: number;
  readonly fio: number | undefined;
}

type Options = OptionValues<typeof BENCH.options>;

const output = new Output();
try {
  const { options, common } = parseArguments(BENCH, Deno.args);
  if (common.help) output.data(verbHelp(BENCH));
  else await bench(options);
  Deno.exit(0);
} catch (error) {
  Deno.exit(reportError(error, output, Deno.args.includes("-v")));
}

async function bench(options: Options): Promise<void> {
  const missing = missingFio();
  if (missing !== undefined) output.message(`bench: ${missing}: no comparison with it`);
  const file = await makeFile(options.size);
  try {
    const results = await measureAll(file, options, missing === undefined);
    if (options.json) output.json(results);
    else output.data(render(results));
  } finally {
    await Deno.remove(file);
  }
}

/** A file full of bytes, so that nothing is a hole, and in the page cache. */
async function makeFile(sizeBytes: number): Promise<string> {
  const path = await Deno.makeTempFile({ prefix: "xenblk-bench-", suffix: ".img" });
  using opened = await Deno.open(path, { write: true });
  const chunk = new Uint8Array(1 << 20).fill(0x5a);
  for (let done = 0; done < sizeBytes; done += chunk.length) {
    await opened.write(chunk.subarray(0, Math.min(chunk.length, sizeBytes - done)));
  }
  return path;
}

async function measureAll(path: string, options: Options, withFio: boolean): Promise<Measured[]> {
  using progress = new Progress(output, false);
  const results: Measured[] = [];
  for (const load of LOADS) {
    const runs = { nullDisk: [] as number[], file: [] as number[], fio: [] as number[] };
    for (let round = 1; round <= options.rounds; round++) {
      progress.update(`${describe(load)}, round ${round} of ${options.rounds}`);
      runs.nullDisk.push(await xenblkIops(`null:${options.size}`, load, options));
      runs.file.push(await xenblkIops(`raw:${path}`, load, options));
      if (withFio) runs.fio.push(await fioIops(path, load, options.seconds));
    }
    const fio = withFio ? median(runs.fio) : undefined;
    results.push({ load: describe(load), nullDisk: median(runs.nullDisk), file: median(runs.file), fio });
  }
  return results;
}

/** A fresh backend and guest for each run: none profits from what an earlier one warmed up. */
async function xenblkIops(params: string, load: BenchLoad, options: Options): Promise<number> {
  const image: GuestImage = { params, path: undefined, readOnly: !load.write, baseline: undefined };
  await using machine = new DryRunMachine({ guests: 1, grants: options.grants, workers: 1 });
  const guest = await machine.addGuest(image, "x86_64-abi", 1);
  const spec: LoadSpec = {
    seed: 1,
    pattern: "random",
    readShare: load.write ? 0 : 1,
    blockBytes: [load.blockBytes],
    depth: load.depth,
    flushEvery: 0,
    barrierEvery: 0,
    durationMs: options.seconds * 1000,
  };
  const { outcome } = await guest.load(spec);
  await guest.disconnect();
  if (outcome.errors + outcome.protocolErrors > 0) throw new Error(`Cannot measure ${params}: requests failed`);
  return (outcome.reads + outcome.writes) / (outcome.elapsedMs / 1000);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

function describe({ write, blockBytes, depth }: BenchLoad): string {
  return `${blockBytes / 1024} KiB random ${write ? "writes" : "reads"}, depth ${depth}`;
}

function render(results: readonly Measured[]): string {
  const right = { align: "right" } as const;
  const columns = [
    { heading: "LOAD" },
    ...["NULL DISK IOPS", "FILE IOPS", "fio IOPS", "FILE / NULL", "FILE / fio"]
      .map((heading) => ({ heading, ...right })),
  ];
  const ratio = (value: number, of: number | undefined): string => of === undefined ? "-" : (value / of).toFixed(2);
  const rows = results.map(({ load, nullDisk, file, fio }) => [
    load,
    nullDisk.toFixed(0),
    file.toFixed(0),
    fio === undefined ? "-" : fio.toFixed(0),
    ratio(file, nullDisk),
    ratio(file, fio),
  ]);
  return renderTable(columns, rows);
}
