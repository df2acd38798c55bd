/**
 * Images on a FUSE file system that stops answering: opening, locking, reading and closing them ends at a limit, the
 * calling thread never waits, and an image on another file system is opened, locked and served meanwhile.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import "./libraries.ts";
import { NativeImageLocks } from "../../ffi/linux/image_lock.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import { LinuxFiles } from "../../ffi/uring/image_files.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { FileThreads, StorageSilentError } from "../../lib/storage/image/file_threads.ts";
import { openImage } from "../../lib/storage/image/inspect.ts";
import type { OpenedImage, UringAttachment } from "../../lib/storage/image/medium.ts";
import { type OpenContext, openDisk } from "../../lib/storage/open.ts";
import { countChannels } from "../../lib/storage/open_channels.ts";
import { HangingFileSystem, type HangingOperation, missingFuse } from "../native/hanging_fs.ts";
import { nativeTest } from "../native/harness.ts";
import { ChannelRig, eventually, Folder, openBelow, PoolRig, UringRig } from "../storage/rig.ts";

const IMAGE_BYTES = 1 << 20;
const LIMIT_MS = 1_000;
const WRITES = { writes: true, shared: false, by: "a test" };

/** Two images, one of which can hang; and the longest time that this thread did nothing else. */
class Rig implements AsyncDisposable {
  readonly threads = new FileThreads({ limitMs: LIMIT_MS, idleMs: 50 });
  readonly locks = new NativeImageLocks(this.threads);
  readonly warnings: string[] = [];
  readonly hanging: string;
  readonly sound: string;
  longestGapMs = 0;
  readonly #folder = new Folder();
  readonly #timer: ReturnType<typeof setInterval>;

  private constructor(readonly fuse: HangingFileSystem) {
    this.hanging = fuse.image("disk.img", IMAGE_BYTES);
    this.sound = this.#folder.file("disk.img", IMAGE_BYTES);
    let last = performance.now();
    this.#timer = setInterval(() => {
      const now = performance.now();
      this.longestGapMs = Math.max(this.longestGapMs, now - last);
      last = now;
    }, 5);
  }

  static async start(): Promise<Rig> {
    return new Rig(await HangingFileSystem.mount());
  }

  open(path: string, context: OpenContext = {}, engine: "auto" | "file" = "auto"): Promise<Disk> {
    const native = new LinuxFiles(this.threads);
    const warn = (message: string): void => void this.warnings.push(message);
    return openDisk({ format: "raw", target: path, readOnly: false, engine }, { native, warn, ...context });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.fuse.resume();
    await eventually(() => openBelow(this.fuse.path) === 0, "every descriptor is closed");
    await eventually(() => this.threads.counts.threads === 0, "every thread ends");
    clearInterval(this.#timer);
    await this.fuse[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
    assert(this.longestGapMs < LIMIT_MS / 2, `this thread waited for ${this.longestGapMs} ms`);
  }
}

for (const operation of ["lookup", "getattr", "open", "read"] satisfies HangingOperation[]) {
  nativeTest(`an image that hangs at ${operation} is given up, holds up no other, and is opened later`, async () => {
    await using rig = await Rig.start();
    await rig.fuse.hang(operation);
    let given = false;
    const hung = assertRejects(() => rig.open(rig.hanging), StorageSilentError).finally(() => given = true);
    await rig.fuse.untilHeld(operation);
    {
      await using neighbour = await rig.open(rig.sound);
      const lock = await rig.locks.tryLock(neighbour.image!, WRITES);
      assert(typeof lock === "object");
      await neighbour.attachment(0);
      await lock[Symbol.asyncDispose]();
      assertEquals(given, false, "the neighbour did not wait");
    }
    const error = await hung;
    assertEquals(
      error.line,
      `Cannot open image ${rig.hanging}: its storage does not answer (open took longer than 1 s); ` +
        "check the device or file server that it is on",
    );
    await rig.fuse.resume();
    await using disk = await rig.open(rig.hanging);
    assertMatch(disk.description, /engine file/);
    assertMatch(rig.warnings.join(), /engine file in place of uring: its file system \(FUSE\) may make a reactor/);
  }, missingFuse());
}

nativeTest(
  "an image that hangs when it is locked is not served without its lock; others are locked meanwhile",
  async () => {
    await using rig = await Rig.start();
    await using disk = await rig.open(rig.hanging);
    await using neighbour = await rig.open(rig.sound);
    await rig.fuse.hang("lock", "getattr");
    const hung = assertRejects(() => rig.locks.tryLock(disk.image!, WRITES), StorageSilentError, "Cannot lock image");
    await rig.fuse.untilHeld("lock");
    const lock = await rig.locks.tryLock(neighbour.image!, WRITES);
    assert(typeof lock === "object");
    await lock[Symbol.asyncDispose]();
    await hung;
    await assertRejects(() => rig.locks.tryLock(disk.image!, WRITES), StorageSilentError, "an earlier call");
    await rig.fuse.resume();
    await rig.threads.quiet(rig.hanging);
    const late = await rig.locks.tryLock(disk.image!, WRITES);
    assert(typeof late === "object", String(late));
    await late[Symbol.asyncDispose]();
  },
  missingFuse(),
);

nativeTest(
  "retries for an image whose lock hangs leave a bounded number of descriptors, and go on when it answers",
  async () => {
    await using rig = await Rig.start();
    await rig.fuse.hang("lock");
    for (let retry = 0; retry < 8; retry++) {
      await using disk = await rig.open(rig.hanging, { closeLimitMs: 10 });
      await assertRejects(() => rig.locks.tryLock(disk.image!, WRITES), StorageSilentError, "Cannot lock image");
    }
    const open = openBelow(rig.fuse.path);
    await assertRejects(() => rig.open(rig.hanging), StorageSilentError, "8 earlier uses of it could not be closed");
    assertEquals(openBelow(rig.fuse.path), open);
    await rig.fuse.resume();
    await rig.threads.quiet(rig.hanging);
    await using disk = await rig.open(rig.hanging);
    const lock = await rig.locks.tryLock(disk.image!, WRITES);
    assert(typeof lock === "object");
    await lock[Symbol.asyncDispose]();
  },
  missingFuse(),
);

nativeTest("a lock whose release was not answered in time is released in the end", async () => {
  await using rig = await Rig.start();
  await using disk = await rig.open(rig.hanging);
  const lock = await rig.locks.tryLock(disk.image!, WRITES);
  assert(typeof lock === "object");
  await rig.fuse.hang("statfs", "lock", "getattr");
  const look = { path: rig.hanging, verb: "look at" };
  const module = new URL("../../ffi/uring/image_calls.ts", import.meta.url).href;
  const lost = Array.from(
    { length: 2 },
    () => rig.threads.run({ module, kind: "isReplaced", image: disk.image }, look),
  );
  await Promise.all(lost.map((call) => assertRejects(() => call, StorageSilentError)));
  await assertRejects(() => lock[Symbol.asyncDispose](), StorageSilentError, "Cannot unlock image");
  await assertRejects(() => rig.locks.tryLock(disk.image!, WRITES), StorageSilentError, "an earlier call");
  await rig.fuse.resume();
  await rig.threads.quiet(rig.hanging);
  await using other = await rig.open(rig.hanging);
  const locks = new NativeImageLocks(rig.threads);
  const taken = await locks.tryLock(other.image!, WRITES);
  assert(typeof taken === "object", String(taken));
  await taken[Symbol.asyncDispose]();
}, missingFuse());

nativeTest("without system calls of our own, an image that hangs is given up as well, and not left open", async () => {
  await using rig = await Rig.start();
  await rig.fuse.hang("open");
  await assertRejects(() => openImage(rig.hanging, false, 200), StorageSilentError, "open took longer than 0.2 s");
  await rig.fuse.resume();
  await using image = await openImage(rig.hanging, false, LIMIT_MS);
  assertEquals(image.sizeBytes, IMAGE_BYTES);
}, missingFuse());

nativeTest("a disk whose reads hang is served by I/O Workers, and its neighbour is served meanwhile", async () => {
  await using rig = await Rig.start();
  const limits = { stuckMs: 100, openMs: LIMIT_MS };
  await using workers = new PoolRig({ platform: openNativePlatform(), workers: 2, limits });
  const { pool, platform, parker } = workers;
  const disk = await rig.open(rig.hanging, { pool });
  const neighbour = await rig.open(rig.sound, { pool }, "file");
  {
    using channel = new ChannelRig(await disk.attachment(0), { platform, parker });
    using other = new ChannelRig(await neighbour.attachment(0), { platform, parker });
    await rig.fuse.hang("read");
    for (let tag = 0; tag < 32; tag++) channel.read(tag, IMAGE_BYTES - (tag + 1) * 4096, [4096]);
    channel.channel.submit();
    await rig.fuse.untilHeld("read");
    other.read(0, 0, [4096]);
    other.channel.submit();
    await eventually(() => other.channel.reap() === 1, "the neighbour is served");
    await rig.fuse.resume();
    await eventually(() => (channel.channel.reap(), channel.channel.inFlight === 0), "the reads that hung are done");
  }
  await neighbour[Symbol.asyncDispose]();
  await disk[Symbol.asyncDispose]();
}, missingFuse());

nativeTest("a disk whose close hangs is left at the limit with a warning, and closed later", async () => {
  await using rig = await Rig.start();
  const disk = await rig.open(rig.hanging, { closeLimitMs: 100 });
  await rig.fuse.hang("flush");
  await disk[Symbol.asyncDispose]();
  assertMatch(rig.warnings.join("\n"), /disk\.img: its storage does not answer; it is closed when it does/);
  await using neighbour = await rig.open(rig.sound);
  await neighbour.attachment(0);
}, missingFuse());

nativeTest("an image that is closed while a channel's descriptor is being opened leaves none open", async () => {
  await using rig = await Rig.start();
  const options = { readOnly: false, direct: false, writeThrough: false };
  const image = await new LinuxFiles(rig.threads).open(rig.hanging, options);
  await rig.fuse.hang("open");
  const leasing = image.channels!.lease();
  await rig.fuse.untilHeld("open");
  const closing = image[Symbol.asyncDispose]();
  // Other threads take calls meanwhile, and would have taken the close.
  await rig.open(rig.sound).then((neighbour) => neighbour[Symbol.asyncDispose]());
  await rig.fuse.resume();
  await Promise.all([leasing, closing]);
  assertEquals(openBelow(rig.fuse.path), 0);
}, missingFuse());

nativeTest("flushes that hang in the kernel's threads of a ring leave threads to another disk", async () => {
  await using rig = await Rig.start();
  using reactor = new UringRig();
  const { platform, parker, channels: open } = reactor;
  await using neighbour = await reactor.open(rig.sound);
  using its = new ChannelRig(await neighbour.attachment(0), { platform, parker, open });
  // Not served by the ring otherwise: it stands in for a local disk whose medium hangs.
  const options = { readOnly: false, direct: false, writeThrough: false };
  await using image = await new LinuxFiles(rig.threads).open(rig.hanging, options);
  using undo = new DisposableStack();
  const stuck: ChannelRig[] = [];
  // More than the kernel's own limit: four threads per processor.
  while (stuck.length < 4 * navigator.hardwareConcurrency + 8) {
    const attachment = await ringAttachment(rig.hanging, image, platform.files!.uringModule);
    stuck.push(undo.use(new ChannelRig(attachment, { platform, parker, open, depth: 1, vectorsPerTag: 1 })));
  }
  const reap = (channels: readonly ChannelRig[]): boolean => {
    parker.submit();
    for (const { channel } of channels) channel.reap();
    return channels.every(({ channel }) => channel.inFlight === 0);
  };
  const flush = (channels: readonly ChannelRig[]): void => {
    for (const { channel } of channels) {
      channel.flush(0);
      channel.submit();
    }
    parker.submit();
  };
  await rig.fuse.hang("fsync");
  flush(stuck);
  await rig.fuse.untilHeld("fsync");
  flush([its]);
  await eventually(() => reap([its]), "the other disk's flush is done");
  assertEquals(stuck.map(({ channel }) => channel.inFlight), stuck.map(() => 1));
  await rig.fuse.resume();
  await eventually(() => reap(stuck), "the flushes that hung are done");
}, missingFuse());

/** An image's next channel, by the ring. */
async function ringAttachment(path: string, image: OpenedImage, module: string): Promise<UringAttachment> {
  const { identity, channels } = image;
  return {
    module,
    image: { path, readOnly: false, cache: "writeback", identity, descriptors: channels!.descriptors },
    routes: { direct: false, reads: "ring", writes: "ring" },
    channels: countChannels(),
    descriptor: await channels!.lease(),
  };
}

nativeTest("the ring is refused for a file system that may make it wait, with the reason", async () => {
  await using rig = await Rig.start();
  const request = { format: "raw", target: rig.hanging, readOnly: false, engine: "uring" } as const;
  const error = await assertRejects(() => openDisk(request, { native: new LinuxFiles(rig.threads) }), XenblkError);
  assertMatch(error.message, /^Cannot open image .*: engine uring cannot be used: its file system \(FUSE\) may make/);
}, missingFuse());
