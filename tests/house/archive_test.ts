/**
 * The house tests work in an unpacked archive too, where there is no git: the list of files is the same, and a few of
 * the tests are run there.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { ROOT, sourceFiles } from "./source.ts";

async function run(command: string, args: readonly string[], cwd: string, stdin = ""): Promise<string> {
  const child = new Deno.Command(command, {
    args: [...args],
    cwd,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(stdin));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`${command} failed: ${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/** An archive of the files in git, or that would be, unpacked. */
async function unpacked(directory: string): Promise<string> {
  await run("tar", ["-c", "-f", `${directory}/a.tar`, "--files-from=-"], ROOT, sourceFiles().join("\n"));
  await Deno.mkdir(`${directory}/tree`);
  await run("tar", ["-x", "-f", `${directory}/a.tar`], `${directory}/tree`);
  return `${directory}/tree/`;
}

Deno.test("in an unpacked archive the same files are judged, and what .gitignore names is left out", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const root = await unpacked(directory);
    for (const folder of ["node_modules/x", "tests/native/build/x", "coverage"]) {
      await Deno.mkdir(root + folder, { recursive: true });
      await Deno.writeTextFile(`${root}${folder}/bad.ts`, "any");
    }
    await Deno.writeTextFile(`${root}lib/disk.img`, "");
    assertEquals(sourceFiles(root), sourceFiles());
    await Deno.mkdir(`${root}lib/node_modules`);
    await Deno.writeTextFile(`${root}lib/node_modules/a.ts`, "");
    assertEquals(sourceFiles(root).filter((path) => path.includes("node_modules")), ["lib/node_modules/a.ts"]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("the house tests pass in an unpacked archive", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const root = await unpacked(directory);
    const tests = ["style", "imports", "docs"].map((name) => `tests/house/${name}_test.ts`);
    assertMatch(await run(Deno.execPath(), ["test", "-A", "--no-check", ...tests], root), /^ok \| \d+ passed/m);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
