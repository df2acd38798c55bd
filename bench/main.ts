/**
 * `deno task bench`: runs the parts that the options choose. Figures go to stdout, progress to stderr. The exit status is
 * 0 unless a part failed. Parts that this machine cannot measure are left out and listed.
 */

import { Output } from "../lib/cli/output.ts";
import { Progress } from "../lib/cli/progress.ts";
import { reportError } from "../lib/cli/error_report.ts";
import { qemuPath } from "./backends.ts";
import { runDisk } from "./disk.ts";
import { readLoad } from "./load.ts";
import { describeMachine } from "./machine.ts";
import { benchHelp, type BenchOptions, parseBenchOptions } from "./options.ts";
import { writePlot } from "./plot.ts";
import { type BenchReport, failuresOf, jsonReport, renderReport } from "./report.ts";
import { runFair } from "./fair.ts";
import { runMany } from "./many.ts";
import { packProgram } from "./packed_program.ts";
import { runPlugin } from "./plugin.ts";
import { runRing } from "./ring.ts";
import { runStart } from "./start.ts";

const output = new Output();
try {
  const options = parseBenchOptions(Deno.args);
  Deno.exit(options.help ? help() : await bench(options));
} catch (error) {
  Deno.exit(reportError(error, output, { verbose: false, json: false }));
}

function help(): number {
  output.data(benchHelp());
  return 0;
}

async function bench(options: BenchOptions): Promise<number> {
  const interrupt = new AbortController();
  // At a terminal, ^C also ends the child processes, so the running measurement fails.
  Deno.addSignalListener("SIGINT", () => interrupt.abort());
  Deno.addSignalListener("SIGTERM", () => interrupt.abort());
  const report = await measure(options, interrupt.signal);
  if (options.plot !== undefined) await writePlot(options.plot, { machine: report.machine, ...report.disk! });
  if (options.json) output.json(jsonReport(report));
  else output.data(renderReport(report));
  return failuresOf(report).length > 0 || interrupt.signal.aborted ? 1 : 0;
}

async function measure(options: BenchOptions, signal: AbortSignal): Promise<BenchReport> {
  using progress = new Progress(output, options.quiet);
  const say = (text: string): void => progress.update(`bench: ${text}`);
  const programs = { QEMU: [qemuPath() ?? "", "--version"], fio: ["fio", "--version"], gcc: ["gcc", "--version"] };
  const before = await readLoad();
  const machine = await describeMachine(programs);
  const ring = options.ring === undefined ? undefined : await runRing(options.ring, say);
  const { disk, many, plugin, fair, start } = options;
  if ([disk, many, plugin, fair, start].every((plan) => plan === undefined)) {
    const nothing = { disk: undefined, many: undefined, plugin: undefined };
    return { machine, load: { before, after: await readLoad() }, ring, ...nothing };
  }
  say("packing the program");
  await using program = await packProgram();
  const shared = { program, signal };
  const run = async <Plan, Report>(
    plan: Plan | undefined,
    part: (plan: Plan & typeof shared, progress: typeof say) => Promise<Report>,
  ): Promise<Report | undefined> =>
    plan === undefined || signal.aborted ? undefined : await part({ ...plan, ...shared }, say);
  const loaded = {
    disk: await run(disk, runDisk),
    many: await run(many, runMany),
    plugin: await run(plugin, runPlugin),
  };
  const load = { before, after: await readLoad() };
  return { machine, load, ring, ...loaded, fair: await run(fair, runFair), start: await run(start, runStart) };
}
