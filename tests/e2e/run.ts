/**
 * `deno task e2e [NAME...]`: real guests on a real Xen. Builds what a boot needs into a cache, boots Debian's Xen in
 * QEMU once for each dom0 root, lets dom0 run the scenarios, and reports. It must not know what a scenario does, nor
 * how an image is made: those are shell scripts beside it.
 *
 * XENBLK_E2E_CACHE is the cache's folder (default xenblk-e2e below the temporary folder), XENBLK_E2E_SUITES the dom0
 * roots, XENBLK_E2E_MINUTES the time that the job of one boot may take.
 */

import { bootSuite } from "./boot.ts";
import { Builder } from "./build.ts";
import { printReport, type SuiteReport } from "./report.ts";
import { listScenarios, type Scenario } from "./scenarios.ts";
import { print } from "./shell.ts";

const SUITES = (Deno.env.get("XENBLK_E2E_SUITES") ?? "trixie,bookworm").split(",").filter((suite) => suite !== "");
const CACHE = Deno.env.get("XENBLK_E2E_CACHE") ?? `${Deno.env.get("TMPDIR") ?? "/tmp"}/xenblk-e2e`;
const JOB_MINUTES = Number(Deno.env.get("XENBLK_E2E_MINUTES") ?? "20");

/** The scenarios that were asked for by name, or all. */
function chosen(names: readonly string[]): readonly Scenario[] {
  const all = listScenarios();
  const unknown = names.filter((name) => !all.some((scenario) => scenario.name === name));
  if (unknown.length > 0) {
    throw new Error(`no scenario ${unknown.join(", ")}; there are ${all.map((scenario) => scenario.name).join(", ")}`);
  }
  return names.length === 0 ? all : all.filter((scenario) => names.includes(scenario.name));
}

async function run(names: readonly string[]): Promise<boolean> {
  const scenarios = chosen(names);
  await Deno.mkdir(CACHE, { recursive: true });
  // Two runs would fight over the cache, and over the machine's cores.
  using lock = await Deno.open(`${CACHE}/lock`, { create: true, write: true });
  await lock.lock(true);
  const builder = new Builder(CACHE);
  await builder.hostPackages();
  const reports: SuiteReport[] = [];
  // While one suite's Xen runs, the next one's images are made.
  let next = builder.images(SUITES[0]!);
  for (const [index, suite] of SUITES.entries()) {
    const images = await next;
    const following = SUITES[index + 1];
    if (following !== undefined) {
      next = builder.images(following);
      next.catch(() => {});
    }
    const wanted = scenarios.filter((scenario) => scenario.suites.includes(suite));
    if (wanted.length === 0) continue;
    reports.push(await bootSuite({ cache: CACHE, suite, images, scenarios: wanted, jobSeconds: JOB_MINUTES * 60 }));
  }
  return printReport(reports);
}

if (import.meta.main) {
  try {
    Deno.exit(await run(Deno.args) ? 0 : 1);
  } catch (error) {
    print(`e2e: ${error instanceof Error ? error.message : String(error)}`);
    Deno.exit(1);
  }
}
