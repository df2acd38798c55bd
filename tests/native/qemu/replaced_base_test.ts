/**
 * Another file takes the place of an image below a disk's snapshots, or of one of their overlays, before they are merged or
 * while they are: nothing is written to that file, it is not removed, the disk goes on, and all is merged once its own file
 * is back.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { EngineRig } from "./engine_rig.ts";
import { faultsOn, merge, remove, snapshotDisk, Writer } from "./overlay_rig.ts";
import { command, daemonTest } from "./rig.ts";

/** A file, and one that takes its place for a while. */
class Replaced {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  replace(): void {
    Deno.renameSync(this.#path, `${this.#path}.own`);
    Deno.copyFileSync(`${this.#path}.own`, `${this.#path}.copy`);
    Deno.copyFileSync(`${this.#path}.copy`, this.#path);
  }

  /** The other file is as it was. */
  async restore(): Promise<void> {
    await command("cmp", this.#path, `${this.#path}.copy`);
    Deno.renameSync(`${this.#path}.own`, this.#path);
  }
}

/** Whoever opens the disk after that has its base open to be read only: QEMU opens it by its path to write to it. */
async function withSnapshots(rig: EngineRig, image: string, ...names: readonly string[]): Promise<void> {
  await using disk = await rig.open(image, { engine: "qemu" });
  for (const snapshot of names) await takeSnapshot([snapshotDisk(disk)], { snapshot });
}

daemonTest("a raw base that is replaced before or during a merge is not written to, and the disk goes on", async () => {
  await using rig = new EngineRig();
  const base = `${rig.folder}/web.raw`;
  await command("qemu-img", "create", "-q", "-f", "raw", base, "64M");
  const other = new Replaced(base);
  let written = 0;
  {
    await withSnapshots(rig, base, "one");
    await using disk = await rig.open(base, { engine: "qemu" });
    await using writer = new Writer(disk);
    writer.start();
    await writer.more(100);
    const { isReplaced } = snapshotDisk(disk).daemon;
    for (const step of ["copy", "begin"]) {
      assertEquals(await isReplaced(base), false);
      const at = (reached: string): void => {
        if (reached === step) other.replace();
      };
      const merging = merge(disk, { at });
      await assertRejects(() => merging, XenblkError, `another file has taken the place of ${base}`);
      assertEquals(await isReplaced(base), true);
      await writer.more(50);
      await other.restore();
    }
    // The overlay is removed by its path once it is merged.
    const overlay = `${rig.folder}/web.one.qcow2`;
    const covered = new Replaced(overlay);
    for (const step of ["copy", "begin"]) {
      const at = (reached: string): void => {
        if (reached === step) covered.replace();
      };
      await assertRejects(() => merge(disk, { at }), XenblkError, `another file has taken the place of ${overlay}`);
      await writer.more(50);
      await covered.restore();
    }
    // What is told of it after the merge is told of the file that was opened, too.
    await merge(disk, {
      at: (step) => {
        if (step === "end") other.replace();
      },
    });
    assertEquals(await isReplaced(base), true);
    await writer.more(50);
    await writer.stop();
    written = writer.count;
    assertEquals(await faultsOn(disk, written), []);
    await other.restore();
  }
  await using disk = await rig.open(base, {}, 1);
  assertEquals(await faultsOn(disk, written), []);
});

daemonTest("neither is one that is replaced before or during a deletion", async () => {
  await using rig = new EngineRig();
  const base = `${rig.folder}/web.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
  const other = new Replaced(base);
  await withSnapshots(rig, `qcow2:${base}`, "one", "two");
  await using disk = await rig.open(`qcow2:${base}`);
  await using writer = new Writer(disk);
  writer.start();
  await writer.more(100);
  for (const step of ["copy", "flush"]) {
    const at = (reached: string): void => {
      if (reached === step) other.replace();
    };
    const removing = remove(disk, { snapshot: "one", at });
    await assertRejects(() => removing, XenblkError, `another file has taken the place of ${base}`);
    await other.restore();
  }
  const overlay = `${rig.folder}/web.one.qcow2`;
  const merged = new Replaced(overlay);
  for (const step of ["copy", "flush"]) {
    const at = (reached: string): void => {
      if (reached === step) merged.replace();
    };
    const removing = remove(disk, { snapshot: "one", at });
    await assertRejects(() => removing, XenblkError, `another file has taken the place of ${overlay}`);
    await merged.restore();
  }
  await remove(disk, { snapshot: "one" });
  await writer.stop();
  assertEquals(await faultsOn(disk, writer.count), []);
});
