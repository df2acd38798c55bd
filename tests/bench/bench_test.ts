/**
 * The benchmark runs to its end and reports figures. What they are worth is not judged here.
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { missingFio } from "./fio.ts";

Deno.test("the benchmark measures every case, beside fio where it is installed", async () => {
  const main = new URL("./main.ts", import.meta.url).pathname;
  const args = ["run", "-A", main, "--json", "--seconds=0.1", "--rounds=1", "--size=1M"];
  const { code, stdout } = await new Deno.Command(Deno.execPath(), { args }).output();
  assertEquals(code, 0);
  const results = JSON.parse(new TextDecoder().decode(stdout));
  assertEquals(results.length, 4);
  for (const { nullDisk, file, fio } of results) {
    assertGreater(nullDisk, 0);
    assertGreater(file, 0);
    assert(missingFio() === undefined ? fio > 0 : fio === undefined);
  }
});
