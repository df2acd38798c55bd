/**
 * Write logs in a run directory that is full: refused with the path and the remedy, and what is there stays.
 */

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { JournalFiles } from "../../../ffi/linux/journal_files.ts";
import { libc } from "../../../ffi/linux/libc.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { KeptLog } from "../../../lib/storage/write_log/kept_log.ts";
import { DaemonRig, daemonTest } from "./rig.ts";

libc(); // opened outside the tests: a library stays loaded

const FULL = /^Cannot keep .*\/run\/one-writes: No space left on device.*; free space or inodes there, or name another/;

daemonTest(
  "a log that the run directory has no room for is refused, whether as a whole or for one more ring",
  async () => {
    for (const [size, parts] of [["128k", -1], ["1m", 0], ["9m", 2]] as const) {
      await using rig = new DaemonRig();
      await rig.limitRun(size);
      Deno.mkdirSync(rig.directory);
      const files = new JournalFiles(`${rig.folder}/run`);
      if (parts < 0) {
        assertMatch(assertThrows(() => new KeptLog(files, "one-writes"), XenblkError).line, FULL);
        continue;
      }
      const tag = "0123456789abcdef0123456789abcdef";
      using log = new KeptLog(files, "one-writes");
      log.begin(tag);
      for (let given = 0; given < parts; given++) log.givePart();
      assertMatch(assertThrows(() => log.givePart(), XenblkError).line, FULL);
      assertEquals(log.isOf(tag, { sectors: 8 }), true);
    }
  },
);
