/**
 * The report of a run: the logs of scenarios that failed, the measurements, the duration of each stage, a table, and a
 * closing line like the test runner's.
 */

import type { Init } from "./scenarios.ts";

/** The outcome of one scenario in one boot. */
export interface ScenarioResult {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  readonly seconds: number;
  /** Why it failed or was skipped, or what it noted. */
  readonly remark: string;
  readonly log: string;
  /** What it measured. It is shown whatever the outcome. */
  readonly report: string;
}

/** The outcome of one boot. */
export interface BootReport {
  readonly suite: string;
  readonly init: Init;
  /** The folder of its logs; undefined if nothing was booted. */
  readonly folder: string | undefined;
  readonly seconds: number;
  /** From QEMU's start until dom0 started the job; undefined if it never did. */
  readonly bootSeconds: number | undefined;
  readonly results: readonly ScenarioResult[];
}

/** A stage of the run other than a boot, with its duration. */
export interface Stage {
  readonly name: string;
  readonly seconds: number;
}

/** A whole run: all boots in order. A scenario that failed may occur twice; the later boot counts. */
export interface RunReport {
  readonly boots: readonly BootReport[];
  readonly stages: readonly Stage[];
  readonly seconds: number;
}

/** A scenario with all of its attempts. The last one counts. */
interface Verdict {
  readonly suite: string;
  readonly attempts: readonly Attempt[];
}

interface Attempt {
  readonly result: ScenarioResult;
  readonly folder: string | undefined;
}

/** How many lines of a failed scenario's log are shown. */
const LOG_LINES = 40;

/** True if no scenario failed at its last attempt, and at least one passed. */
export function succeeded(run: RunReport): boolean {
  return count(run, "failed") === 0 && count(run, "passed") > 0;
}

/** The summary. `.ci/run` sums its last line. */
export function reportText(run: RunReport): string {
  const parts = [...failures(run), ...measurements(run), stagesText(run), ...tables(run), closingLine(run)];
  return parts.filter((part) => part !== "").join("\n\n");
}

function verdicts({ boots }: RunReport): Verdict[] {
  const all = new Map<string, Verdict>();
  for (const { suite, folder, results } of boots) {
    for (const result of results) {
      const key = `${suite} ${result.name}`;
      all.set(key, { suite, attempts: [...all.get(key)?.attempts ?? [], { result, folder }] });
    }
  }
  return [...all.values()];
}

function count(run: RunReport, outcome: ScenarioResult["outcome"]): number {
  return verdicts(run).filter(({ attempts }) => attempts.at(-1)!.result.outcome === outcome).length;
}

/** The end of the log of each failed attempt, including scenarios that passed later. */
function failures(run: RunReport): string[] {
  return verdicts(run).flatMap(({ suite, attempts }) =>
    attempts.filter(({ result }) => result.outcome === "failed" && result.log !== "").map(({ result, folder }) =>
      `---- ${suite} ${result.name} failed; the end of ${folder}/${result.name}/log.txt\n` +
      result.log.trimEnd().split("\n").slice(-LOG_LINES).join("\n")
    )
  );
}

function measurements(run: RunReport): string[] {
  return verdicts(run).map(({ suite, attempts }) => ({ suite, result: attempts.at(-1)!.result }))
    .filter(({ result }) => result.report !== "")
    .map(({ suite, result }) => `---- ${suite} ${result.name}\n${result.report.trimEnd()}`);
}

function stagesText({ boots, stages, seconds }: RunReport): string {
  const rows = stages.map((stage) => [stage.name, stage.seconds] as const);
  for (const boot of boots.filter(({ folder }) => folder !== undefined)) {
    const name = boot.init === "systemd" ? `${boot.suite} with systemd` : boot.suite;
    rows.push([`${name}: QEMU's start to the first scenario`, boot.bootSeconds ?? boot.seconds]);
    rows.push([
      `${name}: ${boot.results.length} scenarios, and power off`,
      boot.seconds - (boot.bootSeconds ?? 0),
    ]);
  }
  rows.push(["all, some of it at the same time", seconds]);
  return ["Minutes per stage", ...rows.map(([name, s]) => `  ${(s / 60).toFixed(1).padStart(5)}  ${name}`)].join("\n");
}

function tables(run: RunReport): string[] {
  const suites = [...new Set(run.boots.map(({ suite }) => suite))];
  const width = Math.max(0, ...run.boots.flatMap(({ results }) => results.map(({ name }) => name.length)));
  return suites.map((suite) => {
    const folders = run.boots.flatMap(({ suite: booted, folder }) =>
      booted === suite && folder !== undefined ? [folder] : []
    );
    const rows = verdicts(run).filter((verdict) => verdict.suite === suite).map(({ attempts }) => row(attempts, width));
    return [`Debian ${suite}, logs in ${folders.join(" and ") || "no folder"}`, ...rows].join("\n");
  });
}

function row(attempts: readonly Attempt[], width: number): string {
  const { name, outcome, seconds, remark } = attempts.at(-1)!.result;
  const start = `  ${name.padEnd(width)}  ${outcome.padEnd(7)}  ${String(seconds).padStart(4)} s  `;
  const first = attempts[0]!;
  if (attempts.length === 1) return (start + remark).trimEnd();
  const again = outcome === "failed" ? "failed at the second boot too" : `${outcome} at the second boot`;
  return `${start}${again}${remark === "" ? "" : `: ${remark}`}; at the first: ${first.result.remark}, ` +
    `logs in ${first.folder}/${name}`;
}

/** The closing line, in the test runner's format. */
function closingLine(run: RunReport): string {
  const skipped = count(run, "skipped");
  return `${succeeded(run) ? "ok" : "FAILED"} | ${count(run, "passed")} passed | ${count(run, "failed")} failed` +
    `${skipped === 0 ? "" : ` | ${skipped} ignored`} (${Math.round(run.seconds)}s)`;
}
