/**
 * Shows that a serving process, and each of its threads, loads no module of a room that it does not need.
 */

import { assert, assertEquals } from "@std/assert";
import { loadedBy, loadFaults, type Program, PROGRAMS } from "./loaded_modules.ts";
import { analyse, typeScriptFiles } from "./source.ts";

const FILES = typeScriptFiles();

for (const program of PROGRAMS) {
  Deno.test(`what ${program.name} loads is in the table`, () => {
    assertEquals(loadFaults(program, FILES), []);
    assert(program.entries.every((entry) => FILES.some(({ path }) => path === entry)), "an entry is no file");
    const { paths, packages } = loadedBy(program.entries, FILES);
    assertEquals((program.files ?? []).filter((path) => !paths.has(path)), [], "it does not load these");
    assertEquals(program.packages.filter((name) => !packages.has(name)), [], "nor these");
  });
}

function file(path: string, text: string): { path: string; imports: ReturnType<typeof analyse>["imports"] } {
  return { path, imports: analyse(path, text).imports };
}

Deno.test("only static imports of values load a module", () => {
  const files = [
    file(
      "lib/service.ts",
      `import { a } from "./clock.ts"; import type { B } from "./log.ts"; import { type C, type D } from "./turns.ts";
       import { type E, f } from "./sizes.ts"; const worker = new URL("./units.ts", import.meta.url);
       export const g = async () => await import("./nonce.ts"); export { h } from "npm:h"; export type { I } from "./i.ts";`,
    ),
    file("lib/clock.ts", `import "./errors.ts";`),
  ];
  const { paths, packages } = loadedBy(["lib/service.ts"], files);
  assertEquals([...paths].sort(), ["lib/clock.ts", "lib/errors.ts", "lib/service.ts", "lib/sizes.ts"]);
  assertEquals([...packages], ["npm:h"]);
});

Deno.test("a module of a room that a program does not need is found, and a package", () => {
  const program: Program = {
    name: "it",
    entries: ["lib/service.ts"],
    rooms: ["service", "parts"],
    files: ["lib/sim/park.ts"],
    packages: [],
  };
  const imports = `import "./clock.ts"; import "./sim/park.ts"; import "./sim/machine.ts"; import "npm:h";`;
  assertEquals(loadFaults(program, [file("lib/service.ts", imports)]), [
    "it loads lib/sim/machine.ts",
    "it loads npm:h",
  ]);
});
