/**
 * `xenblk attach --create` with a guest that responds: the new image is served, and stays when the disk is detached.
 */

import { assertEquals } from "@std/assert";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
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
