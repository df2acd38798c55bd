/**
 * The ambient declarations in types/ describe packages that ship JavaScript only: this test holds them to what the
 * packages really export.
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import * as stdAssert from "@std/assert";
import * as stdCli from "@std/cli";
import { ROOT } from "./source.ts";

/** Names of the values (functions and classes) declared for a module in the ambient types file. */
function declaredValues(types: string, module: string): string[] {
  const start = types.indexOf(`declare module "${module}"`);
  assert(start >= 0, `no declaration of ${module}`);
  const end = types.indexOf("\n}\n", start);
  const body = types.slice(start, end);
  return [...new Set([...body.matchAll(/^ {2}export (?:function|class|const) (\w+)/gm)].map((match) => match[1]!))];
}

const TYPES = Deno.readTextFileSync(ROOT + "types/deno_std.d.ts");
const MODULES: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "@std/assert": stdAssert,
  "@std/cli": stdCli,
};

for (const [name, module] of Object.entries(MODULES)) {
  Deno.test(`every value that types/ declares for ${name} is there at run time`, () => {
    const declared = declaredValues(TYPES, name);
    assertGreater(declared.length, 0);
    assertEquals(declared.filter((value) => typeof module[value] !== "function"), []);
  });
}

Deno.test("types/ declares no module that this test does not check", () => {
  const declared = [...TYPES.matchAll(/^declare module "([^"]+)"/gm)].map((match) => match[1]!);
  assertEquals(declared.sort(), Object.keys(MODULES).sort());
});

Deno.test("a declared name that the module lacks is found", () => {
  const types =
    'declare module "@std/cli" {\n  export function parseArgs(): void;\n  export function nope(): void;\n}\n';
  const lacking = declaredValues(types, "@std/cli").filter((value) => !(value in stdCli));
  assertEquals(lacking, ["nope"]);
});
