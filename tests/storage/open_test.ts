/**
 * Opening disks: what is refused and in which words, what is served with a warning, and that a refused disk leaves
 * nothing open.
 */

import { EIO } from "../../lib/errno.ts";
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { Disk, DiskOwner, DiskRequest } from "../../lib/storage/disk.ts";
import { writeNote } from "../../lib/storage/image/overlay_note.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { cannotOpen } from "../../lib/storage/image/explain.ts";
import type { ImageOptions, OpenedImage } from "../../lib/storage/image/medium.ts";
import {
  ChannelRig,
  eventually,
  Folder,
  openBelow,
  openFile,
  PoolRig,
  pretendFiles,
  simulatedPlatform,
  writeOverlayHeader,
} from "./rig.ts";

async function refusal(request: Partial<DiskRequest> & { target: string }): Promise<XenblkError> {
  const whole = { format: "raw", readOnly: false, engine: "auto", ...request } as const;
  return await assertRejects(() => openDisk(whole), XenblkError);
}

Deno.test("missing, directory, FIFO, device and empty images are refused by name, and nothing stays open", async () => {
  using folder = new Folder();
  const fifo = `${folder.path}/fifo`;
  assert(new Deno.Command("mkfifo", { args: [fifo] }).outputSync().success);
  const cases: [string, RegExp][] = [
    [`${folder.path}/none`, /there is no such file$/],
    [folder.path, /it is a directory$/],
    [fifo, /neither a regular file nor a block device$/],
    ["/dev/null", /neither a regular file nor a block device$/],
    [folder.file("empty", 0), /it is empty$/],
    [folder.file("tiny", 511), /smaller than one sector/],
    [`${folder.file("plain", 512)}/below`, /Not a directory/],
  ];
  for (const [target, words] of cases) {
    const error = await refusal({ target });
    assertMatch(error.message, words);
    assert(error.message.startsWith(`Cannot open image ${target}: `), error.message);
    assertEquals(error.exitStatus, 1);
  }
  assertEquals(openBelow(folder.path), 0);
});

Deno.test({
  name: "a missing Deno permission is distinguished from the file's own permissions",
  permissions: { read: false, write: false },
  fn: async () => {
    const writable = await refusal({ target: "/srv/some.img" });
    assertEquals(
      writable.line,
      "Cannot open image /srv/some.img: Deno was started without the permission; " +
        "run deno with --allow-read=/srv/some.img --allow-write=/srv/some.img",
    );
    assertEquals((await refusal({ target: "/a", readOnly: true })).remedy, "run deno with --allow-read=/a");
  },
});

Deno.test("errors of the file's permissions and file system say what to do", () => {
  const denied = new Deno.errors.PermissionDenied("Permission denied (os error 13): open '/a'");
  assertEquals(
    cannotOpen("/a", false, denied).line,
    "Cannot open image /a: permission denied; let this user write it, or attach it read-only",
  );
  assertEquals(cannotOpen("/a", true, denied).remedy, "let this user read it");
  const readOnly = Object.assign(new Error("Read-only file system (os error 30): open '/a'"), { code: "EROFS" });
  assertEquals(cannotOpen("/a", false, readOnly).remedy, "attach it read-only");
  const other = new Error("Text file busy (os error 26): open '/a'");
  assertEquals(cannotOpen("/a", false, other).message, "Cannot open image /a: Text file busy");
});

Deno.test("a disk that cannot be opened is refused in time even if its storage does not let go of the image", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 1 << 20);
  const warnings: string[] = [];
  const files = pretendFiles();
  const { promise: closed, resolve: letGo } = Promise.withResolvers<void>();
  const native = {
    ...files,
    open: async (path: string, options: ImageOptions): Promise<OpenedImage> => {
      const image = await files.open(path, options);
      return { ...image, [Symbol.asyncDispose]: () => closed.then(() => image[Symbol.asyncDispose]()) };
    },
  };
  const pool = { open: () => Promise.reject(new XenblkError("Cannot open it: every I/O Worker is busy")) };
  const context = { native, pool, warn: (line: string) => warnings.push(line), closeLimitMs: 20 };
  const request = { format: "raw", target: path, readOnly: false, engine: "file" } as const;
  await assertRejects(() => openDisk(request, context), XenblkError, "every I/O Worker is busy");
  assertEquals(warnings, [
    `image ${path}: its storage does not answer; it is closed when it does, or when this process ends`,
  ]);
  assertEquals(openBelow(folder.path), 1);
  letGo();
  await eventually(() => openBelow(folder.path) === 0, "it is closed");
});

Deno.test("an odd size is rounded down to sectors with a warning", async () => {
  using folder = new Folder();
  const path = folder.file("odd", 1024 + 100);
  const warnings: string[] = [];
  await using disk = await openFile(path, { warn: (message) => warnings.push(message) });
  assertEquals(disk.properties.sectors, 2);
  assertEquals(warnings, [`image ${path}: its last 100 bytes are not served: its size is not a multiple of 512`]);
});

Deno.test("an image that begins like another format is served raw, with a warning", async () => {
  using folder = new Folder();
  const content = new Uint8Array(4096);
  content.set([0x51, 0x46, 0x49, 0xfb]);
  const warnings: string[] = [];
  await using disk = await openFile(folder.file("a.qcow2", content), { warn: (message) => warnings.push(message) });
  assertEquals(disk.properties.sectors, 8);
  assertEquals(warnings, [
    `image ${disk.image!.path}: it begins like a qcow2 image, but is served as it is (raw); name it ` +
    `qcow2:${disk.image!.path} if the guest is to see its content`,
  ]);
});

Deno.test("a file that grows is as large when it is looked at again; one that shrinks is not given up", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 1 << 20);
  await using disk = await openFile(path, {});
  Deno.truncateSync(path, (2 << 20) + 100);
  assertEquals(disk.properties.sectors, 2048);
  await disk.grow!();
  assertEquals(disk.properties.sectors, 4096);
  assertMatch(disk.description, /2\.0 MiB/);
  Deno.truncateSync(path, 1 << 20);
  const error = await assertRejects(() => disk.grow!(), XenblkError);
  assertMatch(error.message, /^Cannot shrink image .* under its guest: it has 1\.0 MiB, the disk 2\.0 MiB$/);
  assertEquals(disk.properties.sectors, 4096);
  await using memory = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
  assertEquals(memory.grow, undefined);
});

Deno.test("a disk says what it is", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 1 << 20);
  await using rig = new PoolRig({ workers: 1 });
  await using disk = await rig.open(path, true);
  assertEquals(disk.description, `raw:${path} (1.0 MiB, read-only, engine file, cache writeback)`);
  const { logicalSectorBytes, physicalSectorBytes, sectors, readOnly } = disk.properties;
  assertEquals([logicalSectorBytes, physicalSectorBytes, sectors, readOnly], [512, 4096, 2048, true]);
  await using memory = await openDisk({ format: "memory", target: "64M", readOnly: false, engine: "auto" });
  assertEquals(memory.description, "memory:64M (64.0 MiB, engine memory)");
});

Deno.test({
  name: "a block device is as large as its end says (needs root, loop devices and losetup of Debian's package mount)",
  ignore: Deno.uid() !== 0 || !canLoop(),
  fn: async () => {
    using folder = new Folder();
    const path = folder.file("disk", 3 << 20);
    const output = new Deno.Command("losetup", { args: ["--find", "--show", path] }).outputSync();
    const device = new TextDecoder().decode(output.stdout).trim();
    using undo = new DisposableStack();
    undo.defer(() => void new Deno.Command("losetup", { args: ["--detach", device] }).outputSync());
    await using rig = new PoolRig({ workers: 2 });
    await using disk = await rig.open(device);
    assertEquals(disk.properties.sectors, (3 << 20) / 512);
    using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
    channel.buffer(0).fill(0x5a);
    assertEquals(channel.writeNow((3 << 20) - 4096, 4096), 0);
    channel.channel.flush(0);
    assertEquals(channel.finish().get(0), 0);
    assertEquals(Deno.readFileSync(path).at(-1), 0x5a);
    assertEquals(channel.readNow(3 << 20, 512), -EIO);
  },
});

/** Whether loop devices can be made here. */
function canLoop(): boolean {
  try {
    return new Deno.Command("losetup", { args: ["--find"] }).outputSync().success;
  } catch {
    return false;
  }
}

Deno.test("a format on an engine that does not serve it, and sizes that cannot be had, are refused", async () => {
  const wrong = await refusal({ format: "memory", target: "1M", engine: "file" });
  assertEquals(wrong.message, "Cannot open image memory:1M: engine file does not serve this format");
  assertEquals(wrong.exitStatus, 2);
  assertEquals(
    (await refusal({ format: "qcow2", target: "/a", engine: "uring" })).line,
    "Cannot open image qcow2:/a: engine uring does not serve this format; use engine auto or qemu",
  );
  assertMatch((await refusal({ format: "qcow2", target: "/a" })).message, /this process starts no storage daemon/);
  assertMatch((await refusal({ format: "raw", target: "/a", engine: "qemu" })).message, /starts no storage daemon/);
  assertMatch((await refusal({ format: "memory", target: "4000T" })).message, /not that much memory/);
  assertMatch((await refusal({ format: "null", target: "0" })).message, /^Cannot open null:0: it is empty/);
});

Deno.test("a file that took the image's place is not served inline", async () => {
  using folder = new Folder();
  const path = folder.file("disk", 4096);
  await using disk = await openFile(path, {});
  folder.file("other", 4096);
  Deno.renameSync(`${folder.path}/other`, path);
  const platform = simulatedPlatform();
  const attachment = await disk.attachment(0);
  const error = assertThrows(() => new ChannelRig(attachment, { platform }), Error);
  assertMatch(error.message, /another file took its place/);
});

Deno.test("a closed disk takes no channel, and closing waits for the last one", async () => {
  using folder = new Folder();
  const disk = await openFile(folder.file("disk", 4096), {});
  const attachment = await disk.attachment(0);
  const platform = simulatedPlatform();
  const rig = new ChannelRig(attachment, { platform });
  let closed = false;
  const closing = disk[Symbol.asyncDispose]().then(() => closed = true);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertEquals(closed, false);
  assertThrows(() => new ChannelRig(attachment, { platform }), XenblkError, "the disk is closed");
  rig[Symbol.dispose]();
  await closing;
  await assertRejects(() => disk.attachment(0), XenblkError, "it is closed");
});

Deno.test("a raw base leads to its overlay, also if it cannot be opened; only a raw disk ends what a daemon has", async () => {
  await using rig = new PoolRig({ workers: 1 });
  using folder = new Folder();
  const asked: string[] = [];
  const context = {
    pool: rig.pool,
    openByDaemon: ({ format, target, led }: DiskRequest): Promise<never> => {
      asked.push(`${format} ${target} ${led}`);
      return Promise.reject(new XenblkError("this test has no daemon"));
    },
    endDaemonDisk: ({ device }: DiskOwner): void => void asked.push(`end ${device}`),
  };
  const open = (target: string, engine: DiskRequest["engine"] = "auto"): Promise<Disk> => {
    const owner = { guest: 5, device: "vbd3/5/51712" };
    return openDisk({ format: "raw", target, readOnly: false, engine, sole: true, owner }, context);
  };
  const [plain, base, empty] = [folder.file("plain", 4096), folder.file("base", 4096), folder.file("empty", 0)];
  await (await open(plain))[Symbol.asyncDispose]();
  assertEquals(asked.splice(0), ["end vbd3/5/51712"]);
  for (const image of [base, empty]) {
    await noteOverlay(folder.path, image);
    for (const engine of ["auto", "file"] as const) { // the engine of the raw image cannot serve its overlay
      await assertRejects(() => open(image, engine), XenblkError, "this test has no daemon");
      assertEquals(asked.splice(0), [`qcow2 ${image}.one.qcow2 true`], "the daemon keeps what it has of the overlay");
    }
  }
  assertEquals(openBelow(folder.path), 0);
});

/** An overlay over the image, and the note that leads there. */
async function noteOverlay(folder: string, image: string): Promise<void> {
  const base = image.slice(folder.length + 1);
  writeOverlayHeader(`${image}.one.qcow2`, base);
  const created = "2026-11-30T08:00:00.000Z";
  const overlay = `${base}.one.qcow2`;
  await writeNote(folder, { version: 1, snapshot: "one", created, base, baseFormat: "raw", overlay });
}
