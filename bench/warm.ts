/**
 * How soon a fresh process is at its speed: V8 interprets code at first, and compiles what runs often. The figures are the
 * rates of a load's first and second second, relative to that of its fourth.
 */

import { NativeXen } from "../tests/native/harness.ts";
import { GuestProcess } from "../tests/native/serve/guest.ts";
import { type BackendHost, startServe } from "./backends.ts";
import { type DiskCase, diskCase } from "./cases.ts";
import { runGuest } from "./guest.ts";
import type { PackedProgram } from "./packed_program.ts";

/** Relative rates of one load, by process. */
export interface WarmResult {
  readonly case: string;
  readonly first: readonly number[];
  readonly second: readonly number[];
}

/** What to measure. */
export interface WarmPlan {
  readonly processes: number;
  readonly secondMs: number;
  readonly program: PackedProgram;
  readonly serveArguments: readonly string[];
}

const DOMAIN = 7;
const IMAGE_BYTES = 2 ** 28;
const CASES = [32, 1].map((depth) => diskCase("random", "read", 4, depth));

/** Measures each load on processes of its own. The first process of all compiles the guest's side, and does not count. */
export async function runWarm(plan: WarmPlan, progress: (text: string) => void): Promise<WarmResult[]> {
  await using xen = await NativeXen.start();
  await xen.createDomain(DOMAIN);
  await using guest = new GuestProcess(xen, DOMAIN);
  const image = `${xen.directory}/cached.img`;
  await Deno.writeFile(image, new Uint8Array(IMAGE_BYTES)); // without holes, and in the page cache
  const results = [];
  for (const one of CASES) {
    const rates: number[][] = [];
    for (let process = 0; process <= plan.processes; process++) {
      progress(`starts: a fresh process, ${one.name}, ${process} of ${plan.processes}`);
      rates.push(await secondsOf({ xen, guest }, image, one, plan, `vbd${one.depth}x${process}`));
    }
    const relative = (second: number): number[] => rates.slice(1).map((row) => row[second]! / row[3]!);
    results.push({ case: one.name, first: relative(0), second: relative(1) });
  }
  return results;
}

/** The rates of the first four seconds of a fresh process. */
async function secondsOf(
  host: BackendHost,
  image: string,
  one: DiskCase,
  { program, serveArguments, secondMs }: WarmPlan,
  kind: string,
): Promise<number[]> {
  const wanted = { key: "disk", pages: 1, params: `aio:${image}`, directPath: undefined, shared: true };
  await using backend = await startServe(host, program, kind, [wanted], serveArguments);
  const rates = [];
  for (let second = 0; second < 4; second++) {
    rates.push((await runGuest(backend.disks.get("disk")!, one, secondMs, second)).iops);
  }
  return rates;
}
