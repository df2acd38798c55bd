/**
 * Many disks of many guests in one `xenblk serve` with the default number of Workers, all loaded at once. The gate runs
 * a short form; XENBLK_NATIVE=full has 64 disks of 16 guests. The bench measures how they share a machine.
 */

import { assertEquals } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, LOAD, newDisk, received } from "./scenes.ts";
import { workersAtMost, workersIdle } from "./threads.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const GUESTS = FULL ? 16 : 3;
const DISKS = FULL ? 4 : 2;
const REQUESTS = FULL ? 2000 : 500;
const IMAGE_BYTES = 2 ** 24;

nativeTest(
  `${GUESTS * DISKS} disks of ${GUESTS} guests, loaded at once, all verify and are idle afterwards`,
  async () => {
    await using xen = await NativeXen.start();
    await using backend = new BackendProcess(xen, ["serve", "--engine", "uring"]);
    await using guests = new AsyncDisposableStack();
    const disks: Awaited<ReturnType<typeof newDisk>>[] = [];
    for (let domain = 1; domain <= GUESTS; domain++) {
      await xen.createDomain(domain);
      const guest = guests.use(new GuestProcess(xen, domain));
      for (let i = 0; i < DISKS; i++) {
        disks.push(await newDisk(xen, guest, `${domain}-${i}.img`, { sizeBytes: IMAGE_BYTES }));
      }
    }
    await Promise.all(disks.map(({ disk }, seed) => disk.connect(seed + 1)));
    const outcomes = await Promise.all(
      disks.map(({ disk }, seed) => disk.load({ ...LOAD, seed: seed + 1, requests: REQUESTS })),
    );
    for (const [index, outcome] of outcomes.entries()) {
      assertClean(received(outcome), `disk ${index}; ${backend.messages}`);
      assertEquals(outcome.reads + outcome.writes + outcome.barriers + outcome.flushes, REQUESTS);
    }
    await workersIdle(backend.pid);
    await workersAtMost(backend.pid, navigator.hardwareConcurrency); // one may serve any number of disks
    for (const { disk, device, image } of disks) {
      await detach(xen, device);
      assertEquals((await disk.verify(image)).miscompares, 0);
    }
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);
