/**
 * The order of a run. Each suite is booted once with all of its scenarios, and once more with those that want systemd as
 * dom0's process 1; boots run in parallel if the machine has the memory. Scenarios that fail run a second time in a fresh boot, one suite after the other: an emulated machine on
 * busy cores may be too slow once, but not twice. A scenario that does not fit into the time limit, or that the machine
 * cannot run, has failed.
 */

import { errorText } from "../../lib/errors.ts";
import type { BootReport, RunReport, ScenarioResult, Stage } from "./report.ts";
import { type Init, INITS, type Scenario } from "./scenarios.ts";

/** One boot of a suite. */
export interface BootRequest {
  readonly suite: string;
  /** Process 1 of dom0. */
  readonly init: Init;
  readonly images: string;
  readonly scenarios: readonly Scenario[];
  /** Time limit of all scenarios together. */
  readonly jobSeconds: number;
  /** 1, or 2 for the scenarios that failed. */
  readonly attempt: number;
}

/** The actions of a run: run.ts has the real ones, plan_test.ts has fakes. */
export interface Rig {
  /** Installs missing packages on the machine. */
  prepare(): Promise<void>;
  /** Builds a suite's images and returns their folder. */
  images(suite: string): Promise<string>;
  boot(request: BootRequest): Promise<BootReport>;
  /** Seconds of a monotonic clock. */
  now(): number;
  /** The stages so far, except the boots. */
  stages(): readonly Stage[];
  print(line: string): void;
}

/** The limits of a run. */
export interface Limits {
  /** The whole run. */
  readonly seconds: number;
  /** The time that a boot needs in addition to its scenarios. */
  readonly bootSeconds: number;
  /** How many machines may be emulated in parallel. */
  readonly boots: number;
}

/** With less time left than this, no boot is started. */
const LEAST_JOB_SECONDS = 60;

/** A suite, process 1 of its dom0, and the scenarios to run on it. */
interface Work {
  readonly suite: string;
  readonly init: Init;
  readonly scenarios: readonly Scenario[];
}

/** Runs the scenarios on each of their suites. Failures are part of the report; nothing is thrown. */
export async function runAll(
  rig: Rig,
  suites: readonly string[],
  scenarios: readonly Scenario[],
  limits: Limits,
): Promise<RunReport> {
  const began = rig.now();
  const left = (): number => limits.seconds - (rig.now() - began);
  const works = suites.flatMap((suite) => INITS.map((init) => workOf(suite, init, scenarios)))
    .filter((work) => work.scenarios.length > 0);
  const images = makeImages(rig, [...new Set(works.map(({ suite }) => suite))]);
  const boots = await inLanes(limits.boots, works, (work) => attempt(rig, work, images, 1, left, limits));
  for (const [index, work] of works.entries()) {
    const again = failedIn(work, boots[index]!);
    if (again.scenarios.length === 0 || boots[index]!.folder === undefined) continue;
    const report = await attempt(rig, again, images, 2, left, limits);
    // Without a second boot, the result of the first one stays.
    if (report.folder !== undefined) boots.push(report);
  }
  return { boots, stages: rig.stages(), seconds: rig.now() - began };
}

function workOf(suite: string, init: Init, scenarios: readonly Scenario[]): Work {
  return { suite, init, scenarios: scenarios.filter((one) => one.init === init && one.suites.includes(suite)) };
}

/** Does the work for each item in order, for at most `lanes` items in parallel. */
async function inLanes<T, R>(lanes: number, items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let at = next++; at < items.length; at = next++) results[at] = await work(items[at]!);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return results;
}

/** Starts to build the images, one suite after the other. So one suite's images are built while another boots. */
function makeImages(rig: Rig, suites: readonly string[]): Map<string, Promise<string>> {
  const ready = rig.prepare();
  const made = new Map<string, Promise<string>>();
  let before: Promise<unknown> = ready;
  for (const suite of suites) {
    const images = before.then(() => ready).then(() => rig.images(suite));
    before = images.catch(() => {}); // the boot of this suite reports it
    made.set(suite, images);
  }
  return made;
}

async function attempt(
  rig: Rig,
  work: Work,
  images: ReadonlyMap<string, Promise<string>>,
  attempt: number,
  left: () => number,
  limits: Limits,
): Promise<BootReport> {
  const { suite, init, scenarios } = work;
  const began = rig.now();
  try {
    const folder = await images.get(suite)!;
    const jobSeconds = Math.floor(left() - limits.bootSeconds);
    if (jobSeconds < LEAST_JOB_SECONDS) {
      throw new Error(`no time is left of ${Math.round(limits.seconds / 60)} minutes`);
    }
    return await rig.boot({ suite, init, images: folder, scenarios, jobSeconds, attempt });
  } catch (error) {
    const reason = errorText(error);
    rig.print(`e2e: ${suite}: ${scenarios.length} scenarios do not run: ${reason}`);
    return {
      suite,
      init,
      folder: undefined,
      seconds: rig.now() - began,
      bootSeconds: undefined,
      results: scenarios.map(notRun(reason)),
    };
  }
}

function notRun(reason: string): (scenario: Scenario) => ScenarioResult {
  return ({ name }) => ({ name, outcome: "failed", seconds: 0, remark: `not run: ${reason}`, log: "", report: "" });
}

function failedIn({ suite, init, scenarios }: Work, { results }: BootReport): Work {
  const failed = results.filter(({ outcome }) => outcome === "failed").map(({ name }) => name);
  return { suite, init, scenarios: scenarios.filter(({ name }) => failed.includes(name)) };
}
