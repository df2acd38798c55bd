/**
 * Image locks on real files: against ourselves, against another process, and both ways against QEMU's own tools, which
 * take the same ones; and that the descriptors which do the I/O are locked too.
 */

import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import "./libraries.ts";
import { NativeImageLocks } from "../../ffi/linux/image_lock.ts";
import { LinuxFiles } from "../../ffi/uring/image_files.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { LockableImage } from "../../lib/hypervisor.ts";
import { ImageDescriptors } from "../../lib/storage/image/descriptors.ts";
import { identityOf } from "../../lib/storage/image/file.ts";
import type { ImageUse } from "../../lib/storage/image/lock.ts";
import type { ImageChannels, OpenedImage } from "../../lib/storage/image/medium.ts";

const WRITES: ImageUse = { writes: true, shared: false, by: "writer" };
const READS: ImageUse = { writes: false, shared: false, by: "reader" };
const SHARES: ImageUse = { writes: true, shared: true, by: "sharer" };

/** An image of 1 MiB that is gone at the end. */
class TestImage implements Disposable {
  readonly path = Deno.makeTempFileSync({ suffix: ".img" });
  readonly image: LockableImage;

  constructor() {
    Deno.truncateSync(this.path, 1 << 20);
    this.image = { path: this.path, identity: identityOf(Deno.statSync(this.path)) };
  }

  /** Takes the lock as another disk would. */
  lock(use: ImageUse): Promise<AsyncDisposable | string> {
    return new NativeImageLocks().tryLock(this.image, use);
  }

  /** Opens it as a disk does. */
  async open(): Promise<OpenedImage & { readonly image: LockableImage; readonly channels: ImageChannels }> {
    const opened = await new LinuxFiles().open(this.path, { readOnly: false, direct: false, writeThrough: false });
    const channels = opened.channels!;
    const { identity } = opened;
    const image = { path: this.path, identity, descriptors: channels.descriptors };
    return Object.assign(opened, { image, channels });
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path);
  }
}

function assertLocked(lock: AsyncDisposable | string): asserts lock is AsyncDisposable {
  assert(typeof lock === "object", String(lock));
}

/** The bytes that the descriptors of a file in this process have locked, one text for each that has any. */
function lockedBytes(path: string): string[] {
  return [...Deno.readDirSync("/proc/self/fd")].flatMap(({ name }) => {
    try {
      if (Deno.readLinkSync(`/proc/self/fd/${name}`) !== path) return [];
      const lines = Deno.readTextFileSync(`/proc/self/fdinfo/${name}`).matchAll(
        /OFDLCK ADVISORY +READ .* (\d+) (\d+)$/gm,
      );
      return [[...lines].map(([, first, last]) => `${first}-${last}`).sort().join(" ")];
    } catch {
      return []; // the descriptor that listed the others
    }
  });
}

Deno.test("two writers, or a writer and a reader, exclude each other in either order; readers and sharers do not", async () => {
  using test = new TestImage();
  for (
    const [first, second, excluded] of [
      [WRITES, WRITES, true],
      [WRITES, READS, true],
      [READS, WRITES, true],
      [WRITES, SHARES, true],
      [READS, SHARES, true],
      [READS, READS, false],
      [SHARES, SHARES, false],
    ] as const
  ) {
    const held = await test.lock(first);
    assertLocked(held);
    const other = await test.lock(second);
    assertEquals(typeof other === "string", excluded, `${first.by}, then ${second.by}`);
    await held[Symbol.asyncDispose]();
    if (typeof other === "object") await other[Symbol.asyncDispose]();
    const again = await test.lock(WRITES);
    assertLocked(again); // a refusal left nothing behind
    await again[Symbol.asyncDispose]();
  }
});

Deno.test("the bytes are QEMU's, on every descriptor of the image, until the lock is released", async () => {
  using test = new TestImage();
  using _other = Deno.openSync(test.path, { read: true, write: true });
  await using opened = await test.open();
  await opened.channels.lease();
  const locks = new NativeImageLocks();
  const lock = await locks.tryLock(opened.image, WRITES);
  assertLocked(lock);
  const bytes = "100-101 201-201 203-203";
  assertEquals(lockedBytes(test.path).sort(), ["", bytes, bytes]);
  await opened.channels.lease();
  assertEquals(lockedBytes(test.path).sort(), ["", bytes, bytes, bytes], "one that is opened since is locked too");
  await lock[Symbol.asyncDispose]();
  assertEquals(lockedBytes(test.path), ["", "", "", ""]);
  await opened.channels.lease();
  assertEquals(lockedBytes(test.path), ["", "", "", "", ""], "without a lock there is nothing to be locked");
  const reader = await locks.tryLock(opened.image, READS);
  assertLocked(reader);
  assertEquals(lockedBytes(test.path).filter((text) => text !== ""), new Array(4).fill("100-100 201-201 203-203"));
  await reader[Symbol.asyncDispose]();
});

Deno.test("the descriptor of a closed channel serves the next one, and closing the image closes all", async () => {
  using test = new TestImage();
  const opened = await test.open();
  const table = new ImageDescriptors(opened.image);
  const first = await opened.channels.lease();
  const second = await opened.channels.lease();
  const fd = table.take(first);
  assert(fd !== table.take(second), "each channel has an open file description of its own");
  assertThrows(() => table.take(first), XenblkError, "another channel has its descriptor");
  table.release(first);
  assertEquals(table.take(first), fd, "the same channel again");
  table.release(first);
  const third = await opened.channels.lease();
  assertThrows(() => table.take(first), XenblkError, "another channel has its descriptor");
  assertEquals(table.take(third), fd);
  assertEquals(lockedBytes(test.path).length, 3);
  await opened[Symbol.asyncDispose]();
  assertEquals(lockedBytes(test.path).length, 0);
});

Deno.test("channels that were promised and never opened do not use descriptors up", async () => {
  using test = new TestImage();
  await using opened = await test.open();
  const first = await opened.channels.lease();
  for (let i = 0; i < 200; i++) await opened.channels.lease();
  assertEquals(lockedBytes(test.path).length, 65);
  assertThrows(() => new ImageDescriptors(opened.image).take(first), XenblkError, "another channel has its descriptor");
});

Deno.test("a lock ends with the process that has it, and until then the refusal names that process", async () => {
  using test = new TestImage();
  const program = new URL("./lock_child.ts", import.meta.url).pathname;
  const args = ["run", "-A", "--no-check", program, test.path];
  const child = new Deno.Command(Deno.execPath(), { args, stdout: "piped" }).spawn();
  try {
    const reader = child.stdout.getReader();
    assertEquals(new TextDecoder().decode((await reader.read()).value), "locked\n");
    await reader.cancel();
    assertEquals(await test.lock(READS), `process ${child.pid} (deno) uses it`);
  } finally {
    child.kill("SIGKILL");
    await child.status;
  }
  const lock = await test.lock(WRITES);
  assertLocked(lock);
  await lock[Symbol.asyncDispose]();
});

Deno.test("an image that nobody has open is not locked if it is gone, or another one is at its path", async () => {
  const test = new TestImage();
  const other = Deno.makeTempFileSync();
  Deno.renameSync(other, test.path);
  await assertRejects(() => test.lock(WRITES), Error, "another file took its place");
  test[Symbol.dispose]();
  await assertRejects(() => test.lock(WRITES), Error, "No such file or directory (ENOENT)");
});

const hasQemu = await new Deno.Command("sh", {
  args: ["-c", "command -v qemu-io && command -v qemu-img"],
  stdout: "null",
})
  .output().then(({ success }) => success);
// deno-lint-ignore no-console -- why a test is ignored is to be seen
if (!hasQemu) console.log("image locks beside QEMU's: ignored, qemu-io is missing (Debian package qemu-utils)");

async function qemu(program: string, ...args: string[]): Promise<{ success: boolean; words: string }> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  return { success, words: new TextDecoder().decode(stderr) + new TextDecoder().decode(stdout) };
}

Deno.test({ name: "QEMU's tools respect our lock", ignore: !hasQemu }, async () => {
  using test = new TestImage();
  const writer = await test.lock(WRITES);
  assertLocked(writer);
  const write = await qemu("qemu-io", "-f", "raw", "-c", "write 0 512", test.path);
  assertEquals(write.success, false);
  assertMatch(write.words, /Failed to get "write" lock/);
  const read = await qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", test.path, `${test.path}.copy`);
  assertEquals(read.success, false);
  assertMatch(read.words, /Failed to get shared "write" lock/);
  assert((await qemu("qemu-img", "info", "-U", "-f", "raw", test.path)).success, "-U asks for no lock");
  await writer[Symbol.asyncDispose]();
  const reader = await test.lock(READS);
  assertLocked(reader);
  assertEquals((await qemu("qemu-io", "-f", "raw", "-c", "write 0 512", test.path)).success, false);
  assert((await qemu("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", test.path)).success);
  await reader[Symbol.asyncDispose]();
  assert((await qemu("qemu-io", "-f", "raw", "-c", "write 0 512", test.path)).success);
});

Deno.test({ name: "we respect QEMU's lock, and say which process has it", ignore: !hasQemu }, async () => {
  using test = new TestImage();
  const holder = new Deno.Command("qemu-io", { args: ["-f", "raw", test.path], stdin: "piped", stdout: "null" })
    .spawn();
  try {
    // It opens the image more than once, so its first lock may not be the one it keeps.
    const patience = performance.now() + 30_000;
    for (let lock = await test.lock(READS); performance.now() < patience; lock = await test.lock(READS)) {
      if (typeof lock === "object") await lock[Symbol.asyncDispose]();
      else if (lock.includes("qemu-io")) break;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    for (const use of [WRITES, READS]) {
      assertStringIncludes(String(await test.lock(use)), `process ${holder.pid} (qemu-io) uses it`);
    }
    const shared = await test.lock(SHARES); // qemu-io lets others write
    assertLocked(shared);
    await shared[Symbol.asyncDispose]();
  } finally {
    await holder.stdin.close();
    await holder.status;
  }
});
