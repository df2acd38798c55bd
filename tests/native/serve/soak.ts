/**
 * `deno run -A tests/native/serve/soak.ts [--millions N]`: what a long life does to `serve`. One disk for each engine
 * answers so many million requests; after each million the process's memory, mappings and descriptors are printed, and
 * at the end the slope of its resident memory. The status is 1 where that is too steep or descriptors were added.
 */

import { parseArgs } from "@std/cli";
import { type LoadSpec, MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { NativeXen } from "../harness.ts";
import { BackendProcess, type Holdings } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { GUEST, newDisk } from "./scenes.ts";

const DEFAULT_MILLIONS = 10;
/** Rounds in which code is compiled, caches fill and the heap finds its size: they are not part of the slope. */
const WARM_UP = 2;
const ROUND_REQUESTS = 1_000_000;
/** A leak of one byte a request. */
const MOST_SLOPE_KIB = 1024;
const IMAGE_BYTES = 2 ** 26;

const LOAD: LoadSpec = { ...MIXED_LOAD, blockBytes: [4096], requests: ROUND_REQUESTS, flushEvery: 10_000 };
const SUBJECTS = [
  ["--engine", "uring", "--grants", "copy"],
  ["--engine", "uring", "--grants", "persistent"],
  ["--engine", "file", "--grants", "copy"],
] as const;

const options = parseArgs(Deno.args, { string: ["millions"] });
const rounds = Number(options.millions ?? DEFAULT_MILLIONS);
if (!Number.isInteger(rounds) || rounds < WARM_UP + 2) {
  say(`--millions must be a whole number from ${WARM_UP + 2} on`);
  Deno.exit(2);
}

let flat = true;
for (const args of SUBJECTS) flat = await soak(args) && flat;
Deno.exit(flat ? 0 : 1);

async function soak(args: readonly string[]): Promise<boolean> {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using backend = new BackendProcess(xen, ["serve", ...args]);
  await using guest = new GuestProcess(xen, GUEST);
  const { disk } = await newDisk(xen, guest, "disk.img", { sizeBytes: IMAGE_BYTES });
  await disk.connect();
  const held: Holdings[] = [];
  for (let round = 1; round <= rounds; round++) {
    const { errors, unanswered } = await disk.measure({ ...LOAD, seed: round });
    if (errors + unanswered > 0) throw new Error(`${errors} errors, ${unanswered} unanswered: ${backend.messages}`);
    held.push(await backend.holdings());
  }
  const counted = held.slice(WARM_UP);
  const slope = slopeOf(counted.map(({ residentKiB }) => residentKiB));
  const added = counted.at(-1)!.descriptors - counted[0]!.descriptors;
  say(`${args.join(" ")}: ${rounds} million requests`);
  say(`  resident KiB after each million: ${held.map(({ residentKiB }) => residentKiB).join(" ")}`);
  say(`  mappings: ${held.map(({ mappings }) => mappings).join(" ")}`);
  say(`  after the first ${WARM_UP}: ${slope.toFixed(0)} KiB a million, ${added} descriptors more`);
  return slope < MOST_SLOPE_KIB && added <= 0;
}

/** Of the line of least squares through values at 0, 1, 2 ... */
function slopeOf(values: readonly number[]): number {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const products = values.reduce((sum, value, at) => sum + (at - middle) * (value - mean), 0);
  return products / values.reduce((sum, _, at) => sum + (at - middle) ** 2, 0);
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
