/**
 * The end of a merge is told as it is when its daemon dies: what its images' notes say counts, not what the daemon did.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { commitKind } from "../../../lib/jobs/commit.ts";
import { activeImage } from "../../../lib/storage/image/overlay_note.ts";
import { planMerge } from "../../../lib/storage/qemu/overlay_commit.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { EngineRig } from "../qemu/engine_rig.ts";
import { faultsOn, snapshotDisk, Writer } from "../qemu/overlay_rig.ts";
import { command, daemonTest } from "../qemu/rig.ts";
import { deviceOf, JobsRig } from "./rig.ts";

const DEVICE = deviceOf(51712);

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
    await jobs.jobs.start({
      kind: "commit",
      device: DEVICE,
      daemon: disk.disk.daemon!,
      details: { base: merge.base, overlay: merge.overlay },
      begin: (monitor) => merge.begin(monitor),
      follow: () => merge.follow(),
    });
    const job = await jobs.over("vbd3-5-51712-commit");
    const { target } = await activeImage({ format: "qcow2", target: base }, true);
    assertEquals([job.state, target === base], [state, state === "completed"], job.error);
    if (state === "failed") assertMatch(job.error!, /died/);
    await writer.more(50);
    await writer.stop();
    assertEquals(await faultsOn(disk, writer.count), []);
  });
}
