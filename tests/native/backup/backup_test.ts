/**
 * Backups of a disk while its guest writes: each has the disk's content at its instant, and the guest notices nothing of
 * what becomes of it.
 */

import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { verifyChain } from "../../../lib/backup/file.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { command, daemonTest, until } from "../qemu/rig.ts";
import { BackupRig, JOB, NbdServer, sameContent } from "./rig.ts";

/** Slow enough for a guest to overwrite much of a disk of 8 MiB meanwhile. */
const SLOW = 16 << 20;
/** Slow enough to be still running whenever something is done to it. */
const CRAWL = 1 << 20;

daemonTest(
  "a full and three incremental backups of a disk that is written to have its content at their instants",
  async () => {
    await using rig = new BackupRig();
    await rig.open();
    await rig.write(200);
    const made: (readonly [backup: string, reference: string])[] = [];
    for (let round = 0; round < 4; round++) {
      const reference = await rig.copy(`reference${round}`);
      const target = `${rig.folder}/backup${round}.qcow2`;
      const { state, error, note } = await rig.backUp(target, { incremental: round > 0, bytesPerSecond: SLOW });
      assertEquals([state, error], ["completed", undefined]);
      assertEquals(note, round === 0 ? "a full backup" : `based on ${made.at(-1)![0]}`);
      made.push([target, reference]);
      await rig.write(20);
    }
    await rig.start(`${rig.folder}/backup4.qcow2`, { incremental: true });
    await rig.readUntil(rig.jobs.over(JOB));
    await rig.disk.write(1 << 20, new Uint8Array(4096).fill(1));
    const reference = await rig.copy("reference5");
    await rig.start(`${rig.folder}/backup5.qcow2`, { incremental: true });
    await rig.readUntil(rig.jobs.over(JOB));
    made.push([`${rig.folder}/backup5.qcow2`, reference]);
    for (const [backup, reference] of made) await sameContent(backup, "qcow2", reference);
    const chain = await verifyChain(made.at(-1)![0]);
    assertEquals(chain.length, 6);
    assertEquals(chain[0]!.allocatedBytes < 1 << 20, true, "one block has changed");
    assertEquals(chain.at(-1)!.allocatedBytes > 4 << 20, true);
    assertEquals(rig.files(/partial|scratch/), []);
    assertEquals(rig.engine.warnings, []);
  },
);

daemonTest(
  "a backup that is cancelled or fails leaves nothing, and the next incremental one misses no change",
  async () => {
    await using rig = new BackupRig();
    const small = await rig.tmpfs("1m");
    await rig.open();
    await rig.write(100);
    await rig.backUp(`${rig.folder}/full.qcow2`);
    await rig.write(20);
    await rig.start(`${rig.folder}/cancelled.qcow2`, { incremental: true, bytesPerSecond: 4096 });
    await rig.write(20);
    const resizing = assertRejects(() => rig.disk.disk.grow!(16 << 20), XenblkError, "Cannot resize");
    assertStringIncludes((await rig.writeUntil(resizing)).remedy!, "wait for the disk's backup");
    await rig.write(20);
    assertEquals((await rig.writeUntil(rig.jobs.jobs.cancel(JOB))).state, "cancelled");
    await rig.write(100);
    const scratch = rig.folder;
    const { state, error } = await rig.backUp(`${small}/full.qcow2`, { incremental: true, scratch });
    assertEquals(state, "failed");
    assertMatch(error!, /No space left on device/);
    assertEquals(rig.files(/cancelled|partial|scratch/), []);
    assertEquals([...Deno.readDirSync(small)], []);
    const reference = await rig.copy("reference");
    const { note } = await rig.backUp(`${rig.folder}/next.qcow2`, { incremental: true });
    assertEquals(note, `based on ${rig.folder}/full.qcow2`);
    await sameContent(`${rig.folder}/next.qcow2`, "qcow2", reference);
    assertEquals(rig.engine.warnings.filter((line) => !line.includes("No space left on device")), []);
  },
);

daemonTest("without room for what the guest overwrites the backup fails, and the guest goes on", async () => {
  await using rig = new BackupRig();
  const small = await rig.tmpfs("1m");
  await rig.open();
  await rig.write(200);
  const { state, error } = await rig.backUp(`${rig.folder}/full.qcow2`, { scratch: small, bytesPerSecond: CRAWL });
  assertEquals(state, "failed");
  assertStringIncludes(error!, "the guest overwrote data faster than it could be kept for the backup");
  assertEquals(rig.files(/full|scratch/), []);
  await rig.write(20);
});

daemonTest(
  "an NBD server that stops delays the backup and not the guest; one that is killed fails the backup",
  async () => {
    await using rig = new BackupRig();
    await rig.open();
    await rig.write(200);
    const reference = await rig.copy("reference");
    await using first = await NbdServer.start(rig.folder, "first", 8);
    await rig.start(first.uri, { bytesPerSecond: SLOW });
    first.signal("SIGSTOP");
    await rig.write(300);
    first.signal("SIGCONT");
    const { state, note } = await rig.writeUntil(rig.jobs.over(JOB));
    assertEquals(state, "completed");
    assertStringIncludes(note!, "to be followed by an incremental one, it has to be a qcow2 file");
    await first[Symbol.asyncDispose]();
    await sameContent(first.file, "raw", reference);
    await using second = await NbdServer.start(rig.folder, "second", 8);
    await rig.start(second.uri, { bytesPerSecond: CRAWL });
    second.signal("SIGKILL");
    const { state: end, error } = await rig.writeUntil(rig.jobs.over(JOB));
    assertEquals(end, "failed");
    assertMatch(error!, /; the target is incomplete$/);
    assertEquals(rig.engine.warnings.filter((line) => !line.includes("default block size of 65536")), []);
  },
);

daemonTest("what cannot be a backup, or based on one, is said", async () => {
  await using rig = new BackupRig();
  await rig.open();
  await rig.write(20);
  const refused = (target: string, why: string, more = {}): Promise<unknown> =>
    assertRejects(() => rig.start(target, more), XenblkError, why);
  await refused("b.qcow2", "neither an absolute path nor an nbd:// URI");
  await refused(rig.image, "it exists");
  await refused(`${rig.folder}/b`, "its name does not tell its format");
  await refused(`${rig.folder}/b.img`, "an incremental backup is a qcow2 file", { incremental: true });
  await refused(`${rig.folder}/none/b.qcow2`, "No such file or directory");
  await rig.backUp(`${rig.folder}/a.qcow2`);
  await rig.backUp(`${rig.folder}/b.raw`);
  Deno.renameSync(`${rig.folder}/a.qcow2`, `${rig.folder}/moved.qcow2`);
  const gone = await rig.backUp(`${rig.folder}/c.qcow2`, { incremental: true });
  assertMatch(gone.note!, /^a full backup, not an incremental one: Cannot read backup .*a\.qcow2: .*No such file/);
  Deno.renameSync(`${rig.folder}/moved.qcow2`, `${rig.folder}/c.qcow2`);
  const other = await rig.backUp(`${rig.folder}/d.qcow2`, { incremental: true });
  assertMatch(
    other.note!,
    /^a full backup, not an incremental one: .*c\.qcow2 is not the backup that was made there last$/,
  );
  await rig.backUp(`${rig.folder}/e.qcow2`, { incremental: true });
  await verifyChain(`${rig.folder}/e.qcow2`);
  Deno.renameSync(`${rig.folder}/c.qcow2`, `${rig.folder}/d.qcow2`);
  await assertRejects(() => verifyChain(`${rig.folder}/e.qcow2`), XenblkError, "is another backup than the one");
  await assertRejects(() => verifyChain(rig.image), XenblkError, "is no backup that was completed");
});

daemonTest("a raw image that a daemon serves has full backups, and says that it keeps no record", async () => {
  await using rig = new BackupRig();
  await rig.open(8, `raw:${rig.image}`);
  await rig.write(100);
  const reference = await rig.copy("reference");
  const { state, note } = await rig.backUp(`${rig.folder}/full.qcow2`, { incremental: true, bytesPerSecond: SLOW });
  assertEquals([state, note], [
    "completed",
    "a full backup, not an incremental one: only a qcow2 image can hold a record of changes",
  ]);
  await sameContent(`${rig.folder}/full.qcow2`, "qcow2", reference);
  const own = { description: "raw:/a", properties: rig.disk.disk.properties, attachment: rig.disk.disk.attachment };
  const disk = { ...own, [Symbol.asyncDispose]: () => Promise.resolve() };
  await assertRejects(() => rig.start(`${rig.folder}/b.qcow2`, {}, disk), XenblkError, "no storage daemon serves it");
});

daemonTest("records of changes outlive a disk that is closed in good order", async () => {
  await using rig = new BackupRig();
  await rig.open();
  await rig.write(100);
  await rig.backUp(`${rig.folder}/full.qcow2`);
  await rig.write(20);
  await rig.close();
  await rig.open();
  await rig.write(20);
  const reference = await rig.copy("reference");
  const { note } = await rig.backUp(`${rig.folder}/next.qcow2`, { incremental: true });
  assertEquals(note, `based on ${rig.folder}/full.qcow2`);
  await sameContent(`${rig.folder}/next.qcow2`, "qcow2", reference);
  // A disk that is closed in the middle of a backup: what was begun is as if it had not been.
  await rig.start(`${rig.folder}/never.qcow2`, { incremental: true, bytesPerSecond: 4096 });
  await rig.write(20);
  await rig.close();
  assertEquals(rig.files(/never/), []);
  await rig.open();
  const [job] = rig.jobs.jobs.reports();
  assertEquals([job!.state, job!.error], ["cancelled", "its disk was closed"]);
  const later = await rig.copy("later");
  assertEquals(
    (await rig.backUp(`${rig.folder}/later.qcow2`, { incremental: true })).note,
    `based on ${rig.folder}/next.qcow2`,
  );
  await sameContent(`${rig.folder}/later.qcow2`, "qcow2", later);
  await command("qemu-img", "check", "-q", `${rig.folder}/later.qcow2`);
  await until("nothing is left", () => rig.files(/partial|scratch/).length === 0);
});
