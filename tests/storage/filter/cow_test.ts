/**
 * The filter `cow`: the guest sees its writes and discards, the disk behind sees none, and the overlay has an end.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { EIO, ENOSPC, EOPNOTSUPP } from "../../../lib/errno.ts";
import { XenblkError } from "../../../lib/errors.ts";
import type { Disk } from "../../../lib/storage/disk.ts";
import { openDisk } from "../../../lib/storage/open.ts";
import { chooseFilters } from "../../../lib/storage/filter/spec.ts";
import { filterDisk } from "../../../lib/storage/filter/stack.ts";
import type { ChannelRig } from "../rig.ts";
import { assertNoAllocation } from "../../heap.ts";
import { channelsOf, FilterRig, pass } from "./rig.ts";
import { ChannelRig as Channel, Folder, openFile, simulatedPlatform } from "../rig.ts";

const SECTOR = 512;
const BLOCK = 4096;
const DISK_BYTES = 1 << 20;

/** What the disk behind the filter holds: each sector its number, from 1. */
function base(): Uint8Array {
  const bytes = new Uint8Array(DISK_BYTES);
  for (let at = 0; at < DISK_BYTES; at += SECTOR) bytes.fill(1 + at / SECTOR % 250, at, at + SECTOR);
  return bytes;
}

/** A disk in a file with that content; it is removed with the disk. */
async function fileDisk(folder: Folder): Promise<Disk> {
  return await openFile(folder.file("base.img", base()), {}, true);
}

function write(ring: ChannelRig, offset: number, lengths: readonly number[], value: number): number | undefined {
  ring.buffer(0).fill(value);
  ring.write(0, offset, lengths);
  return pass(ring).get(0);
}

function read(ring: ChannelRig, offset: number, length: number): Uint8Array {
  ring.buffer(1).fill(0xee);
  ring.read(1, offset, [length]);
  assertEquals(pass(ring), new Map([[1, 0]]));
  return ring.buffer(1).slice(0, length);
}

Deno.test("whatever a guest writes and discards, it reads that back, and the image stays as it was", async () => {
  using folder = new Folder();
  const before = base();
  const sectors = DISK_BYTES / SECTOR;
  const place = fc.tuple(fc.nat(sectors - 1), fc.integer({ min: 1, max: 40 }), fc.nat(255), fc.constantFrom("w", "d"));
  await fc.assert(
    fc.asyncProperty(fc.array(place, { maxLength: 30 }), async (all) => {
      await using rig = await FilterRig.open(["cow,size=1M"], { disk: await fileDisk(folder) });
      const { ring } = rig;
      const model = before.slice();
      for (const [first, count, value, kind] of all) {
        const [offset, length] = [first * SECTOR, Math.min(count, sectors - first) * SECTOR];
        if (kind === "w") {
          assertEquals(write(ring, offset, [length], value), 0);
          model.fill(value, offset, offset + length);
        } else {
          ring.channel.discard(2, offset, length, false);
          assertEquals(pass(ring), new Map([[2, 0]]));
          model.fill(0, Math.ceil(offset / BLOCK) * BLOCK, Math.floor((offset + length) / BLOCK) * BLOCK);
        }
        const from = Math.max(0, offset - 3 * SECTOR);
        const to = Math.min(DISK_BYTES, offset + length + 3 * SECTOR);
        assertEquals(read(ring, from, to - from), model.slice(from, to));
      }
      for (let at = 0; at < DISK_BYTES; at += 65536) assertEquals(read(ring, at, 65536), model.slice(at, at + 65536));
    }),
    { numRuns: 25 },
  );
  assertEquals(Deno.readFileSync(`${folder.path}/base.img`), before);
});

Deno.test("an overlay that is full refuses new blocks, whole, and takes them again once others are discarded", async () => {
  await using rig = await FilterRig.open(["cow,size=64K"]);
  const { ring } = rig;
  for (let block = 0; block < 15; block++) assertEquals(write(ring, block * BLOCK, [SECTOR], 1), 0);
  assertEquals(write(ring, 15 * BLOCK, [BLOCK, SECTOR], 2), -ENOSPC, "two blocks, and room for one");
  assertEquals(read(ring, 15 * BLOCK, BLOCK), new Uint8Array(BLOCK), "nothing of it was written");
  assertEquals(write(ring, 15 * BLOCK, [BLOCK], 3), 0);
  assertEquals([write(ring, 16 * BLOCK, [SECTOR], 4), write(ring, 14 * BLOCK, [BLOCK], 5)], [-ENOSPC, 0]);
  ring.channel.discard(2, 0, 2 * BLOCK, false);
  assertEquals(pass(ring).get(2), 0);
  assertEquals([write(ring, 16 * BLOCK, [SECTOR], 6), write(ring, 17 * BLOCK, [SECTOR], 7)], [0, 0]);
  assertEquals(write(ring, 18 * BLOCK, [SECTOR], 8), -ENOSPC);
  assertEquals(read(ring, 0, SECTOR)[0], 0);
});

Deno.test("a discard of a whole large disk goes on over several passes, and other requests go on meanwhile", async () => {
  const disk = await openDisk({ format: "null", target: "1T", readOnly: false, engine: "auto" });
  await using rig = await FilterRig.open(["cow,size=1M"], { disk });
  const { ring, ring: { channel } } = rig;
  write(ring, 2 ** 39, [BLOCK], 5);
  channel.discard(2, 0, 2 ** 40, false);
  let passes = 0;
  for (let done = pass(ring); !done.has(2); done = pass(ring)) {
    assert(channel.dueMs! <= rig.nowMs, "it is due at once");
    if (passes++ % 5000 === 0) assertEquals(write(ring, 2 ** 40 - BLOCK, [SECTOR], 9), 0);
  }
  assert(passes > 1000);
  assertEquals([read(ring, 2 ** 39, BLOCK), channel.dueMs], [new Uint8Array(BLOCK), Infinity]);
});

Deno.test("nothing is written beyond the end, until the disk behind has grown", async () => {
  using folder = new Folder();
  const path = folder.file("disk.img", DISK_BYTES);
  await using rig = await FilterRig.open(["cow"], { disk: await openFile(path, {}, true) });
  const { ring } = rig;
  assertEquals(write(ring, DISK_BYTES - SECTOR, [2 * SECTOR], 1), -ENOSPC);
  ring.read(1, DISK_BYTES, [SECTOR]);
  assertEquals(pass(ring).get(1), -EIO);
  await assertRejects(() => rig.disk.grow!(2 * DISK_BYTES), XenblkError, "a filter keeps all writes from it");
  Deno.truncateSync(path, 2 * DISK_BYTES);
  await rig.disk.grow!();
  assertEquals([write(ring, DISK_BYTES - SECTOR, [2 * SECTOR], 1), rig.disk.properties.sectors], [0, 4096]);
  ring.channel.discard(2, 0, 2 * DISK_BYTES, false);
  ring.channel.discard(3, 0, BLOCK, true);
  ring.channel.flush(4);
  assertEquals(pass(ring), new Map([[3, -EOPNOTSUPP], [4, 0], [2, 0]]));
});

Deno.test("what the next channel of the disk sees is what the last one wrote", async () => {
  using folder = new Folder();
  const platform = simulatedPlatform();
  await using disk = filterDisk(await fileDisk(folder), await chooseFilters(["cow"]));
  const open = await channelsOf(platform, await disk.attachment(0));
  {
    using first = new Channel(await disk.attachment(0), { platform, open });
    assertEquals(write(first, SECTOR, [SECTOR], 77), 0);
  }
  using second = new Channel(await disk.attachment(0), { platform, open });
  assertEquals([...read(second, 0, 3 * SECTOR)].filter((_, i) => i % SECTOR === 0), [1, 77, 3]);
});

Deno.test("a writable disk comes of a read-only image, with discards of its own and one ring", async () => {
  using folder = new Folder();
  await using disk = filterDisk(await fileDisk(folder), await chooseFilters(["cow", "error"]));
  const { readOnly, discard, mostChannels, sectors } = disk.properties;
  assertEquals([readOnly, discard?.granularityBytes, mostChannels, sectors], [false, BLOCK, 1, DISK_BYTES / SECTOR]);
  assert(disk.description.endsWith(" behind cow, error"));
  await using hidden = filterDisk(await fileDisk(folder), await chooseFilters(["readonly", "cow"]));
  assertEquals([hidden.properties.readOnly, hidden.properties.discard], [true, undefined]);
});

Deno.test("an overlay that the machine has no room for is refused with what to do", async () => {
  using folder = new Folder();
  await using disk = await fileDisk(folder);
  const huge = { ...disk, properties: { ...disk.properties, sectors: 2 ** 52 }, attachment: disk.attachment };
  await assertRejects(
    async () => filterDisk(huge as Disk, await chooseFilters(["cow"])),
    XenblkError,
    "Cannot put filter cow before the disk",
  );
  for (const size of ["1K", "0", "-1", "1x", "2E"]) {
    await assertRejects(() => chooseFilters([`cow,size=${size}`]), XenblkError, "size takes a size such as 64K");
  }
});

Deno.test("reads, writes and discards of an overlay, and limits that are set, allocate nothing", async () => {
  const disk = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
  const filters = ["error,rate=0.5,sectors=1,operations=discard", "delay,flush=1", "throttle,iops=1000000000", "cow"];
  await using rig = await FilterRig.open(filters, { disk });
  const { ring, ring: { channel } } = rig;
  for (let tag = 0; tag < 4; tag++) ring.write(tag, tag * 8192, [BLOCK, SECTOR]);
  const step = (): number => {
    for (let tag = 0; tag < 4; tag++) channel.write(tag, tag * 8192, 16 * tag, 2);
    channel.discard(4, 8192, BLOCK, false);
    channel.flush(5);
    channel.submit();
    rig.advance(1);
    let done = channel.reap();
    for (let tag = 0; tag < 4; tag++) channel.read(tag, tag * 8192 + SECTOR, 16 * tag, 2);
    channel.submit();
    while (channel.inFlight > 0) done += channel.reap();
    return done;
  };
  pass(ring);
  assertNoAllocation(10_000, (operations) => {
    for (let done = 0; done < operations;) done += step();
  });
});
