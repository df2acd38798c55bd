/**
 * `xenblk serve` ended by SIGTERM while a guest is connecting: it ends with status 0 and in time, and the next process
 * connects the guest. The moment is random.
 */

import { assertEquals } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const TIMES = FULL ? 25 : 4;
/** The time from the frontend's start to its first request, if Workers have to start. */
const CONNECTING_MS = 400;

for (const engine of ["uring", "file"]) {
  nativeTest(
    `serve ended ${TIMES} times while a disk connects ends with 0, and the next one serves the disk, ${engine}`,
    async () => {
      await using xen = await NativeXen.start();
      await xen.createDomain(GUEST);
      await using guest = new GuestProcess(xen, GUEST);
      await using stack = new AsyncDisposableStack();
      const serve = (): BackendProcess => stack.use(new BackendProcess(xen, ["serve", "--engine", engine]));
      const shape = { ringPages: 4, queues: 4, segments: 64 };
      for (let time = 0; time < TIMES; time++) {
        const first = serve();
        await first.says(/serving all/);
        const { disk, image } = await newDisk(xen, guest, `${time}.img`, { sizeBytes: 2 ** 24, shape });
        const connected = disk.connect();
        connected.catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, Math.random() * CONNECTING_MS));
        assertEquals(await first.stop(), 0, first.messages);
        const second = serve();
        await connected;
        assertClean(received(await disk.load({ ...LOAD, requests: 200 })), `${first.messages}\n${second.messages}`);
        await disk.disconnect();
        assertEquals((await disk.verify(image)).miscompares, 0);
        assertEquals(await second.stop(), 0, second.messages);
      }
    },
  );
}
