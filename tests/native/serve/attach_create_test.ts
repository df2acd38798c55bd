/**
 * `xenblk attach --create` and `--overlay` with a guest that responds: the new image is served. A created one stays when
 * the disk is detached, an overlay goes, and its base stays as it was.
 */

import { assert, assertEquals } from "@std/assert";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { qemuImg } from "../qemu_img.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, received } from "./scenes.ts";

const VDEV = 51728;

nativeTest("an image that attach creates is served, and a second attach of that size takes it again", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  const image = `${xen.directory}/created.img`;
  for (const isNew of [true, false]) {
    await using process = new BackendProcess(xen, ["attach", String(GUEST), image, "xvdb", "--create", "64M"]);
    await process.says(/offering/);
    const disk = await guest.disk(frontendPath({ frontendDomain: GUEST as never, vdev: VDEV }));
    await disk.connect();
    await process.says(/ is xvdb of guest-7/);
    assertEquals(process.messages.includes(`created raw:${image} (64.0 MiB)`), isNew, process.messages);
    if (isNew) assertClean(received(await disk.load({ ...LOAD, requests: 300 })), process.messages);
    const ended = process.stop();
    await disk.disconnect();
    assertEquals(await ended, 0, process.messages);
    assertEquals(Deno.statSync(image).size, 2 ** 26);
  }
});

nativeTest(
  "a qcow2 that attach creates and an overlay of it are served; the overlay goes, its base stays",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    const image = `${xen.directory}/base.qcow2`;
    const before = new Map<string, string>();
    for (const args of [[`qcow2:${image}`, "xvdb", "--create", "64M"], ["xvdb", "--overlay", `qcow2:${image}`]]) {
      await using process = new BackendProcess(xen, ["attach", String(GUEST), ...args]);
      await process.says(/offering/);
      const disk = await guest.disk(frontendPath({ frontendDomain: GUEST as never, vdev: VDEV }));
      await disk.connect();
      await process.says(/ is xvdb of guest-7/);
      // The base of an overlay holds what was written to it before, which the load does not expect.
      const load = { ...LOAD, requests: 300, ...(args[0] === "xvdb" ? { readShare: 0 } : {}) };
      assertClean(received(await disk.load(load)), process.messages);
      const ended = process.stop();
      await disk.disconnect();
      assertEquals(await ended, 0, process.messages);
      const content = (await qemuImg("convert", "-f", "qcow2", "-O", "raw", image, `${image}.raw`)) +
        new Uint8Array(await crypto.subtle.digest("SHA-256", Deno.readFileSync(`${image}.raw`))).toHex();
      before.set(image, before.get(image) ?? content);
      assertEquals(content, before.get(image), "the base is as it was");
    }
    const left = [...Deno.readDirSync(xen.directory)].map(({ name }) => name).filter((name) => name.includes("qcow2"));
    assert(left.every((name) => ["base.qcow2", "base.qcow2.raw"].includes(name)), `left: ${left.join(", ")}`);
  },
);
