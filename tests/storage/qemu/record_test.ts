/**
 * A daemon's run directory: its record, replaced as a whole, the names in it, and the longest path of a socket.
 */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { type DaemonRecord, directoryName, guestOfDirectory, RunDirectory } from "../../../lib/storage/qemu/record.ts";
import { hasEnded, identify, isAlive, signal } from "../../../lib/storage/qemu/process.ts";
import { Folder } from "../rig.ts";

const RECORD: DaemonRecord = {
  version: 1,
  guest: 5,
  process: { pid: 812, startTime: "77", bootId: "b" },
  qemu: "7.2.22",
  rooted: true,
  disks: {},
  lost: {},
};

Deno.test("a record is read as it was written; none, a damaged and a foreign one are no record", async () => {
  using folder = new Folder();
  const directory = new RunDirectory(folder.path, "5");
  assertEquals(await directory.read(), undefined);
  await directory.prepare();
  await directory.write(RECORD);
  assertEquals(await directory.read(), RECORD);
  assertEquals(Deno.statSync(directory.path).mode! & 0o777, 0o700);
  assertEquals(Deno.statSync(`${directory.path}/record.json`).mode! & 0o777, 0o600);
  for (const text of ["{", "", `{"version": 2}`]) {
    Deno.writeTextFileSync(`${directory.path}/record.json`, text);
    assertEquals(await directory.read(), undefined, text);
  }
  await directory.remove();
  assertEquals([...Deno.readDirSync(folder.path)], []);
});

Deno.test("a record that cannot be written says where and what to do", async () => {
  using folder = new Folder();
  const directory = new RunDirectory(folder.file("file", 0), "5");
  const error = await assertRejects(
    () => directory.write(RECORD),
    XenblkError,
    "Cannot keep the storage daemon's files in",
  );
  assertEquals(error.remedy?.includes("XENBLK_JOURNAL_DIR"), true);
});

Deno.test("a directory's name tells the guest, and other names are nobody's", () => {
  assertEquals([directoryName(5), directoryName(5, "vbd3/5/51712")], ["5", "5.vbd3-5-51712"]);
  assertEquals(["5", "5.vbd3-5-51712", "0"].map(guestOfDirectory), [5, 5, 0]);
  assertEquals(["probe", "05", "5.", "5/..", "", "5.a/b"].map(guestOfDirectory), Array(6).fill(undefined));
});

Deno.test("a socket's path has at most 107 bytes", () => {
  const rest = "/5/io/vbd3-5-51712".length;
  assertEquals(new RunDirectory(`/${"é".repeat((106 - rest) / 2)}`, "5").socket("vbd3/5/51712").length < 107, true);
  const error = assertThrows(
    () => new RunDirectory("/".padEnd(108 - rest, "x"), "5").socket("vbd3/5/51712"),
    XenblkError,
  );
  assertEquals(/it has 108 bytes, and the kernel takes 107/.test(error.message), true, error.message);
});

Deno.test("a process is known by its start, not by its number", async () => {
  const child = new Deno.Command("sleep", { args: ["1000"] }).spawn();
  const identity = (await identify(child.pid))!;
  assertEquals(await isAlive(identity), true);
  const other = { ...identity, startTime: `${identity.startTime}0` };
  assertEquals([await isAlive(other), await isAlive({ ...identity, bootId: "another" })], [false, false]);
  await signal(other, "SIGKILL");
  assertEquals(await hasEnded(identity, 0), false);
  await signal(identity, "SIGKILL");
  assertEquals(await hasEnded(identity, 10_000), true);
  await child.status;
});
