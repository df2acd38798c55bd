/**
 * `deno task e2e [NAME...]`: real guests on a real Xen. Builds everything that a boot needs into a cache, boots
 * Debian's Xen in QEMU for each dom0 root, lets dom0 run the scenarios, and reports. plan.ts has the order; scenarios
 * and the builds of images are shell scripts.
 *
 * XENBLK_E2E_CACHE is the cache's folder (default xenblk-e2e below the temporary folder), XENBLK_E2E_SUITES the dom0
 * roots, XENBLK_E2E_MINUTES the time limit of the whole run, XENBLK_E2E_FULL=1 asks for all scenarios in their long form.
 */

import { BOOT_SECONDS, bootSuite } from "./boot.ts";
import { Builder } from "./build.ts";
import { type Rig, runAll } from "./plan.ts";
import { reportText, succeeded } from "./report.ts";
import { listScenarios, type Scenario, shortForm } from "./scenarios.ts";
import { print } from "./shell.ts";

const SUITES = (Deno.env.get("XENBLK_E2E_SUITES") ?? "trixie,bookworm").split(",").filter((suite) => suite !== "");
const CACHE = Deno.env.get("XENBLK_E2E_CACHE") ?? `${Deno.env.get("TMPDIR") ?? "/tmp"}/xenblk-e2e`;
const FULL = Deno.env.get("XENBLK_E2E_FULL") === "1";
const MINUTES = Number(Deno.env.get("XENBLK_E2E_MINUTES") ?? (FULL ? "120" : "45"));

/** Memory and CPUs that one emulated machine needs. With fewer CPUs, its virtual CPUs wait for each other. */
const BOOT_BYTES = 4.5 * 2 ** 30;
const BOOT_CPUS = 2;

/** The scenarios named on the command line, or those of a short or a full run. */
function chosen(names: readonly string[]): readonly Scenario[] {
  const all = listScenarios();
  const unknown = names.filter((name) => !all.some((scenario) => scenario.name === name));
  if (unknown.length > 0) {
    throw new Error(`no scenario ${unknown.join(", ")}; there are ${all.map((scenario) => scenario.name).join(", ")}`);
  }
  if (names.length === 0) return FULL ? all : shortForm(all);
  return all.filter((scenario) => names.includes(scenario.name));
}

/** How many machines this one can emulate in parallel. */
function mostBoots(): number {
  const byMemory = Math.floor(Deno.systemMemoryInfo().available / BOOT_BYTES);
  const byCpus = Math.floor(navigator.hardwareConcurrency / BOOT_CPUS);
  return Math.max(1, Math.min(byMemory, byCpus));
}

async function run(names: readonly string[]): Promise<boolean> {
  const scenarios = chosen(names);
  await Deno.mkdir(CACHE, { recursive: true });
  // Two runs would compete for the cache and for the machine's cores.
  using lock = await Deno.open(`${CACHE}/lock`, { create: true, write: true });
  await lock.lock(true);
  const now = (): number => performance.now() / 1000;
  const endSeconds = now() + MINUTES * 60;
  const builder = new Builder(CACHE, () => endSeconds - now());
  const rig: Rig = {
    prepare: () => builder.hostPackages(),
    images: (suite) => builder.images(suite),
    boot: (request) => bootSuite(CACHE, request),
    now,
    stages: () => builder.stages,
    print,
  };
  const limits = { seconds: endSeconds - now(), bootSeconds: BOOT_SECONDS, boots: mostBoots() };
  const report = await runAll(rig, SUITES, scenarios, limits);
  print(`\n${reportText(report)}`);
  return succeeded(report);
}

if (import.meta.main) {
  try {
    Deno.exit(await run(Deno.args) ? 0 : 1);
  } catch (error) {
    print(`e2e: ${error instanceof Error ? error.message : String(error)}`);
    Deno.exit(1);
  }
}
