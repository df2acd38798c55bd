/**
 * `deno run -A tests/native/serve/soak.ts [--millions N]`: whether `serve` grows over a long life. One disk per engine
 * and grant mode answers N million requests. After each million, memory, mappings and descriptors of the process are
 * recorded; the slope of its resident memory is printed at the end. The exit status is 1 if the slope is too steep or
 * descriptors were added.
 */

import { parseArgs } from "@std/cli";
import { type LoadSpec, MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { NativeXen } from "../harness.ts";
import { BackendProcess, type Holdings } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { GUEST, newDisk } from "./scenes.ts";

const DEFAULT_MILLIONS = 10;
/** Rounds that do not count for the slope: code is compiled, caches fill and the heap finds its size. */
const WARM_UP = 2;
const ROUND_REQUESTS = 1_000_000;
/** The slope of a leak of one byte per request. */
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
  say(`  after the first ${WARM_UP}: ${slope.toFixed(0)} KiB per million, ${added} more descriptors`);
  return slope < MOST_SLOPE_KIB && added <= 0;
}

/** The slope of the least-squares line through values at 0, 1, 2 ... */
function slopeOf(values: readonly number[]): number {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const products = values.reduce((sum, value, at) => sum + (at - middle) * (value - mean), 0);
  return products / values.reduce((sum, _, at) => sum + (at - middle) ** 2, 0);
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
