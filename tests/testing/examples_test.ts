/**
 * The examples of the testing kit, as a person runs them: the CI test passes, and the run with faults survives them.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { ROOT } from "../house/source.ts";

/** Runs deno in the checkout. */
async function deno(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), { args, cwd: ROOT, env: { NO_COLOR: "1" } });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("the example of a CI test passes", async () => {
  const { status, stdout } = await deno("test", "-A", "--no-check", "examples/ci_test.ts");
  assertEquals(status, 0, stdout);
  assertMatch(stdout, /2 passed/);
});

Deno.test("the example of a run with faults loses nothing", async () => {
  const { status, stdout, stderr } = await deno("run", "-A", "--no-check", "examples/fault_injection.ts", "3");
  assertEquals([status, stderr], [0, ""]);
  assertMatch(stdout, /^\d+ grant copies failed\nseed 3: errors \{.*-1.*\}, \d+ sectors verified\n$/);
});
