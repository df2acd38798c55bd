/**
 * The pool of I/O Workers beyond the contract of its channels: a stalled disk holds up no other, operations larger than
 * a job or a queue, faults of real file systems, swapped images, starting, failing and ending.
 */

import { EIO, ENOSPC, EOPNOTSUPP } from "../../lib/errno.ts";
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { type DiskRequest } from "../../lib/storage/disk.ts";
import { fileDescriptor } from "../../lib/storage/engine/file.ts";
import { memoryAttachment } from "../../lib/storage/engine/memory.ts";
import { IoPool } from "../../lib/storage/pool/pool.ts";
import { simulatedDescriptor } from "../../lib/sim/platform.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { JOB_SLOTS, JOB_VECTORS } from "../../lib/storage/pool/job_queue.ts";
import { heldWhile } from "./held_executor.ts";
import { reversed } from "./reversed_executor.ts";
import {
  ChannelRig,
  eventually,
  Folder,
  openBelow,
  openChannel,
  PoolRig,
  randomSource,
  simulatedPlatform,
} from "./rig.ts";

const STALLING = new URL("./stalling_executor.ts", import.meta.url);
/** Names no machine. */
const NO_PLATFORM = simulatedDescriptor(new SharedArrayBuffer(16), 0);

Deno.test("a stalled disk holds up no other disk's I/O, nor its opening", async () => {
  using folder = new Folder();
  const slowPath = folder.file("slow", 1 << 20);
  const fastPath = folder.file("fast", 1 << 20);
  const latePath = folder.file("late", 1 << 20);
  await using rig = new PoolRig({ workers: 3, module: STALLING });
  const { platform, parker } = rig;
  await using slow = await rig.open(slowPath);
  await using fast = await rig.open(fastPath);
  using slowRig = new ChannelRig(await slow.attachment(0), { platform, parker });
  using fastRig = new ChannelRig(await fast.attachment(0), { platform, parker });
  folder.file("slow.stall", 1);
  for (let tag = 0; tag < 32; tag++) slowRig.read(tag, tag * 4096, [4096]);
  slowRig.channel.submit();
  // On a busy machine a Worker of these may be taken for stuck, and another one starts: in the event loop.
  for (let i = 0; i < 200; i += 20) {
    for (let tag = 0; tag < 20; tag++) fastRig.write(tag, (i + tag) * 512, [512]);
    assertEquals([...(await fastRig.finished()).values()], new Array(20).fill(0));
  }
  assertEquals(slowRig.channel.reap(), 0);
  await using late = await rig.open(latePath);
  using lateRig = new ChannelRig(await late.attachment(0), { platform, parker });
  lateRig.read(0, 0, [4096]);
  assertEquals(await lateRig.finished(), new Map([[0, 0]]));
  assertEquals(slowRig.channel.inFlight, 32);
  Deno.removeSync(`${slowPath}.stall`);
  assertEquals([...(await slowRig.finished()).values()], new Array(32).fill(0));
});

Deno.test("an operation of many vectors, and more operations than a queue holds, complete whole", async () => {
  using folder = new Folder();
  const vectorsPerTag = 4 * JOB_VECTORS + 5;
  const bytesPerTag = vectorsPerTag * 512;
  const depth = JOB_SLOTS;
  const path = folder.file("disk", depth * bytesPerTag);
  await using rig = new PoolRig();
  await using disk = await rig.open(path);
  const options = { platform: rig.platform, parker: rig.parker, depth, bufferBytes: 2 * bytesPerTag, vectorsPerTag };
  using channel = new ChannelRig(await disk.attachment(0), options);
  const lengths = new Array<number>(vectorsPerTag).fill(512);
  for (let tag = 0; tag < depth; tag++) {
    for (let i = 0; i < vectorsPerTag; i++) channel.buffer(tag).fill(tag * 7 + i, i * 1024, i * 1024 + 512);
    channel.write(tag, tag * bytesPerTag, lengths, 512);
  }
  assertEquals([...channel.finish().values()], new Array(depth).fill(0));
  const written = Deno.readFileSync(path);
  for (let tag = 0; tag < depth; tag++) {
    for (let i = 0; i < vectorsPerTag; i++) {
      assertEquals(written[tag * bytesPerTag + i * 512 + 511], (tag * 7 + i) % 256, `operation ${tag}, vector ${i}`);
    }
  }
});

Deno.test("one job's error among an operation's several jobs is the operation's result, told once", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 100 * 512);
  await using rig = new PoolRig();
  await using disk = await rig.open(path);
  const options = { platform: rig.platform, parker: rig.parker, vectorsPerTag: 128, bufferBytes: 128 * 1024, depth: 2 };
  using channel = new ChannelRig(await disk.attachment(0), options);
  channel.read(0, 0, new Array<number>(101).fill(512), 512);
  assertEquals(channel.reapSome(), new Map([[0, -EIO]]));
  assertEquals(channel.channel.reap(), 0);
});

Deno.test("two reactors share a disk: each reaps its own", async () => {
  using folder = new Folder();
  await using rig = new PoolRig();
  using token = rig.platform.createWakeToken();
  using parker = rig.platform.openParker(token);
  await rig.pool.addLane(1, token);
  await using disk = await rig.open(folder.file("disk", 1 << 20));
  using one = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
  using other = new ChannelRig(await disk.attachment(1), { platform: rig.platform, parker });
  const random = randomSource(5);
  for (let round = 0; round < 50; round++) {
    for (let tag = 0; tag < 32; tag++) {
      one.write(tag, Math.floor(random() * 100) * 512, [512]);
      other.read(tag, Math.floor(random() * 100) * 512, [512]);
    }
    one.channel.submit();
    assertEquals(other.finish().size, 32);
    assertEquals(one.finish().size, 32);
  }
  await assertRejects(() => disk.attachment(2), RangeError, "lane 2");
});

Deno.test("an image truncated under the disk reads as an error, never as zeroes", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 1 << 20);
  await using rig = new PoolRig();
  await using disk = await rig.open(path);
  using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
  assertEquals(channel.readNow(1 << 19, 4096), 0);
  Deno.truncateSync(path, (1 << 19) + 512);
  assertEquals(channel.readNow(1 << 19, 4096), -EIO);
  assertEquals(channel.readNow(1 << 19, 512), 0);
});

Deno.test({
  name: "a full file system is -ENOSPC for the write that met it, and only for that (needs root for a tmpfs)",
  ignore: Deno.uid() !== 0,
  fn: async () => {
    using folder = new Folder();
    using undo = new DisposableStack();
    const mount = new Deno.Command("mount", { args: ["-t", "tmpfs", "-o", "size=256k", "none", folder.path] });
    assert(mount.outputSync().success, "a tmpfs is mounted");
    undo.defer(() => void new Deno.Command("umount", { args: [folder.path] }).outputSync());
    const path = folder.file("disk", 1 << 20);
    await using rig = new PoolRig();
    await using disk = await rig.open(path);
    using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
    const results = new Set<number>();
    for (let at = 0; at < 1 << 20; at += 1 << 16) results.add(channel.writeNow(at, 1 << 16));
    assertEquals([...results], [0, -ENOSPC]);
    assertEquals(channel.writeNow(0, 4096), 0);
    assertEquals(channel.readNow(0, 1 << 16), 0);
  },
});

Deno.test("a file that took the image's place is refused by the I/O Workers, and leaves nothing open", async () => {
  using folder = new Folder();
  await using rig = new PoolRig({ workers: 2 });
  const path = folder.file("disk", 4096);
  const { dev, ino } = Deno.statSync(path);
  const image = { path, readOnly: false, cache: "writeback" } as const;
  const swapped = fileDescriptor({ ...image, identity: { device: dev, inode: (ino ?? 0) + 1 } });
  const error = await assertRejects(() => rig.pool.open(`image ${path}`, swapped), XenblkError);
  assertEquals(error.message, `Cannot open image ${path}: another file took its place at this path`);
  // The first refusal is enough; another Worker may be looking at the file still.
  await eventually(() => openBelow(folder.path) === 0, "no descriptor is left");
});

Deno.test("closing a disk closes its file in every I/O Worker that opened it", async () => {
  using folder = new Folder();
  await using rig = new PoolRig({ workers: 3 });
  const path = folder.file("disk", 4096);
  for (let round = 0; round < 10; round++) {
    await using disk = await rig.open(path);
    using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
    assertEquals(channel.readNow(0, 512), 0);
    assert(openBelow(folder.path) >= 2, "the disk's own handle and one in the I/O Worker that opened it first");
  }
  assertEquals(openBelow(folder.path), 0);
});

Deno.test("a channel without buffers or work costs nothing to close", async () => {
  using folder = new Folder();
  await using rig = new PoolRig({ workers: 1 });
  await using disk = await rig.open(folder.file("disk", 4096));
  const vectors = { addresses: new Float64Array(1), lengths: new Uint32Array(1) };
  using channel = openChannel(await disk.attachment(0), { depth: 1, vectors, memory: rig.platform.memory });
  channel.submit();
  assertEquals([channel.inFlight, channel.reap()], [0, 0]);
});

Deno.test("an executor from outside the project is served by the I/O Workers, discards too", async () => {
  await using rig = new PoolRig({ workers: 3 });
  const data = new SharedArrayBuffer(1 << 20);
  const lastDiscard = new SharedArrayBuffer(24);
  const disk = await rig.pool.open("a foreign disk", reversed(data, lastDiscard));
  {
    using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
    for (let tag = 0; tag < 32; tag++) {
      channel.buffer(tag).fill(tag + 1);
      channel.write(tag, tag * 4096, [512, 3072, 512]);
    }
    assertEquals([...channel.finish().values()], new Array(32).fill(0));
    assertEquals(new Uint8Array(data).at(-1), 1, "in its own way");
    channel.buffer(0).fill(0);
    assertEquals([channel.readNow(31 * 4096, 4096), channel.buffer(0)[4095]], [0, 32]);
    channel.channel.discard(5, 2 ** 40 + 512, 2 ** 33, true);
    assertEquals(channel.finish(), new Map([[5, 0]]));
    assertEquals([...new Float64Array(lastDiscard)], [2 ** 40 + 512, 2 ** 33, 1]);
    assertEquals(channel.writeNow(1 << 20, 512), -EIO, "it threw");
    assertEquals(channel.readNow(0, 4096), 0);
  }
  await disk.close();
});

Deno.test("a memory disk behind the I/O Workers discards, and refuses what it cannot do", async () => {
  await using rig = new PoolRig({ workers: 2 });
  const disk = await rig.pool.open("memory", memoryAttachment(new SharedArrayBuffer(1 << 20), false));
  {
    using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
    channel.buffer(0).fill(9);
    assertEquals(channel.writeNow(0, 8192), 0);
    channel.channel.discard(1, 4096, 4096, false);
    channel.channel.discard(2, 0, 4096, true);
    channel.channel.discard(3, 1 << 20, 512, false);
    assertEquals(channel.finish(), new Map([[1, 0], [2, -EOPNOTSUPP], [3, -ENOSPC]]));
    assertEquals(channel.readNow(0, 8192), 0);
    assertEquals([channel.buffer(0)[4095], channel.buffer(0)[4096]], [9, 0]);
  }
  await disk.close();
});

Deno.test("a module that opens no executor is refused by name; the others' disks go on", async () => {
  using folder = new Folder();
  await using rig = new PoolRig({ workers: 2 });
  await using disk = await rig.open(folder.file("disk", 4096));
  using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
  const refusal = async (name: string): Promise<string> => {
    const module = new URL(`../dataplane/modules/${name}.ts`, import.meta.url).href;
    const error = await assertRejects(() => rig.pool.open("the disk", { module }), XenblkError);
    assertEquals(channel.readNow(0, 4096), 0);
    return error.message;
  };
  assertMatch(await refusal("missing"), /^Cannot open the disk: Cannot load module .*missing\.ts: Module not found/);
  assertMatch(await refusal("throwing"), /throwing\.ts: .*a defect of its own/);
  assertMatch(await refusal("masked_disk"), /masked_disk\.ts: it exports no function openExecutor$/);
  assertMatch(await refusal("refusing"), /^Cannot open the disk: no such executor$/);
});

Deno.test("a module that never finishes loading holds up no other disk, nor the end of the pool", async () => {
  using folder = new Folder();
  const rig = new PoolRig({ workers: 2 });
  const path = folder.file("disk", 4096);
  const module = new URL("../dataplane/modules/hanging.ts", import.meta.url).href;
  await rig.pool.start();
  const refused = assertRejects(() => rig.pool.open("the disk", { module }), XenblkError, "stopped");
  {
    await using disk = await rig.open(path);
    using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
    for (let i = 0; i < 50; i++) assertEquals(channel.readNow(0, 4096), 0);
  }
  await rig[Symbol.asyncDispose]();
  await refused;
});

Deno.test("an I/O Worker that gets a disk's module late serves it then, and closes what was closed meanwhile", async () => {
  using folder = new Folder();
  await using rig = new PoolRig({ workers: 3 });
  const counters = new Int32Array(new SharedArrayBuffer(16));
  for (const closedEarly of [false, true]) {
    const hold = folder.file(`hold-${closedEarly}`, 1);
    const disk = await rig.pool.open("the disk", heldWhile(hold, counters.buffer));
    assertEquals(counters[0], 1, "the first Worker serves it alone");
    {
      using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
      const serve = (): void => {
        for (let tag = 0; tag < 32; tag++) channel.read(tag, 0, [512]);
        assertEquals([...channel.finish().values()], new Array(32).fill(0));
      };
      serve();
      channel.channel.discard(0, 0, 512, false);
      assertEquals(channel.finish(), new Map([[0, -EOPNOTSUPP]]), "an executor need not discard");
      if (!closedEarly) {
        Deno.removeSync(hold);
        await eventually(() => (serve(), counters[2]! + counters[3]! > 0), "another Worker serves it, too");
      }
    }
    const closed = disk.close();
    if (closedEarly) {
      await using other = await rig.open(folder.file("other", 4096));
      using channel = new ChannelRig(await other.attachment(0), { platform: rig.platform, parker: rig.parker });
      assertEquals(channel.readNow(0, 4096), 0);
      Deno.removeSync(hold);
    }
    await closed;
    assertEquals(counters[0], 0, "no Worker has it open");
  }
});

Deno.test("a platform that cannot be opened is reported by the first disk, and the pool still ends", async () => {
  using folder = new Folder();
  await using pool = new IoPool({ platform: NO_PLATFORM, workers: 2 });
  const path = folder.file("disk", 4096);
  await assertRejects(() => openDisk(request(path), { pool }), XenblkError, "not a simulated machine");
  const again = await assertRejects(() => openDisk(request(path), { pool }), XenblkError);
  assertMatch(again.message, /^Cannot open image/);
});

Deno.test("a pool that is started before there are files serves them; one that cannot start says so at once", async () => {
  using folder = new Folder();
  await using rig = new PoolRig({ workers: 2 });
  await rig.pool.start();
  await using disk = await rig.open(folder.file("disk", 4096));
  using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
  assertEquals(channel.readNow(0, 4096), 0);
  await using pool = new IoPool({ platform: NO_PLATFORM, workers: 2 });
  await assertRejects(() => pool.start(), XenblkError, "not a simulated machine");
});

Deno.test("a pool without workers is refused", () => {
  assertThrows(() => new IoPool({ platform: NO_PLATFORM, workers: 0 }), XenblkError, "at least 1");
});

Deno.test("a pool ends at once if its I/O Workers have not started, and refuses what waits for them", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 1 << 20);
  const pool = new IoPool({
    platform: simulatedPlatform().descriptor,
    entry: new URL("../dataplane/silent_worker.ts", import.meta.url),
  });
  const opening = assertRejects(() => openDisk(request(path), { pool }), XenblkError, "the I/O Workers were stopped");
  await pool[Symbol.asyncDispose]();
  await opening;
  await assertRejects(() => openDisk(request(path), { pool }), XenblkError, "the I/O Workers were stopped");
  assertEquals(openBelow(folder.path), 0);
});

function request(target: string): DiskRequest {
  return { format: "raw", target, readOnly: false, engine: "file" };
}
