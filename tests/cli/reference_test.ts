/**
 * docs/cli.md is what the verbs' tables say.
 * It is not written by hand: see reference.ts.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { REFERENCE, reference } from "./reference.ts";

Deno.test("docs/cli.md is up to date (else: deno task docs)", async () => {
  assertEquals(Deno.readTextFileSync(ROOT + REFERENCE), await reference());
});
