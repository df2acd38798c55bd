/**
 * The file system that hangs (hanging_fs.ts) itself: files pass through, each operation hangs until it is resumed, a
 * process that hangs can be killed only where interrupts are honoured, and unmounting ends everything that hangs.
 */

import { assert, assertEquals } from "@std/assert";
import { HangingFileSystem, type HangingOperation, missingFuse } from "../hanging_fs.ts";
import { nativeTest } from "../harness.ts";

const IMAGE_BYTES = 2 ** 22;

/** Runs a program that touches the mount, in a process of its own. */
function start(program: string, ...args: string[]): Deno.ChildProcess {
  return new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "null" }).spawn();
}

/** A program that meets the operation. */
const MEETS: Partial<Record<HangingOperation, (image: string) => Deno.ChildProcess>> = {
  lookup: (image) => start("stat", image),
  getattr: (image) => start("stat", image),
  open: (image) => start("dd", `if=${image}`, "of=/dev/null", "bs=4096", "count=1"),
  // Direct, because a process that waits for the page cache can be killed.
  read: (image) => start("dd", `if=${image}`, "of=/dev/null", "bs=4096", "count=1", "iflag=direct"),
  write: (image) => start("dd", "if=/dev/zero", `of=${image}`, "bs=4096", "count=1", "conv=notrunc"),
  fsync: (image) => start("dd", "if=/dev/zero", `of=${image}`, "bs=4096", "count=1", "conv=notrunc,fsync"),
  flush: (image) => start("dd", `if=${image}`, "of=/dev/null", "bs=4096", "count=1"),
  fallocate: (image) => start("fallocate", "--punch-hole", "--length", "4096", image),
  statfs: (image) => start("stat", "--file-system", image),
  setattr: (image) => start("truncate", "--size", String(IMAGE_BYTES), image),
};

/** Whether the process ends within the time. */
async function endsWithin(child: Deno.ChildProcess, milliseconds: number): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<false>((resolve) => timer = setTimeout(() => resolve(false), milliseconds));
  const ended = await Promise.race([child.status.then(() => true), late]);
  clearTimeout(timer);
  return ended;
}

nativeTest("files of a hanging file system can be read and written in both folders", async () => {
  await using fuse = await HangingFileSystem.mount();
  const image = fuse.image("disk.img", IMAGE_BYTES);
  const data = crypto.getRandomValues(new Uint8Array(40_000));
  {
    using file = Deno.openSync(image, { read: true, write: true });
    file.seekSync(12_345, Deno.SeekMode.Start);
    assertEquals(await file.write(data), data.length);
    await file.syncData();
    assertEquals(Deno.statSync(image).size, IMAGE_BYTES);
  }
  assertEquals(Deno.readFileSync(`${fuse.backing}/disk.img`).subarray(12_345, 12_345 + data.length), data);
  assertEquals(Deno.readFileSync(image).subarray(12_345, 12_345 + data.length), data);
}, missingFuse());

for (const [operation, meets] of Object.entries(MEETS) as [HangingOperation, (image: string) => Deno.ChildProcess][]) {
  nativeTest(`${operation} hangs until it is resumed`, async () => {
    await using fuse = await HangingFileSystem.mount();
    const image = fuse.image("disk.img", IMAGE_BYTES);
    await fuse.hang(operation);
    const child = meets(image);
    await fuse.untilHeld(operation);
    child.kill("SIGKILL");
    assert(!await endsWithin(child, 100), "the kernel keeps the process");
    await fuse.resume();
    await child.status;
  }, missingFuse());
}

nativeTest("a process that hangs can be killed where interrupts are honoured", async () => {
  await using fuse = await HangingFileSystem.mount();
  const image = fuse.image("disk.img", IMAGE_BYTES);
  await fuse.hang("open", "interrupts");
  const child = MEETS.open!(image);
  await fuse.untilHeld("open");
  child.kill("SIGKILL");
  await child.status;
  await fuse.resume();
}, missingFuse());

nativeTest("unmounting a hanging file system ends the process that hangs", async () => {
  const fuse = await HangingFileSystem.mount();
  await fuse.hang("read");
  const child = MEETS.read!(fuse.image("disk.img", IMAGE_BYTES));
  await fuse.untilHeld("read");
  await fuse[Symbol.asyncDispose]();
  await child.status;
}, missingFuse());
