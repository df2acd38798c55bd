/**
 * What a plugin's process says of its disk is data of somebody who is not trusted: whatever it is, the error is one that
 * people can read, on one line.
 */

import { assertMatch, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { readFacts } from "../../../lib/storage/plugin/facts.ts";

/** The line of the error for an answer to `open`. */
function lineOf(answer: unknown): string {
  return assertThrows(() => readFacts(answer, "it", false, () => {}), XenblkError).line;
}

Deno.test("an answer that is no text and no number is refused with what it is", () => {
  const untextual = { toString: 1, valueOf: 1 };
  assertMatch(
    lineOf({ ok: true, reads: true, sizeBytes: untextual }),
    /its sizeBytes is an object; give /,
  );
  assertMatch(
    lineOf({ ok: false, stage: "open", message: untextual }),
    /^Cannot open it: its open failed: it gives no /,
  );
  assertMatch(lineOf({ ok: true, reads: true }), /its sizeBytes is undefined; /);
  const deep: unknown = JSON.parse("[".repeat(15_000) + "]".repeat(15_000));
  assertMatch(
    lineOf({ ok: true, reads: true, sizeBytes: 4096, physicalSectorBytes: deep }),
    /is an object; use a power /,
  );
  assertMatch(lineOf(7), /its process answers nonsense$/);
});

Deno.test("no part of an answer forges a second line or a terminal's sequence", () => {
  const text = "/a\nerror: b\x1b[2J\x9b\u2028";
  const lines = [
    lineOf({ ok: false, stage: "open", message: text, place: text }),
    lineOf({
      ok: false,
      stage: "import",
      message: `Requires read access to "${text}", run again with the --allow-read flag`,
    }),
    lineOf({ ok: true, reads: true, sizeBytes: text }),
    lineOf({ ok: true, reads: true, sizeBytes: 4096, logicalSectorBytes: [text] }),
  ];
  // deno-lint-ignore no-control-regex -- they are what must not get through
  for (const line of lines) assertMatch(line, /^Cannot open it: [^\x00-\x1f\x7f-\x9f\u2028]+$/);
});
