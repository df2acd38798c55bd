/**
 * docs/cli.md matches the tables of the verbs. reference.ts writes it.
 * It does not depend on the machine.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { overview, verbHelp } from "../../lib/cli/help.ts";
import { REFERENCE, reference } from "./reference.ts";

Deno.test("docs/cli.md is up to date (else: deno task docs)", async () => {
  assertEquals(Deno.readTextFileSync(ROOT + REFERENCE), await reference());
});

Deno.test("the reference is the same on a machine with 96 processors", async () => {
  const program = `
    Object.defineProperty(navigator, "hardwareConcurrency", { value: 96 });
    const { reference } = await import("${new URL("reference.ts", import.meta.url)}");
    console.log(await reference());
  `;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", program],
    stderr: "inherit",
  }).output();
  assertEquals(new TextDecoder().decode(stdout), `${await reference()}\n`);
});

Deno.test("on a terminal of 80 columns, no line of the help is wider, but for examples", async () => {
  const texts = [overview(CATALOG, 80)];
  for (const { load } of CATALOG) texts.push(verbHelp(await load(), 80).replace(/\nExamples:\n( {2}.*\n)+/, "\n"));
  assertEquals(texts.flatMap((text) => text.split("\n")).filter((line) => line.length > 80), []);
});
