/**
 * Journals as mapped files: what was stored is there for the next mapping, and errors come with a remedy.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { JournalFiles } from "../../ffi/linux/journal_files.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { XenblkError } from "../../lib/errors.ts";

libc(); // opened outside the tests: a library stays loaded

Deno.test("what was stored in a journal is there when it is opened again, and gone once it is removed", () => {
  const directory = Deno.makeTempDirSync();
  const files = new JournalFiles(`${directory}/journals`);
  {
    using journal = files.open("a", 5000);
    assertEquals(journal.view.every((byte) => byte === 0), true);
    journal.view[4999] = 7;
  }
  {
    using journal = files.open("a", 5000);
    assertEquals(journal.view[4999], 7);
  }
  {
    using journal = files.open("a", 6000);
    assertEquals(journal.view.every((byte) => byte === 0), true, "another size is another journal");
  }
  files.remove("a");
  files.remove("a");
  assertEquals([...Deno.readDirSync(`${directory}/journals`)], []);
  Deno.removeSync(directory, { recursive: true });
});

Deno.test("a journal that cannot be made says where and what to do", () => {
  const file = Deno.makeTempFileSync();
  const error = assertThrows(() => new JournalFiles(file).open("a", 4096), XenblkError, `${file}/a`);
  assertEquals(/XENBLK_JOURNAL_DIR/.test(error.line), true);
  Deno.removeSync(file);
});

Deno.test("a lock belongs to one process until it is released, and leaves no file", () => {
  const directory = Deno.makeTempDirSync();
  const [ours, theirs] = [new JournalFiles(directory), new JournalFiles(directory)];
  {
    using lock = ours.lock("a.lock");
    assertEquals([lock === undefined, theirs.lock("a.lock")], [false, undefined]);
    using another = theirs.lock("b.lock");
    assertEquals(another === undefined, false);
  }
  {
    using lock = theirs.lock("a.lock");
    assertEquals(lock === undefined, false);
  }
  assertEquals([...Deno.readDirSync(directory)], []);
  Deno.removeSync(directory);
});

Deno.test("a lock that cannot be had says where and what to do", () => {
  const file = Deno.makeTempFileSync();
  const error = assertThrows(() => new JournalFiles(file).lock("a.lock"), XenblkError, `${file}/a.lock`);
  assertEquals(/XENBLK_JOURNAL_DIR/.test(error.line), true);
  Deno.removeSync(file);
});
