/**
 * `xenblk attach` in its own process, with a guest that responds: next to a `serve` of the same kind, and with a guest
 * that ends while there is no xenstored.
 */

import { assertEquals, assertMatch, assertNotMatch, assertRejects } from "@std/assert";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, sparseImage } from "./backend.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, received } from "./scenes.ts";

const VDEV = 51728;
const BACKEND = `/local/domain/0/backend/vbd3/${GUEST}/${VDEV}`;

/** Attaches xvdb and waits until its guest has connected. */
async function attached(
  xen: NativeXen,
  guest: GuestProcess,
  ...options: string[]
): Promise<{ process: BackendProcess; disk: GuestDisk; image: string }> {
  const image = sparseImage(xen.directory, "attached.img", 2 ** 26);
  const process = new BackendProcess(xen, ["attach", String(GUEST), image, "xvdb", ...options]);
  await process.says(/offering/);
  const disk = await guest.disk(frontendPath({ frontendDomain: GUEST as never, vdev: VDEV }));
  await disk.connect();
  await process.says(/ is xvdb of guest-7/);
  assertMatch(process.messages, /xvdb of guest-7 \(domain 7\): offering/, "lines of the log name the guest");
  return { process, disk, image };
}

nativeTest("attach next to a serve of the same kind serves its disk itself, with its own options", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve", "--grants", "copy"]);
  await serve.says(/serving all/);
  const { process, disk, image } = await attached(xen, guest, "--grants", "map", "--keep");
  await using _process = process;
  await serve.says(/another process serves it/);
  assertClean(received(await disk.load({ ...LOAD, requests: 300 })), process.messages);
  assertMatch(process.messages, /connected: .*grants map\n/);
  assertNotMatch(process.messages, /Another backend/);
  assertNotMatch(serve.messages, /connected:/);

  assertEquals(await process.stop(), 0, process.messages);
  await serve.says(/connected: .*grants copy\n/);
  assertClean(received(await disk.load({ ...LOAD, seed: 2, requests: 300 })), serve.messages);
  await disk.disconnect();
  assertEquals((await disk.verify(image)).miscompares, 0);
  assertEquals(await serve.stop(), 0, serve.messages);
});

for (const keepStore of [true, false]) {
  const what = keepStore
    ? "attach ends after its guest ended while xenstored was down"
    : "attach goes on after xenstored came back with an empty store";
  nativeTest(what, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    const { process } = await attached(xen, guest, ...(keepStore ? [] : ["--keep"]));
    await using _process = process;
    await xen.restartXenstored({ keepStore, meanwhile: () => keepStore ? xen.killDomain(GUEST) : Promise.resolve() });
    if (keepStore) {
      assertEquals(await process.exited(), 0, process.messages);
      await assertRejects(() => xen.run("xenstore-exists", [BACKEND]));
    } else {
      await process.says(/they are served on/);
      assertEquals((await process.holdings()).ports, 1, process.messages);
      assertEquals(await process.stop(), 0, process.messages);
    }
  });
}
