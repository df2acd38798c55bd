/**
 * What a snapshot leaves whose process or daemon dies in the middle: no overlay that nobody knows of, and a disk that says
 * which image it has.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { EngineRig } from "./engine_rig.ts";
import { snapshotDisk } from "./overlay_rig.ts";
import { command, daemonTest } from "./rig.ts";

daemonTest("what a killed snapshot has made goes when its image is opened; its name can be used again", async () => {
  await using rig = new EngineRig();
  const base = `${rig.folder}/web.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
  const child = new URL("overlay_child.ts", import.meta.url).pathname;
  // As `workUntil` names its snapshots and steps.
  const death = { work: "create", step: "made", victim: "process" };
  const args = ["run", "-A", "--no-check", child, rig.folder, `qcow2:${base}`, JSON.stringify(death)];
  const { signal, stderr } = await new Deno.Command(Deno.execPath(), { args, stderr: "piped" }).output();
  assertEquals(signal, "SIGKILL", new TextDecoder().decode(stderr));
  const files = (): string[] => {
    return [...Deno.readDirSync(rig.folder)].map(({ name }) => name).filter((name) => name.startsWith("web"));
  };
  const [made] = files().filter((name) => /^web\..+\.qcow2$/.test(name));
  assert(made !== undefined, files().join());
  await using disk = await rig.open(`qcow2:${base}`);
  assertEquals(files(), ["web.qcow2"]);
  const snapshot = made.slice("web.".length, -".qcow2".length);
  await takeSnapshot([snapshotDisk(disk)], { snapshot });
  assertEquals(files().toSorted(), [made, "web.qcow2", "web.qcow2.xenblk-snapshot"].toSorted());
});

daemonTest("what said that an overlay was being made goes when the overlay is opened, and that stays", async () => {
  await using rig = new EngineRig();
  const base = `${rig.folder}/web.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
  {
    await using disk = await rig.open(`qcow2:${base}`);
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
  }
  const announcement = `${base}.xenblk-snapshot.making`;
  Deno.writeTextFileSync(announcement, "web.one.qcow2");
  Deno.writeTextFileSync(`${base}.xenblk-snapshot.new`, "");
  await using _disk = await rig.open(`qcow2:${base}`);
  const names = [...Deno.readDirSync(rig.folder)].map(({ name }) => name).filter((name) => name.startsWith("web"));
  assertEquals(names.toSorted(), ["web.one.qcow2", "web.qcow2", "web.qcow2.xenblk-snapshot"]);
});

daemonTest("the daemon dies with a snapshot that counts already: the disk names its overlay", async () => {
  await using rig = new EngineRig();
  const base = `${rig.folder}/web.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
  await using disk = await rig.open(`qcow2:${base}`);
  const names: (string | undefined)[] = [];
  using _listener = disk.disk.watchTrouble!(() => names.push(disk.disk.named));
  const die = async (step: string): Promise<void> => {
    if (step === "transaction") await rig.killDaemon();
  };
  const taking = takeSnapshot([snapshotDisk(disk)], { snapshot: "one", at: die });
  const { message } = await assertRejects(() => taking, XenblkError);
  assertMatch(message, /the disks go on with their overlays/);
  assert(names.includes(`qcow2:${rig.folder}/web.one.qcow2`), names.join());
});
