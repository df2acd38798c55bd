/**
 * I/O Workers that do not return: several disks that hang hold up no other disk, in I/O and when they are opened or
 * closed; and Workers that die or cannot start are replaced.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { fileDescriptor } from "../../lib/storage/engine/file.ts";
import { identityOf } from "../../lib/storage/image/file.ts";
import { StorageSilentError } from "../../lib/storage/image/file_threads.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { ExecutorDescriptor } from "../../lib/storage/pool/executor_module.ts";
import type { PoolAttachment } from "../../lib/storage/pool/attachment.ts";
import { Doorbell } from "../../lib/storage/pool/doorbell.ts";
import { JobQueue } from "../../lib/storage/pool/job_queue.ts";
import { IoPool } from "../../lib/storage/pool/pool.ts";
import { ChannelRig, eventually, Folder, openBelow, PoolRig, simulatedPlatform } from "./rig.ts";

const STALLING = new URL("./stalling_executor.ts", import.meta.url);

/** A pool whose disks stall while `<path>.stall` exists. */
class StallingRig implements AsyncDisposable {
  readonly folder = new Folder();
  readonly warnings: string[] = [];
  readonly pool: PoolRig;

  constructor(workers = 4) {
    this.pool = new PoolRig({
      workers,
      module: STALLING,
      limits: { stuckMs: 50, openMs: 500 },
      warn: (message) => this.warnings.push(message),
    });
  }

  async open(name: string, closeLimitMs = 60_000): Promise<Disk> {
    return await this.pool.open(this.folder.file(name, 1 << 20), false, closeLimitMs);
  }

  /** The disk's calls do not return until {@linkcode resume}. */
  stall(name: string): void {
    this.folder.file(`${name}.stall`, 1);
  }

  resume(name: string): void {
    Deno.removeSync(`${this.folder.path}/${name}.stall`);
  }

  async channel(disk: Disk, depth = 32): Promise<ChannelRig> {
    const { platform, parker } = this.pool;
    return new ChannelRig(await disk.attachment(0), { platform, parker, depth });
  }

  /** As many reads as occupy every Worker that the disk may have. */
  fill(channel: ChannelRig): void {
    for (let tag = 0; tag < 32; tag++) channel.read(tag, tag * 4096, [512]);
    channel.channel.submit();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

Deno.test("three disks that hang hold up no other disk, and are served when they answer", async () => {
  await using rig = new StallingRig();
  const names = ["one", "two", "three"];
  const disks = await Promise.all(names.map((name) => rig.open(name)));
  await using other = await rig.open("other");
  {
    const channels = await Promise.all(disks.map((disk) => rig.channel(disk)));
    names.forEach((name) => rig.stall(name));
    channels.forEach((channel) => rig.fill(channel));
    using channel = await rig.channel(other);
    // The main thread replaces Workers, so this test must not block it.
    channel.read(0, 0, [4096]);
    channel.channel.submit();
    await eventually(() => channel.channel.reap() === 1, "the other disk is served");
    await using third = await rig.open("third");
    using itsChannel = await rig.channel(third);
    itsChannel.write(0, 0, [4096]);
    itsChannel.channel.submit();
    await eventually(() => itsChannel.channel.reap() === 1, "a disk that is opened meanwhile is served");
    names.forEach((name) => rig.resume(name));
    for (const each of channels) {
      assertEquals([...each.finish().values()], new Array(32).fill(0));
      each[Symbol.dispose]();
    }
  }
  for (const disk of disks) await disk[Symbol.asyncDispose]();
  assert(rig.warnings.length >= 1);
  assertMatch(rig.warnings[0]!, /^image .*\/(one|two|three): its storage does not answer; an I\/O Worker waits for it/);
});

Deno.test("ten disks that hang one after the other leave a Worker for another one", async () => {
  await using rig = new StallingRig();
  const names = Array.from({ length: 10 }, (_, number) => `disk-${number}`);
  const disks = await Promise.all(names.map((name) => rig.open(name)));
  await using other = await rig.open("other");
  {
    const channels = await Promise.all(disks.map((disk) => rig.channel(disk)));
    using channel = await rig.channel(other);
    for (const [number, name] of names.entries()) {
      rig.stall(name);
      rig.fill(channels[number]!);
      await eventually(() => rig.warnings.some((line) => line.includes(`/${name}:`)), "a Worker was replaced");
    }
    channel.read(0, 0, [4096]);
    channel.channel.submit();
    await eventually(() => channel.channel.reap() === 1, "the other disk is served");
    names.forEach((name) => rig.resume(name));
    for (const each of channels) {
      await eventually(() => (each.channel.reap(), each.channel.inFlight === 0), "what hung is done");
      each[Symbol.dispose]();
    }
  }
  for (const disk of disks) await disk[Symbol.asyncDispose]();
});

Deno.test("when a disk answers again all that waited is done, also what no stuck Worker has taken", async () => {
  await using rig = new StallingRig(2);
  await using disk = await rig.open("one");
  const doorbell = new Doorbell((await disk.attachment(0) as PoolAttachment).doorbell);
  {
    // More than the Worker that hung does before it makes room for the one that took its place.
    const depth = 64;
    using channel = await rig.channel(disk, depth);
    rig.stall("one");
    for (let tag = 0; tag < depth; tag++) channel.read(tag, tag * 4096, [512]);
    channel.channel.submit();
    await eventually(() => rig.warnings.length === 1, "the Worker is replaced");
    await eventually(() => doorbell.sleepers === 2, "the others find that the disk occupies Workers enough");
    rig.resume("one");
    let done = 0;
    await eventually(() => (done += channel.channel.reap()) === depth, "all reads are done");
  }
});

Deno.test("a disk that hangs when it is opened is refused at the limit, and holds up no other", async () => {
  await using rig = new StallingRig();
  rig.stall("one");
  const refused = assertRejects(() => rig.open("one"), StorageSilentError);
  await using other = await rig.open("other");
  using channel = await rig.channel(other);
  assertEquals(channel.readNow(0, 4096), 0);
  assertMatch((await refused).message, /^Cannot open image .*one: its storage does not answer \(open took longer than/);
  rig.resume("one");
  await using again = await rig.open("one");
  using its = await rig.channel(again);
  assertEquals(its.readNow(0, 4096), 0);
});

Deno.test("closing a disk with a job that does not return ends at its limit, with a warning, and later closes it", async () => {
  await using rig = new StallingRig();
  const warnings: string[] = [];
  const path = rig.folder.file("one", 1 << 20);
  const disk = await rig.pool.open(path, false, 100, (message) => warnings.push(message));
  const channel = await rig.channel(disk);
  rig.stall("one");
  rig.fill(channel);
  await disk[Symbol.asyncDispose]();
  assertEquals(warnings, [
    `image ${path}: its storage does not answer; it is closed when it does, or when this process ends`,
  ]);
  assert(openBelow(rig.folder.path) > 0);
  rig.resume("one");
  channel.finish();
  channel[Symbol.dispose]();
  await eventually(() => openBelow(rig.folder.path) === 0, "it is closed");
});

Deno.test("the pool ends while a Worker hangs, whether that was noticed before or not", async () => {
  for (const noticed of [false, true]) {
    await using rig = new StallingRig(2);
    const path = rig.folder.file("one", 1 << 20);
    const image = { path, readOnly: false, cache: "writeback", identity: identityOf(Deno.statSync(path)) } as const;
    const { pool, platform, parker } = rig.pool;
    const disk = await pool.open("one", { ...fileDescriptor(image), module: STALLING.href });
    const channel = new ChannelRig(disk.attachment(0), { platform, parker });
    rig.stall("one");
    rig.fill(channel);
    if (noticed) await eventually(() => rig.warnings.length > 0, "the Worker is replaced");
    await pool[Symbol.asyncDispose]();
  }
});

Deno.test("a pool that could not start is started by the next disk", async () => {
  using folder = new Folder();
  const hold = folder.file("hold", 1);
  const path = folder.file("disk", 1 << 20);
  const entry = new URL(`./fragile_io_worker.ts?${encodeURIComponent(hold)}`, import.meta.url);
  await using pool = new IoPool({ platform: simulatedPlatform().descriptor, workers: 2, entry });
  const request = { format: "raw", target: path, readOnly: false, engine: "file" } as const;
  const error = await assertRejects(() => openDisk(request, { pool }), XenblkError, "Too many open files");
  assertEquals(error.remedy, "raise the limit of open files (LimitNOFILE=, ulimit -n)");
  Deno.removeSync(hold);
  await using disk = await openDisk(request, { pool });
  assertEquals(disk.properties.sectors, 2048);
});

Deno.test("an I/O Worker that dies is reported and replaced: disks that are open, and new ones, are served", async () => {
  using folder = new Folder();
  const warnings: string[] = [];
  await using rig = new PoolRig({ workers: 2, warn: (message) => warnings.push(message) });
  await using disk = await rig.open(folder.file("disk", 1 << 20));
  using channel = new ChannelRig(await disk.attachment(0), { platform: rig.platform, parker: rig.parker });
  const descriptor: ExecutorDescriptor = { module: new URL("./dying_executor.ts", import.meta.url).href };
  const dying = await rig.pool.open("the disk", descriptor).catch(() => undefined);
  await eventually(() => warnings.length > 0, "the Worker dies");
  assertMatch(warnings[0]!, /^an I\/O Worker failed: .*a defect/);
  await using other = await rig.open(folder.file("other", 1 << 20));
  using its = new ChannelRig(await other.attachment(0), { platform: rig.platform, parker: rig.parker });
  for (let i = 0; i < 20; i++) assertEquals([its.readNow(0, 4096), channel.readNow(0, 4096)], [0, 0]);
  await dying?.close();
});

Deno.test("the queue of a disk that is closed is not looked at any more", async () => {
  await using rig = new StallingRig(2);
  const disk = await rig.open("disk");
  const attachment = await disk.attachment(0) as PoolAttachment;
  await disk[Symbol.asyncDispose]();
  const queue = new JobQueue(attachment.queue);
  queue.submit(0);
  new Doorbell(attachment.doorbell).ring();
  await using other = await rig.open("other");
  using channel = await rig.channel(other);
  for (let i = 0; i < 50; i++) assertEquals(channel.readNow(0, 512), 0);
  assert(queue.hasJobs);
});
