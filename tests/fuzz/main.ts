/**
 * `deno task fuzz [--runs N] [--seed S]`: a long run of all fuzzers. Prints the seed first. On a failure prints the
 * minimised find, as a file for the corpus, and exits with status 1.
 */

import { parseArgs } from "@std/cli";
import { Random } from "../../lib/guest/random.ts";
import { countRequests, formatFind } from "./corpus.ts";
import { fuzzRingPages, fuzzRingsInThemselves } from "./ring_pages.ts";
import { fuzzDevice, fuzzNegotiation } from "./store_values.ts";
import { fuzzStructured, randomSetting } from "./structured.ts";

const REQUESTS_PER_SETTING = 2000;
const PAGES_PER_SEED = 2000;
const CHANGES_PER_DEVICE = 300;

const options = parseArgs(Deno.args, { string: ["runs", "seed"], default: { runs: "1000000" } });
const runs = Number(options.runs);
const seed = options.seed === undefined ? crypto.getRandomValues(new Uint32Array(1))[0]! : Number(options.seed);
if (!Number.isSafeInteger(runs) || runs < 1 || !Number.isSafeInteger(seed)) {
  say("usage: deno task fuzz [--runs REQUESTS] [--seed SEED]");
  Deno.exit(2);
}
say(`seed ${seed}: ${runs} structured requests, ring pages, and values and changes of xenstore nodes`);
try {
  structured(new Random(seed), runs);
  ringPages(new Random(seed + 1), Math.ceil(runs / 10));
  const rings = Math.ceil(runs / 100);
  say(`${rings} rings that name themselves as data: ${fuzzRingsInThemselves(seed + 4, rings)} stopped`);
  say(`${fuzzNegotiation(seed + 2, Math.ceil(runs / 10))} of ${Math.ceil(runs / 10)} random frontends were accepted`);
  await devices(new Random(seed + 3), Math.ceil(runs / 100));
} catch (error) {
  say(`seed ${seed} failed: ${(error as Error).message}`);
  Deno.exit(1);
}
Deno.exit(0);

function structured(random: Random, requests: number): void {
  const start = performance.now();
  for (let done = 0; done < requests; done += REQUESTS_PER_SETTING) {
    const find = fuzzStructured(randomSetting(random), Math.min(REQUESTS_PER_SETTING, requests - done));
    if (find === undefined) continue;
    say(formatFind(find));
    throw new Error(`${find.error} (${countRequests(find.batches)} requests)`);
  }
  say(`${requests} structured requests: one correct response each, ${seconds(start)} s`);
}

function ringPages(random: Random, pages: number): void {
  const start = performance.now();
  const sum = { pages: 0, requests: 0, okay: 0, stopped: 0 };
  while (sum.pages < pages) {
    const outcome = fuzzRingPages(random.next(), Math.min(PAGES_PER_SEED, pages - sum.pages));
    for (const name of ["pages", "requests", "okay", "stopped"] as const) sum[name] += outcome[name];
  }
  say(
    `${sum.pages} random ring pages: ${sum.requests} requests, ${sum.okay} of them OKAY, ` +
      `${sum.stopped} rings stopped, ${seconds(start)} s`,
  );
}

async function devices(random: Random, changes: number): Promise<void> {
  const sum = { changes: 0, connections: 0, lines: 0 };
  while (sum.changes < changes) {
    const outcome = await fuzzDevice(random.next(), Math.min(CHANGES_PER_DEVICE, changes - sum.changes));
    for (const name of ["changes", "connections", "lines"] as const) sum[name] += outcome[name];
  }
  say(`${sum.changes} changes of frontend nodes: ${sum.connections} connections, ${sum.lines} log lines`);
}

function seconds(start: number): string {
  return ((performance.now() - start) / 1000).toFixed(1);
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}
