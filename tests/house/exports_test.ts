/**
 * No dead code: every export of lib/ and ffi/ is used by the product or exported by mod.ts, or is an exception with a
 * reason. The finder is shown on samples.
 */

import { assertEquals } from "@std/assert";
import { type NameFacts, readNames, uselessExports } from "./exports.ts";
import { typeScriptFiles } from "./source.ts";

/** Exports that only tests use, and why they are not in tests/. */
const ONLY_TESTS: Readonly<Record<string, string>> = {
  "lib/dataplane/inline_dataplane.ts#InlineDataPlane": "the data plane in one thread, which tests step",
};

const { dead, needless } = uselessExports(typeScriptFiles().map(({ path, text }) => readNames(path, text)));

Deno.test("no export of lib or ffi is there for tests only, but for known ones", () => {
  assertEquals(dead.sort(), Object.keys(ONLY_TESTS).sort());
});

Deno.test("nothing is exported that only its own file uses", () => {
  assertEquals(needless, []);
});

function judge(files: Readonly<Record<string, string>>): ReturnType<typeof uselessExports> {
  return uselessExports(Object.entries(files).map(([path, text]): NameFacts => readNames(path, text)));
}

Deno.test("an export that is not used, or only by tests, is found", () => {
  const files = {
    "lib/a.ts":
      `/** one, two */ export const one = 1;\nexport const two = 2;\nexport function three(): void {}\nexport class Four {}
      export interface Five { x: Six }\nexport type Six = 1;\nexport enum Seven { A }`,
    "tests/a_test.ts": `import { two } from "../lib/a.ts";`,
  };
  const names = ["one", "two", "three", "Four", "Five", "Seven"];
  assertEquals(judge(files), { dead: names.map((name) => `lib/a.ts#${name}`), needless: [] });
});

Deno.test("an export that only its own file uses is found; one that a test looks at is not", () => {
  const own = `export const most = 3;\nexport const least = 1;\nexport const sum = most + least;`;
  const files = {
    "lib/a.ts": own,
    "cli.ts": `import { sum } from "./lib/a.ts";`,
    "tests/a_test.ts": `import { least } from "../lib/a.ts";`,
  };
  assertEquals(judge(files), { dead: [], needless: ["lib/a.ts#most"] });
});

Deno.test("an import, a re-export, a type, a dynamic import and a whole module are uses", () => {
  const files = {
    "lib/a.ts": `export const one = 1;\nexport const two = 2;\nexport type Three = 3;\nexport const four = 4;`,
    "lib/b.ts": `export const five = 5;`,
    "lib/c.ts": `export const six = 6;`,
    "lib/d.ts": `import { one as uno } from "./a.ts"; type T = import("./a.ts").Three; use(uno);`,
    "mod.ts": `export { two } from "./lib/a.ts"; export * from "./lib/b.ts";`,
    "cli.ts": `const { four } = await import("./lib/a.ts"); import * as c from "./lib/c.ts";`,
  };
  assertEquals(judge(files), { dead: [], needless: [] });
});
