/**
 * What a run of the scenarios comes to, for a person: a table, the logs of what failed, the measurements that scenarios
 * left. It must not know how scenarios are run.
 */

import { print } from "./shell.ts";

/** How one scenario went. */
export interface ScenarioResult {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  readonly seconds: number;
  /** Why it failed or was skipped, or what it found. */
  readonly remark: string;
  readonly log: string;
  /** What it measured, to be shown whatever the outcome. */
  readonly report: string;
}

/** How one boot went. */
export interface SuiteReport {
  readonly suite: string;
  /** Where its logs are. */
  readonly folder: string;
  readonly seconds: number;
  readonly results: readonly ScenarioResult[];
}

/** Lines of a failed scenario's log that are shown. */
const LOG_LINES = 40;

/** Prints the summary; true if nothing failed and something passed. */
export function printReport(reports: readonly SuiteReport[]): boolean {
  for (const { suite, results } of reports) {
    for (const { name, outcome, log } of results) {
      if (outcome !== "failed") continue;
      print(`\n---- ${suite} ${name}: the end of its log`);
      print(log.trimEnd().split("\n").slice(-LOG_LINES).join("\n"));
    }
    for (const { name, report } of results) {
      if (report !== "") print(`\n---- ${suite} ${name}\n${report.trimEnd()}`);
    }
  }
  print("");
  for (const report of reports) printTable(report);
  const all = reports.flatMap((report) => report.results);
  const count = (outcome: string): number => all.filter((result) => result.outcome === outcome).length;
  print(`e2e: ${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`);
  return count("failed") === 0 && count("passed") > 0;
}

function printTable({ suite, folder, seconds, results }: SuiteReport): void {
  print(`Debian ${suite}, ${seconds} s, logs in ${folder}`);
  const width = Math.max(...results.map((result) => result.name.length));
  for (const { name, outcome, seconds, remark } of results) {
    print(`  ${name.padEnd(width)}  ${outcome.padEnd(7)}  ${String(seconds).padStart(4)} s  ${remark}`.trimEnd());
  }
  print("");
}
