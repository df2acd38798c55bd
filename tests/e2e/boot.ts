/**
 * One boot of a suite: packs the checkout and the job, starts QEMU through boot.sh, shows the progress that dom0 reports
 * on the serial line, ends QEMU when its time is up, and reads the results off the output disk. It must not know what a
 * scenario does.
 */

import type { ScenarioResult, SuiteReport } from "./report.ts";
import type { Scenario } from "./scenarios.ts";
import { print, shell } from "./shell.ts";

/** Time for firmware, Xen and dom0 to come up and to power off, beside the job. */
const BOOT_SECONDS = 150;

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** What a boot is given. */
export interface BootOptions {
  readonly cache: string;
  readonly suite: string;
  /** The folder with the suite's images. */
  readonly images: string;
  readonly scenarios: readonly Scenario[];
  readonly jobSeconds: number;
}

/** Boots, runs the scenarios and returns how each went; one that never ended counts as failed. */
export async function bootSuite(options: BootOptions): Promise<SuiteReport> {
  const { cache, suite, images, scenarios, jobSeconds } = options;
  const disk = (name: string): string => `${cache}/run-${name}.ext4`;
  const conf = `${cache}/job.conf`;
  const names = scenarios.map((scenario) => scenario.name);
  await Deno.writeTextFile(
    conf,
    `E2E_JOB_SECONDS=${jobSeconds}\nE2E_SUITE=${suite}\nE2E_SCENARIOS="${names.join(" ")}"\n`,
  );
  await shell("build/payload.sh", [cache, disk("payload"), conf], 120);
  await shell("build/disks.sh", [disk("output"), disk("scratch")], 60);
  const results = `${cache}/results-${suite}`;
  const started = performance.now();
  print(`e2e: booting Xen with a dom0 of Debian ${suite}, ${names.length} scenarios`);
  const lines = await boot(
    [images, disk("payload"), disk("output"), disk("scratch")],
    jobSeconds + BOOT_SECONDS,
    suite,
  );
  await shell("build/results.sh", [disk("output"), results], 60);
  await Deno.remove(disk("scratch"));
  await Deno.writeTextFile(`${results}/serial.txt`, lines.join("\n"));
  const seconds = Math.round((performance.now() - started) / 1000);
  return { suite, folder: results, seconds, results: names.map((name) => resultOf(name, lines, results)) };
}

/** Runs QEMU until it ends or must end; returns the lines of its serial console. */
async function boot(args: readonly string[], timeoutSeconds: number, suite: string): Promise<string[]> {
  const script = new URL("./boot.sh", import.meta.url).pathname;
  const child = new Deno.Command("bash", { args: [script, ...args], stdin: "null", stdout: "piped" }).spawn();
  const kill = (): void => child.kill("SIGKILL");
  const timer = setTimeout(kill, timeoutSeconds * 1000);
  // QEMU must not outlive a run that is interrupted.
  const interrupted = (): void => {
    kill();
    Deno.exit(130);
  };
  for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupted);
  const lines: string[] = [];
  let rest = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).replaceAll("\r", "").split("\n");
    rest = parts.pop()!;
    for (const line of parts) {
      lines.push(line);
      const said = /e2e: ((BEGIN|END) .*)/.exec(line)?.[1];
      if (said !== undefined) print(`e2e: ${suite} ${said}`);
    }
  }
  const { code } = await child.status;
  clearTimeout(timer);
  for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupted);
  if (code !== 0) lines.push(`e2e host: QEMU ended with status ${code}`);
  return lines;
}

function resultOf(name: string, lines: readonly string[], folder: string): ScenarioResult {
  const pattern = new RegExp(`e2e: END ${name} (\\d+) (\\d+) ?(.*)`);
  const match = lines.map((line) => pattern.exec(line)).find((found) => found !== null);
  const log = textOf(`${folder}/${name}/log.txt`);
  const report = textOf(`${folder}/${name}/report.txt`);
  if (match === undefined || match === null) {
    const begun = lines.some((line) => line.includes(`e2e: BEGIN ${name}`));
    return { name, outcome: "failed", seconds: 0, remark: begun ? "did not end" : "was not reached", log, report };
  }
  const status = Number(match[1]);
  const outcome = status === 0 ? "passed" : status === 77 ? "skipped" : "failed";
  return { name, outcome, seconds: Number(match[2]), remark: match[3] ?? "", log, report };
}

function textOf(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}
