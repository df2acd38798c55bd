/**
 * The pictures in docs/picture show what the commands print today, figures aside. picture.ts draws them.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { nativeTest } from "../native/harness.ts";
import { drawing, linesOf, PICTURES } from "./picture.ts";

/** A picture's text without what differs from run to run: figures, and the blanks that their widths cause. */
function masked(svg: string): string[] {
  return linesOf(svg).map((line) => line.replace(/\d+(\.\d+)?/g, "0").replace(/ +/g, " ").trimEnd());
}

for (const { file, run } of PICTURES) {
  nativeTest(`${file} shows a real run (else: deno task picture)`, async () => {
    assertEquals(masked(Deno.readTextFileSync(ROOT + file)), masked(drawing(await run())));
  });
}

Deno.test("a picture holds the text as it is, and the figures alone are masked", () => {
  const svg = drawing([{ command: "a <b> & c", output: "rate  12.5\n\nend" }, { command: "d", output: "" }]);
  assertEquals(linesOf(svg), ["$ a <b> & c", "rate  12.5", "end", "$ d"]);
  assertEquals(masked(svg)[1], "rate 0");
});
