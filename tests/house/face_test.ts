/**
 * The library's public face: what mod.ts promises can be imported, it imports nothing native, and it only re-exports.
 */

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "./source.ts";

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

Deno.test("mod.ts offers what a backend is made of", async () => {
  const face = await import("../../mod.ts");
  for (
    const name of ["openPlatform", "IoPool", "WorkerDataPlane", "BackendKind", "openDisk", "attachDevice"] as const
  ) {
    assert(typeof face[name] === "function", name);
  }
});
