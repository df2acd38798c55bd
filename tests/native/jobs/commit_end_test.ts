/**
 * The end of a merge is told as it is when its daemon dies: what its images' notes say counts, not what the daemon did.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { type CommitDetails, commitKind } from "../../../lib/jobs/commit.ts";
import type { JobOrder } from "../../../lib/jobs/job.ts";
import { activeImage, notePath, readNote, writeNote } from "../../../lib/storage/image/overlay_note.ts";
import { planMerge } from "../../../lib/storage/qemu/overlay_commit.ts";
import type { PlannedMerge } from "../../../lib/storage/qemu/overlay_delete.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { type EngineDisk, EngineRig } from "../qemu/engine_rig.ts";
import { faultsOn, snapshotDisk, Writer } from "../qemu/overlay_rig.ts";
import { command, daemonTest } from "../qemu/rig.ts";
import { deviceOf, JobsRig } from "./rig.ts";

const DEVICE = deviceOf(51712);
/** Of the note beside an image that was merged. */
const INTO = { into: "web.qcow2" };
const ID = "vbd3-5-51712-commit";

/** As the control socket starts it. */
function order({ disk }: EngineDisk, merge: PlannedMerge): JobOrder<CommitDetails> {
  return {
    kind: "commit",
    device: DEVICE,
    daemon: disk.daemon!,
    details: { base: merge.base, overlay: merge.overlay },
    begin: (monitor) => merge.begin(monitor),
    follow: () => merge.follow(),
  };
}

for (const [step, state] of [["catch-up", "failed"], ["begin", "completed"], ["finalize", "completed"]] as const) {
  daemonTest(`the daemon dies at step ${step} of a merge: it has ${state}`, async () => {
    await using rig = new EngineRig();
    const base = `${rig.folder}/web.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
    await using disk = await rig.open(`qcow2:${base}`);
    await using jobs = new JobsRig(rig.folder, { commit: () => Promise.resolve(commitKind) });
    jobs.disks.set(DEVICE, { daemon: disk.disk.daemon });
    await jobs.open();
    await using writer = new Writer(disk);
    writer.start();
    await writer.more(50);
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
    await writer.more(50);
    const merge = await planMerge(snapshotDisk(disk), {
      at: async (reached) => {
        if (reached === step) await rig.killDaemon();
      },
    });
    await jobs.jobs.start(order(disk, merge));
    const job = await jobs.over(ID);
    const { target } = await activeImage({ format: "qcow2", target: base }, true);
    assertEquals([job.state, target === base], [state, state === "completed"], job.error);
    if (state === "failed") assertMatch(job.error!, /died/);
    const isThere = await Deno.lstat(`${rig.folder}/web.one.qcow2`).then(() => true, () => false);
    assertEquals(isThere, state === "failed", "an overlay that was merged is removed");
    await writer.more(50);
    await writer.stop();
    assertEquals(await faultsOn(disk, writer.count), []);
  });
}

daemonTest(
  "a merge that is slower than the guest writes has failed for that reason, and all snapshots stay",
  async () => {
    await using rig = new EngineRig();
    const base = `${rig.folder}/web.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
    await using disk = await rig.open(`qcow2:${base}`);
    await using jobs = new JobsRig(rig.folder, { commit: () => Promise.resolve(commitKind) });
    jobs.disks.set(DEVICE, { daemon: disk.disk.daemon });
    await jobs.open();
    await using writer = new Writer(disk);
    writer.start();
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
    await writer.more(256);
    const merge = await planMerge(snapshotDisk(disk), { bytesPerSecond: 65_536, patienceMs: 1000 });
    await jobs.jobs.start(order(disk, merge));
    const { state, error } = await jobs.over(ID);
    assertEquals(state, "failed", error);
    assertMatch(error!, /the guest has written faster than it was merged for 1 s/);
    const { target } = await activeImage({ format: "qcow2", target: base }, true);
    assertEquals(target, `${rig.folder}/web.one.qcow2`);
    await writer.more(50);
    await writer.stop();
    assertEquals(await faultsOn(disk, writer.count), []);
  },
);

daemonTest("a snapshot in the middle is given up once the overlay above names the image below", async () => {
  await using rig = new EngineRig();
  const { folder } = rig;
  const [base, one] = [`${folder}/web.qcow2`, `${folder}/web.one.qcow2`];
  const note = { version: 1, created: "", baseFormat: "qcow2" } as const;
  const lower = { ...note, snapshot: "one", base: "web.qcow2", overlay: "web.one.qcow2" };
  const upper = { ...note, snapshot: "two", base: "web.one.qcow2", overlay: "web.two.qcow2" };
  const ends = (): Promise<boolean> =>
    commitKind.succeeded!({ device: DEVICE, details: { base, overlay: one }, error: "its storage daemon died" });
  await writeNote(folder, lower);
  for (const [backing, into, isDone] of [[one, {}, false], [one, INTO, false], [base, INTO, true]] as const) {
    const on = ["-u", "-f", "qcow2", "-F", "qcow2", "-b", backing];
    await command("qemu-img", "create", "-q", ...on, `${folder}/web.two.qcow2`, "1M");
    await writeNote(folder, { ...upper, ...into });
    assertEquals(await ends(), isDone);
  }
  // The next step of a deletion, after which the chain says nothing of the image that was merged.
  await writeNote(folder, { ...upper, base: "web.qcow2" });
  for (const image of [base, one]) Deno.writeTextFileSync(`${notePath(image)}.new`, "{");
  Deno.removeSync(`${folder}/web.two.qcow2`); // the overlay above may be given up before somebody asks
  assertEquals(await ends(), true);
  assertEquals((await readNote(one))?.base, "web.qcow2", "its name leads to the image below");
  assertEquals([...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".new")), []);
  assertEquals(await ends(), true);
});
