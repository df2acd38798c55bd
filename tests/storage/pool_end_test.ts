/**
 * A program that ends its I/O Workers while they start ends by itself: a Worker that sleeps already when it is ended
 * would keep the process alive for ever.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";

/** Ends many pools, each at another moment of its start. */
const PROGRAM = `
import { createMachine } from "${ROOT}lib/sim/machine.ts";
import { simulatedDescriptor } from "${ROOT}lib/sim/platform.ts";
import { IoPool } from "${ROOT}mod.ts";

const platform = simulatedDescriptor(createMachine({ memoryBytes: 2 ** 20 }), 0);
for (let begun = 1; begun <= 6; begun++) {
  const pool = new IoPool({ platform, workers: 4 });
  pool.start().catch(() => {});
  await pool.open("the null disk", { module: "data:text/javascript," }).catch(() => {});
  const late = new IoPool({ platform, workers: 4 });
  late.start().catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 15 * begun));
  await Promise.all([pool, late].map((each) => each[Symbol.asyncDispose]()));
}
`;

Deno.test("a program that ends I/O Workers while they start ends by itself", async () => {
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  using _file = { [Symbol.dispose]: () => Deno.removeSync(path) };
  await Deno.writeTextFile(path, PROGRAM);
  const args = ["run", "-A", "--no-check", path];
  const command = new Deno.Command(Deno.execPath(), { args, signal: AbortSignal.timeout(40_000) });
  const { code, stderr } = await command.output();
  assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
});
