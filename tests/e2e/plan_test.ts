/**
 * The order, the limits and the report of a run of the scenarios, shown with a rig that boots nothing.
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { type BootRequest, type Limits, type Rig, runAll } from "./plan.ts";
import { type BootReport, reportText, type RunReport, type ScenarioResult, succeeded } from "./report.ts";
import { shell } from "./shell.ts";
import { listScenarios, type Scenario, shortForm } from "./scenarios.ts";

const LIMITS: Limits = { seconds: 2100, bootSeconds: 100, boots: 1 };

/** The outcome of a scenario at each attempt; `passed` after the last one listed. */
type Course = Readonly<Record<string, readonly ScenarioResult["outcome"][]>>;

/** A rig with boots that take `bootSeconds` and end as `course` says. */
class FakeRig implements Rig {
  readonly done: string[] = [];
  seconds = 1000;

  constructor(readonly course: Course, readonly bootSeconds = 300, readonly broken: Partial<Rig> = {}) {}

  async prepare(): Promise<void> {
    await this.broken.prepare?.();
  }

  async images(suite: string): Promise<string> {
    await this.broken.images?.(suite);
    return `/images/${suite}`;
  }

  boot({ suite, init, scenarios, attempt, jobSeconds }: BootRequest): Promise<BootReport> {
    this.done.push(
      `${suite}${init === "systemd" ? " with systemd" : ""} ${
        scenarios.map(({ name }) => name).join(" ")
      }, at most ${jobSeconds} s`,
    );
    this.seconds += this.bootSeconds;
    const results = scenarios.map(({ name }) => {
      const outcome = this.course[`${suite} ${name}`]?.[attempt - 1] ?? "passed";
      const remark = outcome === "failed" ? "FAIL: why" : "";
      return { name, outcome, seconds: 7, remark, log: `log of ${name}`, report: "" };
    });
    const folder = `/results-${suite}-${attempt}`;
    return Promise.resolve({ suite, init, folder, seconds: this.bootSeconds, bootSeconds: 20, results });
  }

  now(): number {
    return this.seconds;
  }

  stages(): [] {
    return [];
  }

  print(): void {}
}

const SCENARIOS: readonly Scenario[] = [
  { name: "one", suites: ["new", "old"], shortSuites: ["new"], timeoutSeconds: 10, init: "script" },
  { name: "two", suites: ["new"], shortSuites: ["new"], timeoutSeconds: 10, init: "script" },
];

async function run(
  rig: Rig,
  limits = LIMITS,
  scenarios = SCENARIOS,
): Promise<{ run: RunReport; text: string; last: string }> {
  const run = await runAll(rig, ["new", "old"], scenarios, limits);
  const text = reportText(run);
  return { run, text, last: text.split("\n").at(-1)! };
}

Deno.test("if all scenarios pass, each suite is booted once, with its scenarios", async () => {
  const rig = new FakeRig({});
  const { run: report, last } = await run(rig);
  assertEquals(rig.done, ["new one two, at most 2000 s", "old one, at most 1700 s"]);
  assertEquals(last, "ok | 3 passed | 0 failed (600s)");
  assert(succeeded(report));
});

Deno.test("scenarios that want systemd have a boot of their own, with the images of their suite; a second one if they fail", async () => {
  const three: Scenario = { ...SCENARIOS[1]!, name: "three", init: "systemd" };
  const rig = new FakeRig({ "new three": ["failed"] });
  const made: string[] = [];
  const images = rig.images.bind(rig);
  rig.images = (suite): Promise<string> => {
    made.push(suite);
    return images(suite);
  };
  const { text, last } = await run(rig, LIMITS, [...SCENARIOS, three]);
  assertEquals(made, ["new", "old"]);
  assertEquals(rig.done.map((line) => line.split(",")[0]), [
    "new one two",
    "new with systemd three",
    "old one",
    "new with systemd three",
  ]);
  assertStringIncludes(text, "new with systemd: 1 scenarios, and power off");
  assertEquals(last, "ok | 4 passed | 0 failed (1200s)");
});

Deno.test("suites boot in parallel if the machine can; failed scenarios boot one suite at a time", async () => {
  const running = new Set<string>();
  const together: string[] = [];
  const rig = new FakeRig({ "new one": ["failed"], "old one": ["failed"] });
  const boot = rig.boot.bind(rig);
  rig.boot = async (request): Promise<BootReport> => {
    running.add(request.suite);
    await new Promise((resolve) => setTimeout(resolve, 0));
    together.push([...running].join(" and "));
    running.delete(request.suite);
    return await boot(request);
  };
  const { last } = await run(rig, { ...LIMITS, boots: 2 });
  assertEquals(together, ["new and old", "old", "new", "old"]);
  assertEquals(last, "ok | 3 passed | 0 failed (1200s)");
});

Deno.test("a failed scenario runs again in a second boot, and the report says at which boot it passed", async () => {
  const rig = new FakeRig({ "new two": ["failed"] });
  const { run: report, text, last } = await run(rig);
  assertEquals(rig.done, ["new one two, at most 2000 s", "old one, at most 1700 s", "new two, at most 1400 s"]);
  assertStringIncludes(text, "passed at the second boot; at the first: FAIL: why, logs in /results-new-1/two");
  assertStringIncludes(text, "---- new two failed; the end of /results-new-1/two/log.txt\nlog of two");
  assertEquals(last, "ok | 3 passed | 0 failed (900s)");
  assert(succeeded(report));
});

Deno.test("a scenario that fails twice has failed", async () => {
  const { run: report, text, last } = await run(new FakeRig({ "old one": ["failed", "failed"] }));
  assertStringIncludes(text, "failed at the second boot too: FAIL: why");
  assertEquals(last, "FAILED | 2 passed | 1 failed (900s)");
  assert(!succeeded(report));
});

Deno.test("after the time limit nothing is booted; scenarios that did not run have failed and are listed", async () => {
  const rig = new FakeRig({ "new two": ["failed"] }, 1960);
  const { text, last } = await run(rig);
  assertEquals(rig.done, ["new one two, at most 2000 s"]);
  assertStringIncludes(text, "not run: no time is left of 35 minutes");
  assertEquals(last, "FAILED | 1 passed | 2 failed (1960s)");
});

Deno.test("a machine that cannot run the scenarios fails all of them, with the reason", async () => {
  const prepare = (): Promise<void> => Promise.reject(new Error("run as root"));
  const { text, last } = await run(new FakeRig({}, 300, { prepare }));
  assertStringIncludes(text, "not run: run as root");
  assertEquals(last, "FAILED | 0 passed | 3 failed (0s)");
});

Deno.test("if the images of one suite cannot be built, the next suite still runs", async () => {
  const images = (suite: string): Promise<string> =>
    suite === "new" ? Promise.reject(new Error("no such package")) : Promise.resolve("");
  const { text, last } = await run(new FakeRig({}, 300, { images }));
  assertStringIncludes(text, "not run: no such package");
  assertEquals(last, "FAILED | 1 passed | 2 failed (300s)");
});

Deno.test("a skipped scenario is counted as skipped", async () => {
  const { last } = await run(new FakeRig({ "new two": ["skipped"] }));
  assertEquals(last, "ok | 2 passed | 0 failed | 1 ignored (600s)");
});

Deno.test("every scenario has valid suites and a valid timeout", () => {
  const scenarios = listScenarios();
  assert(scenarios.length >= 14);
  for (const { name, suites, shortSuites, timeoutSeconds } of scenarios) {
    assert(suites.every((suite) => ["trixie", "bookworm"].includes(suite)), `${name}: ${suites}`);
    assert(shortSuites.every((suite) => suites.includes(suite)), `${name}: ${shortSuites}`);
    assert(timeoutSeconds >= 60, name);
  }
});

Deno.test("a short run boots both systems, and leaves the measurements of the peers to a full run", () => {
  const short = shortForm(listScenarios());
  const on = (suite: string) => short.filter(({ suites }) => suites.includes(suite)).map(({ name }) => name);
  assert(on("trixie").includes("14-beside-xl") && on("bookworm").includes("14-beside-xl"));
  assert(!on("trixie").includes("13-peers"));
  assert(listScenarios().some(({ name, suites }) => name === "13-peers" && suites.includes("trixie")));
});

Deno.test("if a script of the rig fails, its last line is the reason", async () => {
  const error = await assertRejects(() => shell("build/fio.sh", ["/nowhere", "/nowhere/fio"], 60), Error);
  assertStringIncludes(error.message, "build/fio.sh ended with status 1: ");
  assertStringIncludes(error.message, "/nowhere");
});
