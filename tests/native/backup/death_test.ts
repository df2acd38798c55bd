/**
 * Backups whose storage daemon, or whose serving process, is killed at any point: the disk is right, the end is told as it
 * was, and what is missing from the record of changes is never missing from the next backup.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { verifyChain } from "../../../lib/backup/file.ts";
import { command, daemonTest } from "../qemu/rig.ts";
import { BackupRig, JOB, sameContent } from "./rig.ts";

const SLOW = 16 << 20;
const CRAWL = 1 << 20;

daemonTest("the death of the daemon fails the backup, and the next one is a full one that says why", async () => {
  await using rig = new BackupRig();
  await rig.open();
  await rig.write(100);
  await rig.backUp(`${rig.folder}/full.qcow2`);
  for (const [point, pauseMs] of [0, 200].entries()) {
    await rig.start(`${rig.folder}/lost${point}.qcow2`, { incremental: true, bytesPerSecond: CRAWL });
    await rig.writeUntil(new Promise((resolve) => setTimeout(resolve, pauseMs)));
    await rig.engine.killDaemon();
    const { state, error } = await rig.writeUntil(rig.jobs.over(JOB));
    assertEquals(state, "failed");
    assertMatch(error!, /^its storage daemon \(process \d+\) died$/);
    assertEquals(rig.files(/lost|partial|scratch/), []);
    await rig.write(20);
    const reference = await rig.copy(`reference${point}`);
    const target = `${rig.folder}/next${point}.qcow2`;
    const { note, state: end } = await rig.backUp(target, { incremental: true });
    assertEquals(end, "completed");
    assertMatch(note!, /^a full backup, not an incremental one: .*the storage daemon (had died|has died since)$/);
    await sameContent(target, "qcow2", reference);
    await verifyChain(target);
  }
  const reference = await rig.copy("reference");
  await rig.backUp(`${rig.folder}/last.qcow2`, { incremental: true });
  await sameContent(`${rig.folder}/last.qcow2`, "qcow2", reference);
  await rig.close();
  await command("qemu-img", "check", "-q", rig.image);
});

daemonTest("after the kill of our process the next one completes the backup, wherever the first one was", async () => {
  await using rig = new BackupRig();
  await rig.open();
  await rig.write(100);
  const made: (readonly [string, string])[] = [];
  for (const [round, at] of (["running", "ended", "named"] as const).entries()) {
    const reference = await rig.copy(`reference${round}`);
    const target = `${rig.folder}/backup${round}.qcow2`;
    const dies = Promise.withResolvers<void>();
    if (at !== "running") rig.dieAt(at, dies.resolve);
    await rig.start(target, { incremental: round > 0, bytesPerSecond: SLOW });
    if (at === "running") dies.resolve();
    await rig.writeUntil(dies.promise);
    rig.jobs.kill();
    await rig.watch();
    const { state, error, note } = await rig.writeUntil(rig.jobs.over(JOB));
    assertEquals([state, error], ["completed", undefined]);
    assertEquals(note, round === 0 ? "a full backup" : `based on ${made.at(-1)![0]}`);
    made.push([target, reference]);
    await rig.write(10);
  }
  for (const [target, reference] of made) await sameContent(target, "qcow2", reference);
  assertEquals((await verifyChain(made.at(-1)![0])).length, 3);
  assertEquals(rig.files(/partial|scratch/), []);
});

daemonTest(
  "of a backup whose process and daemon were killed, the next process tells that it failed, and removes it",
  async () => {
    await using rig = new BackupRig();
    await rig.open();
    await rig.write(100);
    await rig.start(`${rig.folder}/lost.qcow2`, { bytesPerSecond: CRAWL });
    rig.jobs.kill();
    await rig.engine.killDaemon();
    assertEquals(rig.files(/partial/).length, 1);
    await rig.watch();
    const { state, error } = await rig.writeUntil(rig.jobs.over(JOB));
    assertEquals(state, "failed");
    assertMatch(error!, /^its storage daemon \(process \d+\) died$/);
    assertEquals(rig.files(/lost|partial|scratch/), []);
  },
);

daemonTest(
  "of a backup that has its name when both are killed, the next process tells that it is complete",
  async () => {
    await using rig = new BackupRig();
    await rig.open();
    await rig.write(100);
    const reference = await rig.copy("reference");
    const target = `${rig.folder}/named.qcow2`;
    const dies = Promise.withResolvers<void>();
    rig.dieAt("named", dies.resolve);
    await rig.start(target);
    await rig.writeUntil(dies.promise);
    rig.jobs.kill();
    await rig.engine.killDaemon();
    await rig.watch();
    const { state, error } = await rig.writeUntil(rig.jobs.over(JOB));
    assertEquals([state, error], ["completed", undefined]);
    await sameContent(target, "qcow2", reference);
    await verifyChain(target);
  },
);
