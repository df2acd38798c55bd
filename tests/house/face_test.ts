/**
 * The library's public face: mod.ts only re-exports, opens nothing when it is imported, and has what programs need.
 */

import { assert, assertEquals } from "@std/assert";
import { ROOT, sourceFiles } from "./source.ts";

Deno.test("mod.ts only re-exports", () => {
  const text = Deno.readTextFileSync(ROOT + "mod.ts").replace(/\/\*\*.*?\*\//gs, "");
  const statements = text.split(";").map((statement) => statement.trim()).filter((statement) => statement !== "");
  assertEquals(statements.filter((statement) => !/^export .* from "\.\/[\w/]+\.ts"$/s.test(statement)), []);
});

Deno.test("mod.ts needs no permission to be imported: it opens nothing", async () => {
  const args = ["run", "--no-prompt", ROOT + "mod.ts"];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  assertEquals([success, stdout.length, new TextDecoder().decode(stderr)], [true, 0, ""]);
});

Deno.test("mod.ts has what attaches a disk, what serves, and what a backend is made of", async () => {
  const face = await import("../../mod.ts");
  for (
    const name of [
      "attach",
      "openNativePlatform",
      "startService",
      "openPlatform",
      "IoPool",
      "WorkerDataPlane",
      "BackendKind",
      "openDisk",
      "attachDevice",
    ] as const
  ) {
    assert(typeof face[name] === "function", name);
  }
});

Deno.test("every example is run by a test of the checkout", () => {
  const files = sourceFiles();
  const texts = files.filter((path) => /^tests\/(?!pack\/).*\.ts$/.test(path)).map((path) =>
    Deno.readTextFileSync(ROOT + path)
  );
  const examples = files.filter((path) => path.startsWith("examples/"));
  assert(examples.length > 0);
  assertEquals(examples.filter((path) => !texts.some((text) => text.includes(path))), []);
});
