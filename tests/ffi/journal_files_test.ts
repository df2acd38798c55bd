/**
 * Journals as mapped files: what was stored is there for the next mapping, and errors come with a remedy.
 */

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { JournalFiles } from "../../ffi/linux/journal_files.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { XenblkError } from "../../lib/errors.ts";
import { runScript } from "./child.ts";

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

Deno.test("a journal is open once: who opens it again is refused until it is unmapped", () => {
  const directory = Deno.makeTempDirSync();
  const [ours, theirs] = [new JournalFiles(directory), new JournalFiles(directory)];
  {
    using journal = ours.open("a", 5000);
    journal.view[7] = 1;
    for (const lengthBytes of [5000, 6000]) {
      const error = assertThrows(() => theirs.open("a", lengthBytes), XenblkError, "has it open");
      assertMatch(error.line, /end that process first$/);
    }
    assertEquals(journal.view[7], 1);
  }
  {
    using journal = theirs.open("a", 5000);
    assertEquals(journal.view[7], 1);
  }
  Deno.removeSync(directory, { recursive: true });
});

Deno.test("a process that is killed leaves its journals to the next one at once, with what it stored", async () => {
  const directory = Deno.makeTempDirSync();
  const script = `
    import { JournalFiles } from "./ffi/linux/journal_files.ts";
    new JournalFiles(${JSON.stringify(directory)}).open("a", 5000).view[7] = 3;
    Deno.kill(Deno.pid, "SIGKILL");`;
  await runScript(script, ["-A"]);
  using journal = new JournalFiles(directory).open("a", 5000);
  assertEquals(journal.view[7], 3);
  Deno.removeSync(directory, { recursive: true });
});

Deno.test("a journal is not made through a symbolic link, and what the link names keeps its contents", () => {
  const directory = Deno.makeTempDirSync();
  for (const contents of ["short", "x".repeat(4096)]) {
    Deno.writeTextFileSync(`${directory}/victim`, contents);
    Deno.symlinkSync("victim", `${directory}/a`);
    assertThrows(() => new JournalFiles(directory).open("a", 4096), XenblkError, `Cannot keep ${directory}/a: `);
    assertEquals(Deno.readTextFileSync(`${directory}/victim`), contents);
    Deno.removeSync(`${directory}/a`);
  }
  Deno.removeSync(directory, { recursive: true });
});

Deno.test("a sparse file gets its blocks and keeps its contents", () => {
  const directory = Deno.makeTempDirSync();
  Deno.writeFileSync(`${directory}/a`, Uint8Array.of(5));
  Deno.truncateSync(`${directory}/a`, 3 * 4096);
  {
    using journal = new JournalFiles(directory).open("a", 3 * 4096);
    assertEquals([journal.view[0], journal.view[1]], [5, 0]);
    assertEquals(Deno.statSync(`${directory}/a`).blocks, 3 * 8);
  }
  Deno.removeSync(directory, { recursive: true });
});

Deno.test("parts of a journal take blocks while they are reserved, and leave no descriptor", () => {
  const directory = Deno.makeTempDirSync();
  const descriptors = (): number => [...Deno.readDirSync("/proc/self/fd")].length;
  const blocks = (): number => Deno.statSync(`${directory}/a`).blocks!;
  const before = descriptors();
  {
    using journal = new JournalFiles(directory).open("a", 16 * 4096, 4096);
    assertEquals([journal.view.byteLength, blocks()], [16 * 4096, 8]);
    journal.reserve(8 * 4096, 2 * 4096);
    journal.view[8 * 4096] = 5;
    assertEquals(blocks(), 3 * 8);
  }
  {
    using journal = new JournalFiles(directory).open("a", 16 * 4096, 4096);
    journal.reserve(8 * 4096, 2 * 4096);
    assertEquals([journal.view[8 * 4096], blocks()], [5, 3 * 8]);
    journal.release(4096, 15 * 4096);
    assertEquals(blocks(), 8);
    journal.reserve(8 * 4096, 2 * 4096);
    assertEquals(journal.view[8 * 4096], 0);
  }
  assertEquals(descriptors(), before);
  Deno.removeSync(directory, { recursive: true });
});

Deno.test("without a descriptor left, the error of a journal and of a lock names the limit", async () => {
  const directory = Deno.makeTempDirSync();
  const script = `
    import { JournalFiles } from "./ffi/linux/journal_files.ts";
    const files = new JournalFiles(${JSON.stringify(directory)});
    using _journal = files.open("a", 4096); // what is loaded lazily is loaded now
    await new Deno.Command("prlimit", { args: ["--pid", String(Deno.pid), "--nofile=64:64"] }).output();
    try {
      for (;;) Deno.openSync("/dev/null");
    } catch { /* none is left */ }
    for (const act of [() => files.open("b", 4096), () => files.lock("c.lock")]) {
      try {
        act();
        console.log("no error");
      } catch (error) {
        console.log(error.line);
      }
    }`;
  const { stdout } = await runScript(script, ["-A"]);
  const said = stdout.trim().split("\n");
  assertEquals(said.length, 2, stdout);
  for (const line of said) assertMatch(line, /^Cannot keep .*Too many open files.*; raise the limit of open files/);
  Deno.removeSync(directory, { recursive: true });
});
