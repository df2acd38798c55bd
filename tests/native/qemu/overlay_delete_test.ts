/**
 * One snapshot is given up under a writer, in the middle of the chain or at an end of it: the others hold what they held,
 * and an image that other disks share is not written to.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { activeImage } from "../../../lib/storage/image/overlay_note.ts";
import { chainBelow } from "../../../lib/storage/qemu/overlay_chain.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { planReversal } from "../../../lib/storage/qemu/overlay_revert.ts";
import { EngineRig } from "./engine_rig.ts";
import { faultsOn, remove, snapshotDisk, snapshotNames, Writer } from "./overlay_rig.ts";
import { command, daemonTest } from "./rig.ts";

async function newImage(path: string, ...more: string[]): Promise<string> {
  await command("qemu-img", "create", "-q", "-f", "qcow2", ...more, path, "64M");
  return path;
}

daemonTest("a snapshot in the middle and one at each end are given up; the others hold what they held", async () => {
  await using rig = new EngineRig();
  const base = await newImage(`${rig.folder}/web.qcow2`);
  const held = new Map<string, number>();
  let written = 0;
  {
    await using disk = await rig.open(`qcow2:${base}`);
    await using writer = new Writer(disk);
    for (const snapshot of ["one", "two", "three", "four", "five"]) {
      writer.start();
      await writer.more(100);
      await writer.stop();
      held.set(snapshot, writer.count);
      await takeSnapshot([snapshotDisk(disk)], { snapshot });
    }
    await rig.killDaemon(); // the next one opens all but the newest overlay to be read
    writer.start();
    for (const snapshot of ["three", "one", "five"]) {
      await writer.more(50);
      const { removed } = await remove(disk, { snapshot });
      assertEquals(removed, [`${rig.folder}/web.${snapshot}.qcow2`]);
    }
    await writer.more(50);
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "three" }); // its name is free again
    await writer.more(50);
    await writer.stop();
    written = writer.count;
    assertEquals(await faultsOn(disk, written), []);
    const { layers } = snapshotDisk(disk).daemon;
    assertEquals(Object.keys(layers).length, 4, "what was merged is open no more");
  }
  assertEquals(await snapshotNames(base), ["three", "four", "two"]);
  const { target } = await activeImage({ format: "qcow2", target: base }, true);
  for (const { snapshot, base: image } of await chainBelow(target)) {
    if (snapshot === "three") continue;
    await using disk = await rig.open(`qcow2:${image}`, { readOnly: true }, 1);
    assertEquals(await faultsOn(disk, held.get(snapshot)!), [], snapshot);
  }
  await using disk = await rig.open(`qcow2:${rig.folder}/web.three.qcow2`, {}, 1);
  assertEquals(await faultsOn(disk, written), []);
});

daemonTest("the image below is complete in its file before the overlay above names it", async () => {
  await using rig = new EngineRig();
  const base = await newImage(`${rig.folder}/web.qcow2`);
  await using disk = await rig.open(`qcow2:${base}`);
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
  await disk.write(0, new Uint8Array(8 << 20).fill(1));
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" });
  let compared = "";
  const at = async (step: string): Promise<void> => {
    if (step !== "note") return;
    // QEMU keeps tables of an image in its memory as long as nothing has it flushed. Copies have no locks.
    const copies = `${rig.folder}/copies`;
    Deno.mkdirSync(copies);
    for (const file of ["web.qcow2", "web.one.qcow2"]) Deno.copyFileSync(`${rig.folder}/${file}`, `${copies}/${file}`);
    compared = await command("qemu-img", "compare", `${copies}/web.one.qcow2`, `${copies}/web.qcow2`);
  };
  await remove(disk, { snapshot: "one", at });
  assertEquals(compared.trim(), "Images are identical.");
});

daemonTest("an image that other disks share is not written to, whatever is given up above it", async () => {
  await using rig = new EngineRig();
  const golden = await newImage(`${rig.folder}/golden.qcow2`);
  await command("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", golden);
  const before = Deno.readFileSync(golden);
  const [one, other] = await Promise.all(
    ["web", "db"].map((name) => newImage(`${rig.folder}/${name}.qcow2`, "-b", golden, "-F", "qcow2")),
  );
  await using disk = await rig.open(`qcow2:${one}`);
  await using neighbour = await rig.open(`qcow2:${other}`);
  await disk.write(0, new Uint8Array(4096).fill(1));
  for (const snapshot of ["one", "two"]) await takeSnapshot([snapshotDisk(disk)], { snapshot });
  await remove(disk, {}); // the oldest
  assertEquals(await snapshotNames(one!), ["two"]);
  await remove(disk, { snapshot: "two" });
  await assertRejects(() => remove(disk, {}), XenblkError, "Cannot find snapshot");
  assertEquals(await disk.read(0, 4096), new Uint8Array(4096).fill(1));
  assertEquals(await neighbour.read(0, 4096), new Uint8Array(4096).fill(7));
  assertEquals(Deno.readFileSync(golden), before);
});

daemonTest("a snapshot on an image that another disk reads is not given up: QEMU's lock keeps both right", async () => {
  await using rig = new EngineRig();
  const golden = await newImage(`${rig.folder}/golden.qcow2`);
  await using disk = await rig.open(`qcow2:${golden}`);
  for (const snapshot of ["one", "two"]) await takeSnapshot([snapshotDisk(disk)], { snapshot });
  await disk.write(0, new Uint8Array(4096).fill(1));
  await using reader = await rig.open(`qcow2:${golden}`, { readOnly: true });
  const { message } = await assertRejects(() => remove(disk, { snapshot: "one" }), Error);
  assertEquals(message, `Cannot merge snapshots of xvda into ${golden}: Failed to get "write" lock`);
  await activeImage({ format: "qcow2", target: golden }, false); // the snapshot is still one
  assertEquals(await reader.read(0, 4096), new Uint8Array(4096));
  assertEquals(await snapshotNames(golden), ["two", "one"]);
});

daemonTest("a full image below ends the merge, and the disk and the later snapshots stay", async () => {
  const mount = Deno.makeTempDirSync({ prefix: "xenblk-full-" });
  await command("mount", "-t", "tmpfs", "-o", "size=10m", "xenblk-test", mount);
  try {
    await using rig = new EngineRig();
    const base = await newImage(`${mount}/web.qcow2`);
    await using disk = await rig.open(`qcow2:${base}`);
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
    const data = new Uint8Array(6 << 20).fill(1);
    await disk.write(0, data);
    await disk.flush();
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" });
    await assertRejects(() => remove(disk, { snapshot: "one" }), XenblkError, "No space left");
    assertEquals(await disk.read(0, data.length), data);
    const { target } = await activeImage({ format: "qcow2", target: base }, true);
    const links = await chainBelow(target);
    assertEquals(links.map(({ snapshot, merging }) => [snapshot, merging !== undefined]), [["two", false], [
      "one",
      true,
    ]]);
    await assertRejects(() => planReversal(base, "one"), XenblkError, "merged in part");
    assertEquals((await planReversal(base, "two")).base, `${mount}/web.one.qcow2`);
  } finally {
    await command("umount", mount);
    Deno.removeSync(mount);
  }
});

daemonTest("a deletion that was ended leaves the disk, and can be repeated; also on a raw image", async () => {
  await using rig = new EngineRig();
  const base = `${rig.folder}/web.img`;
  await command("truncate", "-s", "64M", base);
  await using disk = await rig.open(base, { engine: "qemu" });
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
  await disk.write(0, new Uint8Array(16 << 20).fill(2));
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" });
  const stop = new AbortController();
  const onProgress = (done: number): void => {
    if (done > 0) stop.abort(new Error("enough"));
  };
  const slow = { snapshot: "one", bytesPerSecond: 4 << 20, signal: stop.signal, onProgress };
  await assertRejects(() => remove(disk, slow), Error, "enough");
  assertEquals(await disk.read(0, 4096), new Uint8Array(4096).fill(2));
  await assertRejects(() => activeImage({ format: "raw", target: base }, false), XenblkError, "merged in part");
  await remove(disk, { snapshot: "one" });
  assertEquals(await activeImage({ format: "raw", target: base }, false), { format: "raw", target: base });
  const gone = { format: "qcow2", target: `${rig.folder}/web.one.qcow2` };
  assertEquals((await activeImage(gone, true)).target, `${rig.folder}/web.two.qcow2`);
  assertEquals((await activeImage(gone, false)).target, base);
});

daemonTest("a snapshot that was prepared before another one was given up is refused, and leaves nothing", async () => {
  await using rig = new EngineRig();
  const base = await newImage(`${rig.folder}/web.qcow2`);
  let written = 0;
  {
    await using disk = await rig.open(`qcow2:${base}`);
    await using writer = new Writer(disk);
    writer.start();
    for (const snapshot of ["one", "two"]) {
      await writer.more(50);
      await takeSnapshot([snapshotDisk(disk)], { snapshot });
    }
    const at = async (step: string): Promise<void> => {
      if (step === "made") await remove(disk, { snapshot: "one" });
    };
    const taking = (): Promise<unknown> => takeSnapshot([snapshotDisk(disk)], { snapshot: "three", at });
    await assertRejects(taking, XenblkError, "has changed the disk's images meanwhile");
    const mounts = Deno.readTextFileSync(`/proc/${rig.daemon}/mountinfo`);
    assertEquals(
      [mounts.includes(base), mounts.includes("web.three.qcow2")],
      [true, false],
      "what the daemon can reach",
    );
    await writer.more(50);
    await writer.stop();
    written = writer.count;
  }
  const overlays = [...Deno.readDirSync(rig.folder)].filter(({ name }) => /^web\..*\.qcow2$/.test(name));
  assertEquals(overlays.map(({ name }) => name), ["web.two.qcow2"]);
  await using disk = await rig.open(`qcow2:${base}`, {}, 1);
  assertEquals(await faultsOn(disk, written), []);
});
