/**
 * `deno task daemon-kills [--daemon N] [--both N] [--terms N]`: a guest with a qcow2 image under verified load. The storage
 * daemon is killed by kill -9 at N random points (200), the daemon and `serve` together at N (50), and `serve` gets SIGTERM N
 * times (20), on one ring and on four. Prints what the guest saw. The exit status is 1 if a response was lost or came
 * twice, a request failed or a byte was wrong.
 */

import { parseArgs } from "@std/cli";
import type { BackendProcess } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, type Loading, NARROW, received, WIDE } from "./scenes.ts";

/** What ends, and how often without options. */
const ENDINGS = { daemon: 200, both: 50, terms: 20 } as const;
type Ending = keyof typeof ENDINGS;

const SHAPES: readonly (readonly [name: string, loading: Loading])[] = [
  ["1 ring of 1 page", NARROW],
  ["4 rings of 16 pages, indirect", WIDE],
];
/** Longest time from serving to the end. */
const SERVES_MS = 300;
const PATIENCE_MS = 60_000;

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { string: Object.keys(ENDINGS) });
  let faults = 0;
  for (const ending of Object.keys(ENDINGS) as Ending[]) {
    const times = Number(options[ending] ?? ENDINGS[ending]);
    for (const [name, loading] of SHAPES) {
      try {
        say(await endAgainAndAgain(ending, Math.ceil(times / SHAPES.length), name, loading));
      } catch (error) {
        faults++;
        say(`${ending}, ${name}: ${error instanceof Error ? error.stack : error}`);
      }
    }
  }
  say(faults === 0 ? "nothing lost, nothing twice, nothing wrong" : `${faults} loops saw a fault`);
  return faults === 0 ? 0 : 1;
}

/** Returns what is to be said. Rejects if the guest has seen something wrong. */
async function endAgainAndAgain(
  ending: Ending,
  times: number,
  name: string,
  { shape, load, args }: Loading,
): Promise<string> {
  await using stage = await FormatStage.open("qcow2", ["-o", "extended_l2=on,cluster_size=128k"], shape);
  let backend = stage.serve(...args);
  let replayed = 0;
  await stage.disk.connect();
  await stage.disk.startLoad(load);
  await assertProgress(stage.disk, 100);
  const pausesMs: number[] = [];
  for (let time = 0; time < times; time++) {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * SERVES_MS));
    await stage.disk.pauses(); // forgets the longest so far
    const next = await end(ending, stage, backend, args);
    pausesMs.push(await longestPause(stage));
    if (next !== backend) replayed += replayedBy(backend);
    backend = next;
  }
  const outcome = received(await stage.disk.stopLoad());
  assertClean(outcome, backend.messages);
  await stage.finish(backend);
  const { reads, writes, flushes, barriers, discards } = outcome;
  pausesMs.sort((a, b) => a - b);
  return `${ending}, ${name}: ${times} times, ${reads + writes + flushes + barriers + discards} requests, ` +
    `${replayed + replayedBy(backend)} operations written again, pauses: median ` +
    `${Math.round(pausesMs[Math.floor(times / 2)]!)} ms, worst ${Math.round(pausesMs.at(-1)!)} ms`;
}

/** The guest's longest time without a response since the last look, once it gets responses again. */
async function longestPause({ disk }: FormatStage): Promise<number> {
  let { answered, longestMs } = await disk.pauses();
  const wanted = answered + 50;
  for (const end = performance.now() + PATIENCE_MS; answered < wanted;) {
    if (performance.now() > end) throw new Error(`no 50 responses within ${PATIENCE_MS / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 10));
    const now = await disk.pauses();
    longestMs = Math.max(longestMs, now.longestMs);
    answered = now.answered;
  }
  return longestMs;
}

/** Ends it; resolves with the `serve` that goes on. */
async function end(
  ending: Ending,
  stage: FormatStage,
  backend: BackendProcess,
  args: readonly string[],
): Promise<BackendProcess> {
  if (ending === "daemon") {
    const before = backend.messages.length;
    await stage.killDaemon();
    for (const end = performance.now() + PATIENCE_MS; !backend.messages.includes("served again", before);) {
      if (performance.now() > end) throw new Error(`not served again: ${backend.messages.slice(before)}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return backend;
  }
  if (ending === "both") await Promise.all([backend.stop("SIGKILL"), stage.killDaemon()]);
  else await backend.stop("SIGTERM");
  const next = stage.serve(...args);
  await next.says(/connected:/);
  return next;
}

function replayedBy({ messages }: BackendProcess): number {
  let count = 0;
  for (const [, one, other] of messages.matchAll(/wrote (\d+) operations|(\d+) operations of its log were written/g)) {
    count += Number(one ?? other);
  }
  return count;
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
