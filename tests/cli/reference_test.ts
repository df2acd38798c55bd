/**
 * docs/cli.md matches the tables of the verbs. reference.ts writes it.
 * It does not depend on the machine.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
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
