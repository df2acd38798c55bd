/**
 * The directory of the journals as the environment names it.
 */

import { assertEquals } from "@std/assert";
import { JOURNAL_DIRECTORY, journalDirectory } from "../lib/journal_directory.ts";

Deno.test("a variable that is empty names no directory: it would be the root of the file system", () => {
  for (const [value, directory] of [[undefined, JOURNAL_DIRECTORY], ["", JOURNAL_DIRECTORY], ["/a", "/a"]] as const) {
    assertEquals(journalDirectory(() => value), directory);
  }
});
