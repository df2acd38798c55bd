/**
 * A disk goes by mirrors from one image to a larger one in each format that is served, while its guest writes: so a disk of
 * any format grows, and changes its image, without a detach.
 */

import { assertEquals } from "@std/assert";
import { SECTOR_BYTES } from "../../../lib/units.ts";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { detach, nodeValue } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { mirrored } from "./mirroring.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";

/** QEMU is slow to write the first, and to derive the key of the second. */
const SLOW = Deno.env.get("XENBLK_NATIVE") === "full" ? ["qcow", "luks"] : [];
/** The last one leaves the storage daemon. */
const FORMATS = ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", ...SLOW, "qcow2", "raw"];
const STEP_MIB = 8;

nativeTest(`a disk grows from each of ${FORMATS.length + 1} formats to the next while its guest writes`, async () => {
  await using stage = await FormatStage.open("qcow2");
  const { xen, device, folder } = stage;
  const key = `${folder}/key`;
  Deno.writeTextFileSync(key, "correct horse");
  const backend = stage.serve("--allow-image", key);
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  let path = stage.image;
  for (const [index, format] of FORMATS.entries()) {
    await assertProgress(stage.disk, 100);
    path = `${folder}/next.${format}`;
    const secret = ["--object", `secret,id=key,file=${key}`, "-o", "key-secret=key,iter-time=10"];
    const options = format === "luks" ? secret : [];
    await qemuImg("create", "-q", "-f", format, ...options, path, `${64 + (index + 1) * STEP_MIB}M`);
    await mirrored(
      stage,
      backend,
      format === "luks" ? `format=luks,passphrase-file=${key},target=${path}` : `${format}:${path}`,
    );
    const opened = format === "luks" ? 64 + (index + 1) * STEP_MIB << 20 : await sizeOf(format, path);
    const sectors = await nodeValue(xen, `${backendPath(device)}/sectors`);
    assertEquals(Number(sectors) * SECTOR_BYTES, opened, format);
  }
  await assertProgress(stage.disk, 100);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  assertEquals(await stage.daemons(), []);
  await detach(xen, device);
  assertEquals((await stage.disk.verify(path)).miscompares, 0);
  assertEquals(await backend.stop(), 0, backend.messages);
});

/** The disk's: some formats round it up. */
async function sizeOf(format: string, path: string): Promise<number> {
  return JSON.parse(await qemuImg("info", "-U", "--output=json", "-f", format, path))["virtual-size"];
}
