/**
 * Enforces the style that a program can check, on every tracked file. For each rule, a bad sample shows that it fails.
 */

import { assert, assertEquals, assertGreater, assertMatch } from "@std/assert";
import { analyse, ROOT, sourceFiles } from "./source.ts";
import { machineFaults, MOST_FILE_LINES, MOST_FUNCTION_LINES, styleFaults } from "./style_rule.ts";

const CHARTER = "/**\n * A sample, and what it is for:\n * nothing.\n */\n";

Deno.test("every TypeScript file opens with its charter, fits, and has no any", () => {
  const files = sourceFiles().filter((path) => path.endsWith(".ts"));
  assertGreater(files.length, 5);
  const faults = files.flatMap((path) => {
    const text = Deno.readTextFileSync(ROOT + path);
    return styleFaults(path, text, analyse(path, text));
  });
  assertEquals(faults, []);
});

Deno.test("no tracked file names a machine's path or a registry host", () => {
  const faults = sourceFiles().flatMap((path) => machineFaults(path, Deno.readTextFileSync(ROOT + path)));
  assertEquals(faults, []);
});

Deno.test("the lock file holds no address", () => {
  const lock = Deno.readTextFileSync(ROOT + "deno.lock");
  assert(lock.includes("integrity"));
  assert(!lock.includes("://"));
});

function faultsOf(text: string): string[] {
  return styleFaults("sample.ts", text, analyse("sample.ts", text));
}

Deno.test("the style rule accepts a good sample", () => {
  assertEquals(faultsOf(CHARTER + "export const x = 1;\n"), []);
  assertEquals(faultsOf("#!/usr/bin/env -S deno run\n// A sample,\n// of line comments.\nlet x = 1;\n"), []);
});

Deno.test("the style rule refuses a file without a charter", () => {
  assertMatch(faultsOf("export const x = 1;\n")[0]!, /does not open with a comment/);
  assertMatch(faultsOf("// TODO\nexport const x = 1;\n")[0]!, /does not open with a comment/);
});

Deno.test("the style rule refuses a long file", () => {
  assertMatch(faultsOf(CHARTER + "\n".repeat(MOST_FILE_LINES))[0]!, /lines, at most/);
});

Deno.test("the style rule refuses a long function of any form", () => {
  const body = "\n".repeat(MOST_FUNCTION_LINES);
  for (const head of ["function f(): void {", "const f = (): void => {", "const k = { m(): void {"]) {
    const text = CHARTER + head + body + (head.includes("m()") ? "}}" : "}") + "\n";
    assertMatch(faultsOf(text)[0]!, /sample\.ts:5: .* has 61 lines/);
  }
});

Deno.test("the style rule refuses any without a stated reason", () => {
  assertMatch(faultsOf(CHARTER + "let x: any;\n")[0]!, /sample\.ts:5: uses the type any/);
  assertEquals(faultsOf(CHARTER + "// deno-lint-ignore no-explicit-any -- reason\nlet x: any;\n"), []);
});

Deno.test("the machine rule refuses paths of a machine and registry hosts", () => {
  const samples = ["see /" + "work/main/x", "cd /" + "root/x", "https://registry" + ".example.org/", "Verda" + "ccio"];
  for (const sample of samples) assertEquals(machineFaults("x.md", sample).length, 1, sample);
  for (const fine of ["/var/lib/xen/a.img", "framework/x", "a working registry"]) {
    assertEquals(machineFaults("x.md", fine), [], fine);
  }
});
