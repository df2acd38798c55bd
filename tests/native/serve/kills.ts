/**
 * `deno task kills [--kills N] [--terms N] [--only TEXT]`: ends `serve` N times by kill -9 at random points, and N
 * times by SIGTERM, over all combinations of engine, grants and transport. Prints what the guest saw, with the median
 * and worst pause. The exit status is 1 if a response was lost or came twice, a request failed or a byte was wrong.
 * With TEXT only the combinations with TEXT in their names run, each as often as in a full run.
 */

import { parseArgs } from "@std/cli";
import { killAgainAndAgain, type KillLoop, type KillLoopResult } from "./kill_loop.ts";
import { type Loading, NARROW, WIDE } from "./scenes.ts";

const DEFAULT_KILLS = 500;
const DEFAULT_TERMS = 50;

const ENGINES: readonly (readonly [name: string, args: readonly string[]])[] = [
  ["file", ["--engine", "file"]],
  ["uring", ["--engine", "uring"]],
  ["uring, direct", ["--engine", "uring", "--cache", "none"]],
];
const GRANTS = ["copy", "persistent"];
const SHAPES: readonly (readonly [name: string, loading: Loading])[] = [
  ["1 ring of 1 page", NARROW],
  ["4 rings of 16 pages, indirect", WIDE],
];

/** One of the combinations. */
interface Case {
  readonly name: string;
  readonly loading: Loading;
  readonly args: readonly string[];
}

/** O_DIRECT into the guest's pages needs a disk with `direct-io-safe`, and these have none. */
const CASES: readonly Case[] = ENGINES.flatMap(([engine, engineArgs]) =>
  GRANTS.filter((grants) => grants === "copy" || !engine.includes("direct")).flatMap((grants) =>
    SHAPES.map(([shape, loading]) => ({
      name: `${engine}, ${grants}, ${shape}`,
      loading,
      args: [...engineArgs, "--grants", grants],
    }))
  )
);

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { string: ["kills", "terms", "only"] });
  const cases = CASES.filter(({ name }) => name.includes(String(options.only ?? "")));
  const each = (total: unknown, usual: number): number => Math.ceil(Number(total ?? usual) / CASES.length);
  const loops = [["SIGKILL", each(options.kills, DEFAULT_KILLS)], [
    "SIGTERM",
    each(options.terms, DEFAULT_TERMS),
  ]] as const;
  let faults = 0;
  for (const [signal, times] of loops) {
    const pausesMs: number[] = [];
    const longerPausesMs: number[] = [];
    for (const { name, loading, args } of cases) {
      const loop: KillLoop = { signal, times, loading, args };
      const result = await killAgainAndAgain(loop);
      faults += report(`${signal} ${name}`, result);
      pausesMs.push(...result.pausesMs);
      longerPausesMs.push(...result.longerPausesMs);
    }
    if (cases.length === 0 || times === 0) continue;
    say(`${signal}, all: ${pauses(pausesMs)}: ${pausesMs.map(Math.round).join(" ")}`);
    if (longerPausesMs.length > 0) say(`  including processes killed while they started: ${pauses(longerPausesMs)}`);
  }
  say(faults === 0 ? "nothing lost, nothing twice, nothing wrong" : `${faults} loops saw a fault`);
  return faults === 0 ? 0 : 1;
}

/** Prints a result. Returns 1 if something was wrong, else 0. */
function report(
  name: string,
  { ended, beforeConnected, recovered, pausesMs, outcome, imageMiscompares }: KillLoopResult,
): number {
  const { errors, miscompares, protocolErrors, unanswered, reads, writes, barriers, flushes, discards } = outcome;
  const answered = reads + writes + barriers + flushes + discards;
  say(
    `${name}: ended ${ended} times (${beforeConnected} before it had connected), ${answered} requests, ` +
      `${recovered} carried out again, lost ${unanswered}, twice or foreign ${protocolErrors}, errors ${errors}, ` +
      `miscompares ${miscompares + imageMiscompares}, ${pauses(pausesMs)}`,
  );
  if (errors + miscompares + protocolErrors + unanswered + imageMiscompares === 0) return 0;
  say(`  ${JSON.stringify(outcome)}`);
  return 1;
}

function pauses(ms: readonly number[]): string {
  const sorted = [...ms].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? NaN;
  return `pauses ${sorted.length}, median ${Math.round(median)} ms, worst ${Math.round(sorted.at(-1) ?? NaN)} ms`;
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
