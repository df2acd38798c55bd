/**
 * `deno task living-kills [--job NAME] [--points N] [--seed S] [--from P]`: N points (100) of each kind of work on a living
 * disk under verified load, at which kill -9 ends the storage daemon, `serve` or both. Prints how each ended, and a line for
 * each kind of work. The exit status is 1 if anything was wrong: then it says how to go through that point again.
 */

import { parseArgs } from "@std/cli";
import { type JobName, JOBS, killAtPoints } from "./living/kills.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { string: ["job", "points", "seed", "from"] });
  const seed = Number(options.seed ?? Math.floor(Math.random() * 2 ** 31));
  const jobs = options.job === undefined ? JOBS : JOBS.filter((name) => name === options.job);
  if (jobs.length === 0) {
    say(`Cannot kill ${options.job}: it is none of ${JOBS.join(", ")}`);
    return 2;
  }
  say(`seed ${seed}`);
  const lines: string[] = [];
  let faults = 0;
  for (const job of jobs) {
    const points = Number(options.points ?? 100);
    const result = await killAtPoints({ job, seed, from: Number(options.from ?? 0), points, say });
    faults += result.faults.length;
    lines.push(summary(job, points, result));
  }
  for (const line of lines) say(line);
  return faults === 0 ? 0 : 1;
}

function summary(
  job: JobName,
  points: number,
  { ends, faults, msPerPoint }: Awaited<ReturnType<typeof killAtPoints>>,
): string {
  const told = [...ends].toSorted(([a], [b]) => a < b ? -1 : 1).map(([end, times]) => `\n  ${times} times ${end}`);
  return `${job}: ${points} points, ${faults.length} faults, ${(msPerPoint / 1000).toFixed(1)} s each${told.join("")}`;
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}
