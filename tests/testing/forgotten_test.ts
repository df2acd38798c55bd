/**
 * A program that forgets to dispose a test host ends, and says what it forgot; one that disposes everything ends in
 * silence; one that only waits is not disturbed.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { Folder, type ProgramOutcome } from "../library/programs.ts";

async function run(body: string): Promise<ProgramOutcome> {
  using folder = new Folder({ "program.ts": `import { testHost } from "${ROOT}testing.ts";\n${body}` });
  return await folder.deno("run", "-A", "--no-check", "program.ts");
}

const ATTACHED = (declaration: string): string => `
  ${declaration} host = await testHost({ forgottenAfterMs: 400 });
  const guest = await host.startGuest({ name: "web" });
  await host.attach({ domain: "web", image: "memory:1M", workers: 1 });
`;

Deno.test("a forgotten host with a disk ends the program, which names what was forgotten", async () => {
  const { status, stderr } = await run(ATTACHED("const"));
  assertEquals(status, 1);
  assertMatch(stderr, /^xenblk: the program has ended, but for a test host that nothing has used for 0\.4 s: /m);
  const what =
    /^xenblk: a test host was not disposed \(with guest web, drive xvda of web, disk xvda of domain 1\): declare it with `await using/m;
  assertMatch(stderr, what);
});

Deno.test("a host without threads that is forgotten is named, and one that is disposed is not", async () => {
  const idle = await run(`await testHost();`);
  assertEquals(idle.status, 0);
  assertMatch(idle.stderr, /^xenblk: a test host was not disposed: declare it/);
  const waits = `await new Promise((resolve) => setTimeout(resolve, 1_000));`;
  assertEquals(await run(`${ATTACHED("await using")} ${waits}`), { status: 0, stdout: "", stderr: "" });
});
