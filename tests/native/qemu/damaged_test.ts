/**
 * Work on a disk while QEMU has "ejected" the damaged image of another disk of the same guest: its list of nodes then fails.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { topNode } from "../../../lib/backup/changes.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { DiskExport } from "../../../lib/storage/disk_export.ts";
import { nodeSize } from "../../../lib/storage/qemu/graph_steps.ts";
import { QmpError } from "../../../lib/storage/qemu/qmp.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { type EngineDisk, EngineRig } from "./engine_rig.ts";
import { merge, snapshotDisk, Writer } from "./overlay_rig.ts";
import { command, daemonTest } from "./rig.ts";

const SIZE = 64 << 20;

/** A disk whose first table of clusters lies where none can, which QEMU finds out with the first read. */
async function openDamaged(rig: EngineRig): Promise<EngineDisk> {
  const path = `${rig.folder}/damaged.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", path, `${SIZE}`);
  {
    using file = Deno.openSync(path, { read: true, write: true });
    const bytes = new DataView(new ArrayBuffer(8));
    file.seekSync(40, Deno.SeekMode.Start); // l1_table_offset, see docs/interop/qcow2.txt
    file.readSync(new Uint8Array(bytes.buffer));
    file.seekSync(bytes.getBigUint64(0), Deno.SeekMode.Start);
    bytes.setBigUint64(0, 0x8000_0000_0005_0200n);
    file.writeSync(new Uint8Array(bytes.buffer));
  }
  const disk = await rig.open(`qcow2:${path}`);
  assert(await disk.tryRead(0, new Uint8Array(4096)) < 0);
  return disk;
}

daemonTest("beside a damaged image another disk has snapshots, merges and exports", async () => {
  await using rig = new EngineRig();
  const path = `${rig.folder}/a.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", path, `${SIZE}`);
  await using disk = await rig.open(`qcow2:${path}`);
  await using _damaged = await openDamaged(rig);
  const { run, top } = disk.disk.daemon!;
  const list = (): Promise<unknown> => run(({ execute }) => execute("query-named-block-nodes", { flat: true }));
  await assertRejects(list, QmpError, "is ejected");
  assertEquals(await run(({ execute }) => nodeSize(execute, top)), SIZE);
  const refused = await assertRejects(() => run((monitor) => topNode(monitor, top)), XenblkError, "is ejected");
  assertMatch(refused.line, /detach that one/);
  await using writer = new Writer(disk);
  writer.start();
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
  assertEquals((await merge(disk, {})).image, `qcow2:${path}`);
  const warn = (line: string): void => void rig.warnings.push(line);
  const options = { disk: "xvda", name: "xvda", scratchDirectory: rig.folder, scratchBytes: SIZE, warn };
  const view = await DiskExport.open(disk.disk.daemon!, options);
  assertEquals(view.sizeBytes, SIZE);
  await view.close({ reason: "asked to", failed: false });
  assertEquals(rig.warnings.filter((line) => line.includes("cannot")), []);
});
