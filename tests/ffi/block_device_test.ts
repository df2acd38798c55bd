/**
 * Block devices that must not be written, or not be used at all: read-only ones, mounted ones, swap space, and one medium
 * under several names. On loop devices; needs root.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import "./libraries.ts";
import { LinuxFiles } from "../../ffi/uring/image_files.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { Disk, DiskRequest } from "../../lib/storage/disk.ts";
import { ProcessImageLocks } from "../../lib/storage/image/lock.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { HangingFileSystem, missingFuse } from "../native/hanging_fs.ts";
import { Folder } from "../storage/rig.ts";

const WRITES = { writes: true, shared: false, by: "vbd3/1/51712" };
const IMAGE_BYTES = 16 << 20;

function run(command: string, ...args: string[]): string {
  const { success, stdout, stderr } = new Deno.Command(command, { args }).outputSync();
  if (!success) throw new Error(`${command} failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout).trim();
}

/** An image file and a loop device on it. */
class Loop implements Disposable {
  readonly folder = new Folder();
  readonly file = this.folder.file("disk.img", IMAGE_BYTES);
  readonly device: string;
  readonly #undo = new DisposableStack();

  constructor(...options: string[]) {
    this.device = run("losetup", "--find", "--show", ...options, this.file);
    this.#undo.defer(() => void run("losetup", "--detach", this.device));
  }

  /** Mounts the device on a new folder. */
  mount(...options: string[]): string {
    const at = `${this.folder.path}/mnt point`;
    Deno.mkdirSync(at, { recursive: true });
    run("mount", ...options, this.device, at);
    this.#undo.defer(() => void run("umount", at));
    return at;
  }

  [Symbol.dispose](): void {
    this.#undo.dispose();
    this.folder[Symbol.dispose]();
  }
}

function open(target: string, request: Partial<DiskRequest> = {}): Promise<Disk> {
  return openDisk({ format: "raw", target, readOnly: false, engine: "auto", ...request }, { native: new LinuxFiles() });
}

function ignore(): boolean {
  try {
    if (Deno.uid() !== 0) return true;
    new Loop()[Symbol.dispose]();
    return false;
  } catch {
    return true;
  }
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `${name} (needs root and loop devices)`, ignore: ignore(), fn });
}

test("a block device that is read-only by itself is refused for writing, and served read-only", async () => {
  using loop = new Loop("--read-only");
  const error = await assertRejects(() => open(loop.device), XenblkError);
  assertEquals(
    error.line,
    `Cannot open image ${loop.device} for writing: the block device is read-only; attach it read-only ` +
      `(access=ro, mode r), or let it be written (blockdev --setrw ${loop.device})`,
  );
  await using disk = await open(loop.device, { readOnly: true });
  assertEquals(disk.properties.readOnly, true);
});

test("a device that the host has mounted is refused for writing, and for reading if it is mounted writable", async () => {
  using loop = new Loop();
  run("mkfs.ext4", "-q", loop.device);
  {
    await using free = await open(loop.device);
    assertEquals(free.properties.readOnly, false);
  }
  const at = loop.mount();
  for (const readOnly of [false, true]) {
    const error = await assertRejects(() => open(loop.device, { readOnly }), XenblkError);
    assertEquals(
      error.message,
      `Cannot ${readOnly ? "read" : "write to"} image ${loop.device}: it is mounted at ${at}`,
    );
    assertMatch(error.remedy!, readOnly ? /^unmount it, or mount it read-only/ : /insist with mode w!$/);
  }
  await using insisted = await open(loop.device, { shared: true });
  assertEquals(insisted.properties.sectors, IMAGE_BYTES / 512);
  run("mount", "-o", "remount,ro", at);
  await assertRejects(() => open(loop.device), XenblkError, "it is mounted at");
  await using reader = await open(loop.device, { readOnly: true });
  assertEquals(reader.properties.readOnly, true);
});

test("a file is in use if a loop device on it, or on a hard link or bind mount of it, is mounted", async () => {
  using folder = new Folder();
  const file = folder.file("disk.img", IMAGE_BYTES);
  const link = `${folder.path}/link.img`;
  Deno.linkSync(file, link);
  const [at, bound] = [`${folder.path}/mount`, `${folder.path}/bound`];
  for (const path of [at, bound]) Deno.mkdirSync(path);
  using undo = new DisposableStack();
  run("mount", "--bind", folder.path, bound);
  undo.defer(() => void run("umount", bound));
  for (const behind of [file, link, `${bound}/disk.img`]) {
    using loop = new DisposableStack();
    const device = run("losetup", "--find", "--show", behind);
    loop.defer(() => void run("losetup", "--detach", device));
    run("mkfs.ext4", "-q", "-F", device);
    {
      await using free = await open(file);
      assertEquals(free.properties.sectors, IMAGE_BYTES / 512, "a loop device alone is no use");
    }
    run("mount", device, at);
    loop.defer(() => void run("umount", at));
    for (const readOnly of [false, true]) {
      const error = await assertRejects(() => open(file, { readOnly }), XenblkError);
      assertEquals(
        error.message,
        `Cannot ${readOnly ? "read" : "write to"} image ${file}: ${device}, which lies on it, is mounted at ${at}`,
      );
    }
    await using other = await open(folder.file("other.img", IMAGE_BYTES));
    assertEquals(other.properties.sectors, IMAGE_BYTES / 512);
    run("mount", "-o", "remount,ro", at);
    await using reader = await open(file, { readOnly: true });
    assertEquals(reader.properties.readOnly, true);
    await using insisted = await open(file, { shared: true });
    assertEquals(insisted.properties.readOnly, false);
  }
});

test("a loop device on a file system that does not answer delays the opening of no other image", async () => {
  if (missingFuse() !== undefined) return;
  await using fuse = await HangingFileSystem.mount();
  using undo = new DisposableStack();
  const device = run("losetup", "--find", "--show", fuse.image("hung.img", IMAGE_BYTES));
  undo.defer(() => void run("losetup", "--detach", device));
  using folder = new Folder();
  const file = folder.file("disk.img", IMAGE_BYTES);
  await fuse.hang("lookup", "getattr");
  await using disk = await open(file);
  const { lookup, getattr } = await fuse.held();
  await fuse.resume();
  assertEquals([disk.properties.sectors, lookup, getattr], [IMAGE_BYTES / 512, 0, 0]);
});

test("a disk is in use if one of its partitions is mounted", async () => {
  using loop = new Loop("--partscan");
  using undo = new DisposableStack();
  run("addpart", loop.device, "1", "2048", "16384");
  undo.defer(() => void run("delpart", loop.device, "1"));
  const partition = `${loop.device}p1`;
  run("mkfs.ext4", "-q", partition);
  const at = `${loop.folder.path}/part`;
  Deno.mkdirSync(at);
  run("mount", partition, at);
  try {
    const error = await assertRejects(() => open(loop.device), XenblkError);
    assertEquals(
      error.message,
      `Cannot write to image ${loop.device}: ${partition}, a part of it, is mounted at ${at}`,
    );
  } finally {
    run("umount", at);
  }
  await using whole = await open(loop.device);
  await using part = await open(partition);
  const locks = new ProcessImageLocks(undefined, () => {});
  const lock = await locks.tryLock(whole.image!, WRITES);
  assert(typeof lock === "object");
  assertEquals(
    await locks.tryLock(part.image!, WRITES),
    `xenblk serves ${loop.device}, the same medium, to vbd3/1/51712`,
  );
  await lock[Symbol.asyncDispose]();
});

test("a device is one by its number: another node of it, and the file behind a loop device, are the same medium", async () => {
  using loop = new Loop();
  const { rdev } = Deno.statSync(loop.device);
  const node = `${loop.folder.path}/node`;
  run("mknod", node, "b", `${(rdev! >> 8) & 0xfff}`, `${rdev! & 0xff}`);
  await using device = await open(loop.device);
  await using twin = await open(node);
  await using file = await open(loop.file);
  await using other = await open(loop.folder.file("other.img", IMAGE_BYTES));
  const locks = new ProcessImageLocks(undefined, () => {});
  const first = await locks.tryLock(device.image!, WRITES);
  assert(typeof first === "object");
  assertEquals(await locks.tryLock(twin.image!, WRITES), "xenblk serves it to vbd3/1/51712");
  assertMatch(String(await locks.tryLock(file.image!, WRITES)), /^xenblk serves .*, the same medium, to vbd3/);
  assert(typeof await locks.tryLock(other.image!, WRITES) === "object");
  await first[Symbol.asyncDispose]();
  const second = await locks.tryLock(file.image!, WRITES);
  assert(typeof second === "object");
  assertMatch(String(await locks.tryLock(device.image!, WRITES)), /the same medium/);
});
