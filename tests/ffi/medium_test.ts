/**
 * What is found out about files and block devices before they are served, on real ones: a file on disk, one in memory,
 * and loop devices with sectors of 512 and 4096 bytes.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import "./libraries.ts";
import { LinuxFiles } from "../../ffi/uring/image_files.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { CacheMode } from "../../lib/storage/disk.ts";
import type { FileMedium, ImageOptions } from "../../lib/storage/image/medium.ts";
import { ChannelRig, Folder, UringRig } from "../storage/rig.ts";

const IMAGE_BYTES = 8 << 20;

/** What a file turns out to be when it is opened. */
async function examine(path: string, options: Partial<ImageOptions> = {}): Promise<FileMedium> {
  const whole = { readOnly: false, direct: false, writeThrough: false, ...options };
  await using image = await new LinuxFiles().open(path, whole);
  return image.medium!;
}

Deno.test("a file: sectors of 512 bytes, discards by its file system's blocks, and it is as large as before", async () => {
  using folder = new Folder();
  const path = folder.file("disk.img", IMAGE_BYTES);
  const medium = await examine(path);
  assertEquals([medium.logicalSectorBytes, medium.physicalSectorBytes], [512, 4096]);
  assertEquals([medium.routes.direct, medium.routes.discards], [false, "punch"]);
  assertEquals(medium.discard, { granularityBytes: 4096, alignmentBytes: 0, secure: false });
  const { size, blocks } = Deno.statSync(path);
  assertEquals([size, blocks], [IMAGE_BYTES, 0]);
});

Deno.test("a file that may not be written takes no discards; one that is not there is an error", async () => {
  using folder = new Folder();
  const medium = await examine(folder.file("disk.img", IMAGE_BYTES), { readOnly: true });
  assertEquals([medium.discard, medium.routes.discards], [undefined, undefined]);
  await assertRejects(() => examine(`${folder.path}/none`), XenblkError, "there is no such file");
});

Deno.test("a file in memory is read and written by calls; one written through never makes its reactor wait", async () => {
  using memory = new Folder("/dev/shm");
  const { reads, writes } = (await examine(memory.file("disk.img", IMAGE_BYTES))).routes;
  assertEquals([reads, writes], ["call", "call"]);
  using folder = new Folder();
  const through = (await examine(folder.file("disk.img", IMAGE_BYTES), { writeThrough: true })).routes;
  assertEquals([through.reads, through.writes], ["cached", "ring"]);
});

Deno.test("a file system that is not known to answer at once is reported by its name, and O_DIRECT is not tried", async () => {
  // Files of /proc are of such a kind; they are only looked at.
  const medium = await examine("/proc/version", { readOnly: true, direct: true });
  assertEquals(medium.routes.direct, false);
  assertMatch(medium.mayWait!, /^its file system \(of type 0x9fa0\) may make a reactor/);
});

/** A loop device on a file of zeroes, or undefined where none can be made. */
function loopDevice(undo: DisposableStack, sectorBytes: number): { device: string; path: string } | undefined {
  const folder = undo.use(new Folder());
  const path = folder.file("disk.img", IMAGE_BYTES);
  try {
    const args = ["--find", "--show", "--sector-size", `${sectorBytes}`, path];
    const { success, stdout } = new Deno.Command("losetup", { args }).outputSync();
    if (!success) return undefined;
    const device = new TextDecoder().decode(stdout).trim();
    undo.defer(() => void new Deno.Command("losetup", { args: ["--detach", device] }).outputSync());
    return { device, path };
  } catch {
    return undefined;
  }
}

function canLoop(): boolean {
  using undo = new DisposableStack();
  return Deno.uid() === 0 && loopDevice(undo, 512) !== undefined;
}

for (const sectorBytes of [512, 4096]) {
  for (const cache of ["writeback", "none"] satisfies CacheMode[]) {
    Deno.test({
      name:
        `a block device of ${sectorBytes}-byte sectors, cache ${cache}, is served with its own sectors and discards ` +
        "(needs root, loop devices and losetup of Debian's package mount)",
      ignore: !canLoop(),
      fn: async () => {
        using undo = new DisposableStack();
        const { device, path } = loopDevice(undo, sectorBytes)!;
        using rig = new UringRig();
        await using disk = await rig.open(device, { cache });
        const { properties } = disk;
        assertEquals([properties.sectors, properties.logicalSectorBytes], [IMAGE_BYTES / 512, sectorBytes]);
        assert(properties.physicalSectorBytes >= sectorBytes);
        assertEquals(properties.cache, cache);
        assert(properties.discard !== undefined && properties.discard.granularityBytes >= sectorBytes);
        const { platform, parker, channels: open } = rig;
        using channel = new ChannelRig(await disk.attachment(0), { platform, parker, open });
        channel.buffer(0).fill(0x5a);
        assertEquals(channel.writeNow(0, 64 << 10), 0);
        channel.channel.flush(0);
        assertEquals(channel.finish().get(0), 0);
        channel.channel.discard(0, 8192, 16 << 10, false);
        assertEquals(channel.finish().get(0), 0);
        assertEquals(channel.readNow(0, 64 << 10), 0);
        const expected = new Uint8Array(64 << 10).fill(0x5a).fill(0, 8192, 24 << 10);
        assertEquals(channel.buffer(0), expected);
        channel.channel.flush(0);
        assertEquals(channel.finish().get(0), 0);
        assertEquals(Deno.readFileSync(path).subarray(0, 64 << 10), expected);
      },
    });
  }
}
