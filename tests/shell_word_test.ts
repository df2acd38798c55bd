/**
 * Words for a shell: what a shell makes of them is the text again.
 */

import { assertEquals } from "@std/assert";
import { shellWord } from "../lib/shell_word.ts";

Deno.test("a shell reads the word as the text, and an ordinary path stays as it is", () => {
  assertEquals(shellWord("/srv/disk-1.qcow2"), "/srv/disk-1.qcow2");
  const texts = ["", "a b", "it's", "$HOME", "`id`", "*", "~", "a\nb", "größe", "-x;y", "\\'"];
  const script = `printf '%s\\0' ${texts.map(shellWord).join(" ")}`;
  const { stdout } = new Deno.Command("sh", { args: ["-c", script] }).outputSync();
  assertEquals(new TextDecoder().decode(stdout).split("\0").slice(0, -1), texts);
});
