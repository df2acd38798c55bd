/**
 * Block devices as targets of `image create` and `image convert`: only with --force, in place, and not while mounted.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { administer, LoopDevice } from "../../native/isolation/media.ts";
import { xenblk } from "../command.ts";
import { namesIn, qemu, testImages } from "./images.ts";

function canLoop(): boolean {
  try {
    return Deno.uid() === 0 && Deno.statSync("/dev/loop-control").isCharDevice === true;
  } catch {
    return false;
  }
}

if (canLoop()) {
  testImages("a block device is written to in place, and only with --force", async (directory) => {
    Deno.writeFileSync(`${directory}/medium`, new Uint8Array(16 << 20));
    await using device = await LoopDevice.over(`${directory}/medium`);
    const { path } = device;
    const refused = await xenblk(["image", "create", `qcow2:${path}`, "8M"]);
    assertEquals([refused.status, refused.stderr], [
      1,
      `xenblk: Cannot create image ${path}: it exists; name another file, or overwrite it with --force\n`,
    ]);
    const { status, stdout, stderr } = await xenblk(["image", "create", `qcow2:${path}`, "8M", "--force"]);
    assertEquals([status, stdout], [0, `qcow2:${path}\n`], stderr);
    assertEquals(JSON.parse(await qemu("qemu-img", "info", "--output=json", path))["format"], "qcow2");

    await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/source`, "4M");
    await qemu("qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", `${directory}/source`);
    const copied = await xenblk(["image", "convert", `${directory}/source`, `raw:${path}`, "--force"]);
    assertEquals(copied.status, 0, copied.stderr);
    await qemu("qemu-io", "-f", "raw", "-c", "read -P 7 1M 1M", path);

    await qemu("qemu-img", "resize", "-q", "-f", "raw", `${directory}/source`, "32M");
    const large = await xenblk(["image", "convert", `${directory}/source`, `raw:${path}`, "--force"]);
    assertEquals(large.status, 1);
    assertMatch(large.stderr, /Cannot grow device files; name a device that is as large as the image\n$/);
    assertEquals(namesIn(directory), ["medium", "source"]);
  });

  testImages("a mounted block device is not overwritten", async (directory) => {
    Deno.writeFileSync(`${directory}/medium`, new Uint8Array(16 << 20));
    await using device = await LoopDevice.over(`${directory}/medium`);
    await administer("mkfs.ext4", "-q", device.path);
    const mount = `${directory}/mount`;
    Deno.mkdirSync(mount);
    await administer("mount", device.path, mount);
    try {
      const { status, stderr } = await xenblk(["image", "create", `qcow2:${device.path}`, "8M", "--force"]);
      assertEquals(status, 1);
      assertMatch(
        stderr,
        new RegExp(`^xenblk: Cannot write to image ${device.path}: it is mounted at ${mount}; end that`),
      );
    } finally {
      await administer("umount", mount);
    }
  });
}
