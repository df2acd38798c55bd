/**
 * Shows that a test that hangs, in whatever way, ends within its deadline and is named: test files that hang are run in
 * a process of their own, with a deadline of half a second.
 */

import { assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { ROOT } from "./source.ts";

/** Runs a test file with the preload; its status, what it printed, and how long it took. */
async function runFile(text: string): Promise<{ code: number; output: string; tookMs: number }> {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${directory}/a_test.ts`, text);
    const start = performance.now();
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", `--preload=${ROOT}tests/house/deadline.ts`, `${directory}/a_test.ts`],
      env: { XENBLK_TEST_LIMIT_MS: "500", NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    return { code, output: decoder.decode(stdout) + decoder.decode(stderr), tookMs: performance.now() - start };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const HANGS: readonly (readonly [why: string, body: string, message: string])[] = [
  ["waits without end", `await new Promise((done) => setTimeout(done, 100_000));`, "timed out after 500ms"],
  ["loops", `for (;;);`, "timed out after 500ms"],
  ["sleeps on a word", `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`, "timed out after 500ms"],
  [
    "waits for a Worker that loops",
    `const url = URL.createObjectURL(new Blob(["for (;;);"]));
     const worker = new Worker(url, { type: "module" });
     await new Promise((done) => worker.onmessage = done);`,
    "timed out after 500ms",
  ],
  ["waits for a child process", `await new Deno.Command("sleep", { args: ["5"] }).output();`, "timed out after 500ms"],
  [
    "waits for a child process synchronously",
    `new Deno.Command("sleep", { args: ["5"] }).outputSync();`,
    "100% stuck: blocked its thread for more than 500 ms",
  ],
  [
    "is blocked in a C function",
    `Deno.dlopen("libc.so.6", { sleep: { parameters: ["u32"], result: "u32" } }).symbols.sleep(60);`,
    "100% stuck: blocked its thread for more than 500 ms",
  ],
];

for (const [why, body, message] of HANGS) {
  Deno.test(`a test that ${why} ends at its deadline, and is named`, async () => {
    const { code, output, tookMs } = await runFile(`Deno.test("100% stuck", async () => {${body}});`);
    assertEquals(code, 1, output);
    assertStringIncludes(output, message);
    assertStringIncludes(output, "100% stuck");
    assertLess(tookMs, 20_000);
  });
}

Deno.test("a test file that does not load ends at the deadline, and is named", async () => {
  const { code, output } = await runFile(`await new Promise((done) => setTimeout(done, 100_000));`);
  assertEquals(code, 1, output);
  assertStringIncludes(output, "a_test.ts was not loaded within 500 ms");
});

Deno.test("the deadline leaves a test's own timeout, its line, and the tests after it alone", async () => {
  const { code, output } = await runFile(`
    const nap = () => new Promise((done) => setTimeout(done, 700));
    Deno.test({ name: "slow", timeout: 5000, fn: nap });
    Deno.test("slow too", { timeout: 5000 }, nap);
    Deno.test({ timeout: 5000 }, nap);
    Deno.test(function quick() {});
    Deno.test("stuck", async () => { await new Promise((done) => setTimeout(done, 100_000)); });
    Deno.test("after", () => {});
    Deno.test({ name: "ignored", ignore: true, fn: nap });
  `);
  assertEquals(code, 1, output);
  assertStringIncludes(output, "stuck => ");
  assertStringIncludes(output, "a_test.ts:7:10");
  assertStringIncludes(output, "5 passed | 1 failed | 1 ignored");
});
