/**
 * Backups to block devices: a full one, raw or qcow2, has the disk's content; an incremental one is refused; and a device
 * that is too small or in use is not written to.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { orderMirror } from "../../../lib/jobs/mirror.ts";
import { administer, LoopDevice } from "../isolation/media.ts";
import { command, daemonTest } from "../qemu/rig.ts";
import { BackupRig, checkDevice, DEVICE, sameContent } from "./rig.ts";

// The libraries that it loads stay loaded.
const warm = Deno.makeTempFileSync();
Deno.truncateSync(warm, 512);
await checkDevice(warm).finally(() => Deno.removeSync(warm));

/** Slow enough for a guest to overwrite much of a disk of 8 MiB meanwhile. */
const SLOW = 16 << 20;

/** A loop device of that size, over a file that has ones. */
async function device(rig: BackupRig, name: string, mib: number): Promise<LoopDevice> {
  const file = `${rig.folder}/${name}`;
  Deno.writeFileSync(file, new Uint8Array(mib << 20).fill(1));
  return await LoopDevice.over(file);
}

daemonTest(
  "a block device takes a full backup, raw or qcow2, of a disk that is written to, and no incremental one",
  async () => {
    await using rig = new BackupRig();
    await rig.open();
    await rig.write(200);
    await using raw = await device(rig, "raw-medium", 12);
    await using qcow2 = await device(rig, "qcow2-medium", 16);
    for (const [target, format] of [[raw.path, "raw"], [`qcow2:${qcow2.path}`, "qcow2"]] as const) {
      const reference = await rig.copy(`reference-${format}`);
      const { state, error, note } = await rig.backUp(target, { bytesPerSecond: SLOW });
      assertEquals([state, error], ["completed", undefined]);
      assertEquals(note, "a full backup; to be followed by an incremental one, it has to be a qcow2 file");
      const copy = `${rig.folder}/copy-${format}`;
      await command("qemu-img", "convert", "-f", format, "-O", "raw", target.replace(/^qcow2:/, ""), copy);
      if (format === "raw") await Deno.truncate(copy, 8 << 20);
      await sameContent(copy, "raw", reference);
    }
    const medium = Deno.readFileSync(raw.path);
    assert(medium.subarray(8 << 20).every((byte) => byte === 1), "what is behind the backup stays as it was");
    for (const target of [raw.path, `qcow2:${raw.path}`]) {
      await assertRejects(
        () => rig.start(target, { incremental: true }),
        XenblkError,
        "an incremental backup is a qcow2 file",
      );
    }
    assertEquals(Deno.readFileSync(raw.path), medium, "nothing is written");
  },
);

daemonTest("a block device that is too small, or in use, is refused and stays as it was", async () => {
  await using rig = new BackupRig();
  await rig.open();
  await rig.write(50);
  await using small = await device(rig, "small-medium", 4);
  await assertRejects(() => rig.start(small.path), XenblkError, "it is smaller than the disk");
  assert(Deno.readFileSync(`${rig.folder}/small-medium`).every((byte) => byte === 1));
  await using mounted = await device(rig, "mounted-medium", 8);
  await administer("mkfs.ext4", "-q", mounted.path);
  const mount = `${rig.folder}/mount`;
  Deno.mkdirSync(mount);
  await administer("mount", mounted.path, mount);
  try {
    for (const target of [mounted.path, `qcow2:${mounted.path}`]) {
      await assertRejects(() => rig.start(target), XenblkError, `it is mounted at ${mount}`);
    }
    const mirror = {
      device: DEVICE,
      daemon: rig.disk.disk.daemon!,
      rings: 1,
      timeoutMs: 1000,
      allowImages: ["/dev/**"],
    };
    const params = `raw:${mounted.path}`;
    await assertRejects(
      () => orderMirror({ ...mirror, params, checkUnused: checkDevice }),
      XenblkError,
      `it is mounted at ${mount}`,
    );
  } finally {
    await administer("umount", mount);
  }
  await administer("fsck.ext4", "-f", "-n", mounted.path);
});
