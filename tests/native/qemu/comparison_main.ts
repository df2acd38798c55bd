/**
 * `deno task image-comparison [--requests N] [--resizes R] [--seed S] [--under FOLDER]`: N random requests (1 000 000) on
 * a chain of qcow2 images beside a twin, while the storage daemon is killed, the disk grows (R times, 24) and is reopened,
 * and the chain gets longer. Prints what was done. The exit status is 1 if a byte was wrong, a request failed, or qemu-img
 * found something.
 */

import { parseArgs } from "@std/cli";
import { errorText } from "../../../lib/errors.ts";
import { compare, LAYERS } from "./comparison.ts";

const REQUESTS = 1_000_000;
const SIZE_BYTES = 256 << 20;
const RESIZES = 24;
const KILL_EVERY = 4000;
const REOPEN_EVERY = 10_000;

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { string: ["requests", "resizes", "seed", "under"] });
  const seed = Number(options.seed ?? Math.floor(Math.random() * 2 ** 31));
  const requestsPerLayer = Math.ceil(Number(options.requests ?? REQUESTS) / LAYERS.length);
  say(`seed ${seed}`);
  try {
    const result = await compare({
      seed,
      requestsPerLayer,
      layers: LAYERS,
      sizeBytes: SIZE_BYTES,
      resizes: Number(options.resizes ?? RESIZES),
      killEvery: KILL_EVERY,
      reopenEvery: REOPEN_EVERY,
      ...(options.under === undefined ? {} : { under: String(options.under) }),
      say,
    });
    for (const [name, value] of Object.entries(result)) say(`${name}: ${Math.round(value)}`);
    say("all bytes were right");
    return 0;
  } catch (error) {
    say(errorText(error));
    return 1;
  }
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}
