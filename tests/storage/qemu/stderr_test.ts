/**
 * A daemon's standard error: each line once in the log, whoever reads it first; the last lines for the report; bounded.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { DaemonErrors } from "../../../lib/storage/qemu/stderr.ts";
import { Folder } from "../rig.ts";

class Lines {
  readonly all: string[] = [];
  readonly debug = (): void => {};
  readonly info = (): void => {};
  readonly error = (): void => {};
  readonly warning = (line: string): void => void this.all.push(line);
}

Deno.test("each line is logged once, also by the next process, and the last ones are quoted", async () => {
  using folder = new Folder();
  const [path, log] = [folder.file("stderr.log", 0), new Lines()];
  const append = (text: string): void => Deno.writeTextFileSync(path, text, { append: true });
  const errors = new DaemonErrors(path, log);
  assertEquals(errors.last, "");
  append("one\ntwo\n\n");
  await errors.look();
  append("three\nfour\n");
  await new DaemonErrors(path, log).look();
  append("five\nsix\n");
  await errors.look();
  await errors.look();
  assertEquals(log.all, ["one", "two", "three", "four", "five", "six"]);
  assertEquals(errors.last, ": two; five; six");
});

Deno.test("of a flood the end is logged, with what was skipped, and the file does not stay large", async () => {
  using folder = new Folder();
  const [path, log] = [folder.file("stderr.log", 0), new Lines()];
  Deno.writeTextFileSync(path, `${"x".repeat(99)}\n`.repeat(10_000));
  await new DaemonErrors(path, log).look();
  assertEquals(log.all.length <= 170, true);
  assertStringIncludes(log.all[0]!, "skipped 983616 bytes");
  assertEquals(Deno.statSync(path).size, 0);
});

Deno.test("a file that is gone is no error", async () => {
  await new DaemonErrors("/nowhere/stderr.log", new Lines()).look();
});
