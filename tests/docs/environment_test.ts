/**
 * docs/environment.md has every environment variable that the sources name, and no other.
 */

import { assertEquals } from "@std/assert";
import { ROOT, runVisitor, sourceFiles } from "../house/source.ts";

/** Calls that read a variable. */
const READS = /(^|\.)(env\.get|environment|variable|#variable)$/;
/** Texts of that form that are no variables. */
const OTHERS = ["FLUSH_DISKCACHE", "RESERVED_1", "WRITE_BARRIER"];

/** The variables that a file names: arguments of such calls, and texts like `A_NAME`. */
function variablesOf(path: string, text: string): string[] {
  const names: string[] = [];
  runVisitor(path, text, {
    CallExpression: (node) => {
      const [argument] = node.arguments;
      if (argument?.type !== "Literal" || typeof argument.value !== "string") return;
      if (READS.test(text.slice(...node.callee.range))) names.push(argument.value);
    },
    Literal: (node) => {
      if (typeof node.value === "string" && /^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$/.test(node.value)) names.push(node.value);
    },
  });
  return names.filter((name) => !OTHERS.includes(name));
}

Deno.test("docs/environment.md has every variable that the sources name, and no other", () => {
  const files = sourceFiles().filter((path) => /^((lib|ffi)\/.*|cli|native|platform)\.?\w*\.ts$/.test(path));
  const named = new Set(files.flatMap((path) => variablesOf(path, Deno.readTextFileSync(ROOT + path))));
  const rows = Deno.readTextFileSync(`${ROOT}docs/environment.md`).split("\n").filter((line) => line.startsWith("| `"));
  const listed = rows.flatMap((row) => [...row.split("|")[1]!.matchAll(/`(\w+)`/g)].map((match) => match[1]!));
  assertEquals(listed.toSorted(), [...named].toSorted());
});

Deno.test("a variable is found in each way of reading it", () => {
  const source = 'Deno.env.get("HOME"); variable("PATH"); const V = "XENBLK_X"; this.#variable("USER"); get("other");';
  assertEquals(variablesOf("a.ts", source).toSorted(), ["HOME", "PATH", "USER", "XENBLK_X"]);
});
