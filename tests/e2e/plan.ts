/**
 * The order of a run within its limits: each suite is booted once with all of its scenarios, the suites beside each
 * other where the machine has memory for it; those that failed are run a second time in a fresh boot, one suite after
 * the other, since an emulated machine on busy cores may be too slow once, but not twice. Whatever the time did not
 * suffice for, or the machine has no means for, has failed. It must not know how images are made or booted.
 */

import { errorText } from "../../lib/errors.ts";
import type { BootReport, RunReport, ScenarioResult, Stage } from "./report.ts";
import type { Scenario } from "./scenarios.ts";

/** What is booted. */
export interface BootRequest {
  readonly suite: string;
  readonly images: string;
  readonly scenarios: readonly Scenario[];
  /** The scenarios' time in all. */
  readonly jobSeconds: number;
  /** 1, or 2 for those that failed. */
  readonly attempt: number;
}

/** How the parts of a run are done. */
export interface Rig {
  /** Installs what the machine lacks. */
  prepare(): Promise<void>;
  /** Makes a suite's images and returns their folder. */
  images(suite: string): Promise<string>;
  boot(request: BootRequest): Promise<BootReport>;
  /** Seconds of a clock that only goes forward. */
  now(): number;
  /** What took its time so far beside the boots. */
  stages(): readonly Stage[];
  print(line: string): void;
}

/** How long a run may take. */
export interface Limits {
  /** The whole run. */
  readonly seconds: number;
  /** What a boot needs beside its scenarios. */
  readonly bootSeconds: number;
  /** How many machines may be emulated at the same time. */
  readonly boots: number;
}

/** Less than this is not worth a boot. */
const LEAST_JOB_SECONDS = 60;

/** A suite with what is to be run on it. */
interface Work {
  readonly suite: string;
  readonly scenarios: readonly Scenario[];
}

/** Runs the scenarios on each of the suites that they are for; never throws for what fails. */
export async function runAll(
  rig: Rig,
  suites: readonly string[],
  scenarios: readonly Scenario[],
  limits: Limits,
): Promise<RunReport> {
  const began = rig.now();
  const left = (): number => limits.seconds - (rig.now() - began);
  const works = suites.map((suite) => ({ suite, scenarios: scenarios.filter((one) => one.suites.includes(suite)) }))
    .filter((work) => work.scenarios.length > 0);
  const images = makeImages(rig, works);
  const boots = await inLanes(limits.boots, works, (work) => attempt(rig, work, images, 1, left, limits));
  for (const [index, work] of works.entries()) {
    const again = failedIn(work, boots[index]!);
    if (again.scenarios.length === 0 || boots[index]!.folder === undefined) continue;
    const report = await attempt(rig, again, images, 2, left, limits);
    // What was not run a second time keeps what is known of the first.
    if (report.folder !== undefined) boots.push(report);
  }
  return { boots, stages: rig.stages(), seconds: rig.now() - began };
}

/** Does the work for each item, in their order, for at most `lanes` at the same time. */
async function inLanes<T, R>(lanes: number, items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let at = next++; at < items.length; at = next++) results[at] = await work(items[at]!);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return results;
}

/** The suites' images, one suite after the other, from now on: the next suite's are made while one is booted. */
function makeImages(rig: Rig, works: readonly Work[]): Map<string, Promise<string>> {
  const ready = rig.prepare();
  const made = new Map<string, Promise<string>>();
  let before: Promise<unknown> = ready;
  for (const { suite } of works) {
    const images = before.then(() => ready).then(() => rig.images(suite));
    before = images.catch(() => {}); // whoever boots the suite hears of it
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
  const { suite, scenarios } = work;
  const began = rig.now();
  try {
    const folder = await images.get(suite)!;
    const jobSeconds = Math.floor(left() - limits.bootSeconds);
    if (jobSeconds < LEAST_JOB_SECONDS) {
      throw new Error(`no time is left of ${Math.round(limits.seconds / 60)} minutes`);
    }
    return await rig.boot({ suite, images: folder, scenarios, jobSeconds, attempt });
  } catch (error) {
    const reason = errorText(error);
    rig.print(`e2e: ${suite}: ${scenarios.length} scenarios do not run: ${reason}`);
    return {
      suite,
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

function failedIn({ suite, scenarios }: Work, { results }: BootReport): Work {
  const failed = results.filter(({ outcome }) => outcome === "failed").map(({ name }) => name);
  return { suite, scenarios: scenarios.filter(({ name }) => failed.includes(name)) };
}
