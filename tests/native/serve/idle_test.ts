/**
 * What an idle `xenblk serve` costs: which threads exist before the first disk, and that neither these threads nor idle
 * disks wake a processor.
 */

import { assert, assertEquals } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, newDisk, received } from "./scenes.ts";
import { workersAtMost, workersIdle, workerUsage } from "./threads.ts";

/** Engines, and the number of Workers for the first disk: one reactor, and the I/O Workers where I/O blocks. */
const ENGINES: readonly (readonly [engine: string, workers: number])[] = [["uring", 1], ["file", 5]];

for (const [engine, workers] of ENGINES) {
  nativeTest(`the Workers for the first disk run before serve reports that it serves, engine ${engine}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", "--engine", engine]);
    await backend.says(/serving/, 60_000);
    const before = [...workerUsage(backend.pid).keys()].sort();
    assertEquals(before.length, workers + 1, "and the first file thread, which ends when it is idle");
    await using guest = new GuestProcess(xen, GUEST);
    const { disk } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 26 });
    await disk.connect();
    assertClean(received(await disk.load({ ...LOAD, requests: 300 })), backend.messages);
    await workersIdle(backend.pid);
    await workersAtMost(backend.pid, workers);
    assert([...workerUsage(backend.pid).keys()].every((thread) => before.includes(thread)), "no other was started");
    assertEquals(await backend.stop(), 0, backend.messages);
  });

  nativeTest(
    `without disks, and with idle disks, no Worker wakes or uses a processor, engine ${engine}`,
    async () => {
      await using xen = await NativeXen.start();
      await xen.createDomain(GUEST);
      await using backend = new BackendProcess(xen, ["serve", "--engine", engine]);
      await backend.says(/serving/, 60_000);
      await workersIdle(backend.pid);
      await using guest = new GuestProcess(xen, GUEST);
      for (const name of ["a", "b", "c"]) {
        const { disk } = await newDisk(xen, guest, name, { sizeBytes: 2 ** 26 });
        await disk.connect();
        assertClean(received(await disk.load({ ...LOAD, requests: 2000 })), backend.messages);
      }
      const used = [...workerUsage(backend.pid).values()].reduce((sum, { sleeps }) => sum + sleeps, 0);
      assert(used > 10, `the observed Workers did the work: they slept ${used} times`);
      await workersIdle(backend.pid);
      assertEquals(await backend.stop(), 0, backend.messages);
    },
  );
}
