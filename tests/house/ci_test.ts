/**
 * The closing line and exit status of .ci/run, shown with a stand-in for `npx` that prints what the test runner prints.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "./source.ts";

/** What the stand-in does for each task: an exit status, and the output of the tests. */
interface Script {
  readonly house?: number;
  readonly test: string;
  readonly testStatus?: number;
  readonly deb?: string;
  readonly debStatus?: number;
  readonly e2e?: string;
  readonly e2eStatus?: number;
  readonly ci?: string;
}

/** Runs .ci/run in a directory of its own; its last line and status. */
async function runCi(script: Script): Promise<[string, number]> {
  const { lines, code } = await runCiInFull(script);
  return [lines.at(-1)!, code];
}

async function runCiInFull(script: Script): Promise<{ lines: string[]; code: number }> {
  const { house = 0, test, testStatus = 0, deb = "", debStatus = 0, e2e = "", e2eStatus = 0, ci = "true" } = script;
  const root = await Deno.makeTempDir();
  try {
    for (const folder of [".ci", "tests/native", "bin"]) await Deno.mkdir(`${root}/${folder}`, { recursive: true });
    for (const file of [".ci/run", ".dvmrc"]) await Deno.copyFile(ROOT + file, `${root}/${file}`);
    await Deno.writeTextFile(`${root}/tests/native/install.sh`, "true\n");
    const npx = [
      "#!/bin/sh",
      'case "$4" in',
      `house) exit ${house} ;;`,
      `test) cat <<'OUT'\n${test}\nOUT\nexit ${testStatus} ;;`,
      `test:deb) cat <<'OUT'\n${deb}\nOUT\nexit ${debStatus} ;;`,
      `e2e) echo "$2 $XENBLK_E2E_MINUTES"; cat <<'OUT'\n${e2e}\nOUT\nexit ${e2eStatus} ;;`,
      "*) exit 99 ;;",
      "esac\n",
    ].join("\n");
    await Deno.writeTextFile(`${root}/bin/npx`, npx, { mode: 0o755 });
    await Deno.writeTextFile(`${root}/bin/apt-get`, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
    const { code, stdout } = await new Deno.Command("bash", {
      args: [`${root}/.ci/run`],
      env: { PATH: `${root}/bin:${Deno.env.get("PATH")}`, CI: ci },
      stderr: "null",
    }).output();
    return { lines: new TextDecoder().decode(stdout).trimEnd().split("\n"), code };
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

Deno.test(".ci/run sums the runner's closing lines and succeeds when all passed", async () => {
  assertEquals(await runCi({ test: "ok | 12 passed (3 steps) | 0 failed (5s)" }), ["12 passed, 0 failed", 0]);
  assertEquals(await runCi({ test: "ok | 12 passed | 0 failed (5s)\nnoise | 99 passed" }), ["12 passed, 0 failed", 0]);
});

Deno.test(".ci/run fails when a test failed, and still ends with the line", async () => {
  const failed = { test: "FAILED | 11 passed | 1 failed (2 steps) | 2 ignored (5s)", testStatus: 1 };
  assertEquals(await runCi(failed), ["11 passed, 1 failed, 2 skipped", 1]);
});

Deno.test(".ci/run fails on a skipped test in CI, and only there", async () => {
  const skipped = "ok | 11 passed | 0 failed | 2 ignored (5s)";
  assertEquals(await runCi({ test: skipped }), ["11 passed, 0 failed, 2 skipped", 1]);
  assertEquals(await runCi({ test: skipped, ci: "false" }), ["11 passed, 0 failed, 2 skipped", 0]);
});

Deno.test(".ci/run fails when the static checks fail or no test ran", async () => {
  assertEquals(await runCi({ test: "ok | 1 passed | 0 failed (5s)", house: 1 }), ["1 passed, 0 failed", 1]);
  assertEquals(await runCi({ test: "error: nothing here" }), ["0 passed, 0 failed", 1]);
  assertEquals(await runCi({ test: "error: it broke", testStatus: 2 }), ["0 passed, 0 failed", 2]);
});

Deno.test(".ci/run sums the scenarios with real guests, and fails when one of them failed", async () => {
  const test = "ok | 12 passed | 0 failed (5s)";
  const table = "Debian trixie, logs in /tmp/x\n  01-a  passed  9 s  passed at the second boot\n\n";
  assertEquals(await runCi({ test, e2e: `${table}ok | 21 passed | 0 failed (900s)` }), ["33 passed, 0 failed", 0]);
  const failed = { test, e2e: `${table}FAILED | 19 passed | 2 failed (2100s)`, e2eStatus: 1 };
  assertEquals(await runCi(failed), ["31 passed, 2 failed", 1]);
});

Deno.test(".ci/run sums the tests of the Debian package, and fails when one of them failed", async () => {
  const test = "ok | 12 passed | 0 failed (5s)";
  assertEquals(await runCi({ test, deb: "ok | 4 passed (14 steps) | 0 failed (90s)" }), ["16 passed, 0 failed", 0]);
  const failed = { test, deb: "FAILED | 3 passed | 1 failed (2 steps) (90s)", debStatus: 1 };
  assertEquals(await runCi(failed), ["15 passed, 1 failed", 1]);
});

Deno.test(".ci/run runs the Deno of .dvmrc, and gives the scenarios what is left of 85 minutes", async () => {
  const { lines } = await runCiInFull({ test: "ok | 1 passed | 0 failed (5s)" });
  const version = Deno.readTextFileSync(ROOT + ".dvmrc").trim();
  assertEquals(lines.filter((line) => line.startsWith("deno@")), [`deno@${version} 82`]);
});

Deno.test(".ci/run fails when the scenarios cannot be run at all", async () => {
  const test = "ok | 12 passed | 0 failed (5s)";
  const refused = "e2e: trixie: 2 scenarios do not run: run as root\n\nFAILED | 0 passed | 2 failed (1s)";
  assertEquals(await runCi({ test, e2e: refused, e2eStatus: 1 }), ["12 passed, 2 failed", 1]);
  assertEquals(await runCi({ test, e2e: "e2e: it broke", e2eStatus: 1 }), ["12 passed, 0 failed", 1]);
});
