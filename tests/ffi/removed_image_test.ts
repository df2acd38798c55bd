/**
 * An image that is removed or replaced at its path while its disk is open: the file that was opened goes on being served
 * to the next connection (a boot loader hands its disk over to a kernel), and is locked; one warning says so.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import "./libraries.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { ChannelRig, Folder, openBelow, PoolRig, UringRig } from "../storage/rig.ts";

const IMAGE_BYTES = 1 << 20;
const WRITES = { writes: true, shared: false, by: "a test" };

/** Writes by one channel, removes the image, and reads by another one. */
async function handOver(
  disk: Disk,
  path: string,
  remove: () => void,
  channel: () => Promise<ChannelRig>,
): Promise<void> {
  const locks = openNativePlatform().imageLocks;
  {
    using first = await channel();
    first.buffer(0).fill(0x5a);
    assertEquals(first.writeNow(8192, 4096), 0);
  }
  remove();
  const lock = await locks.tryLock(disk.image!, WRITES);
  assert(typeof lock === "object", String(lock));
  for (let round = 0; round < 2; round++) {
    using next = await channel();
    next.buffer(0).fill(0);
    assertEquals(next.readNow(8192, 4096), 0);
    assertEquals(next.buffer(0)[4095], 0x5a);
  }
  await disk.grow!();
  assertEquals(disk.properties.sectors, IMAGE_BYTES / 512);
  await disk.grow!(2 * IMAGE_BYTES);
  assertEquals(disk.properties.sectors, 2 * IMAGE_BYTES / 512);
  await lock[Symbol.asyncDispose]();
  assert(disk.description.includes(path));
}

for (const [where, parent] of [["in memory", "/dev/shm"], ["on disk", undefined]] as const) {
  for (const how of ["removed", "replaced"] as const) {
    Deno.test(`an image ${where} that is ${how} while it is connected is served on, by each engine`, async () => {
      for (const engine of ["uring", "file"] as const) {
        using folder = new Folder(parent);
        const path = folder.file("disk.img", IMAGE_BYTES);
        const other = folder.file("other.img", 4096);
        const remove = (): void => how === "removed" ? Deno.removeSync(path) : Deno.renameSync(other, path);
        const warnings: string[] = [];
        const platform = openNativePlatform();
        await using pool = new PoolRig({ platform, workers: 1 });
        using ring = new UringRig();
        const request = { format: "raw", target: path, readOnly: false, engine } as const;
        const warn = (message: string): void => void warnings.push(message);
        const disk = await openDisk(request, { native: platform.files, pool: pool.pool, warn });
        await handOver(disk, path, remove, async () =>
          new ChannelRig(
            await disk.attachment(0),
            engine === "uring"
              ? { platform, parker: ring.parker, open: ring.channels }
              : { platform, parker: pool.parker },
          ));
        await disk[Symbol.asyncDispose]();
        assertEquals(warnings.length, 1, warnings.join());
        assertMatch(warnings[0]!, /^image .*disk\.img: it was removed or replaced; the file that was opened is served/);
        assertEquals(openBelow(folder.path), 0);
      }
    });
  }
}
