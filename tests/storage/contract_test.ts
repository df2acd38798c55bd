/**
 * What every engine must do, in one suite that runs on all of them: data arrives where it belongs, operations complete
 * once, errors are reported, and nothing is left behind. Engines without a file, or without data, are treated separately.
 */

import { EBADF, EINVAL, EIO, EOPNOTSUPP } from "../../lib/errno.ts";
import { SECTOR_BYTES } from "../../lib/units.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import "../ffi/libraries.ts";
import { kernelSetup, type SetupCall } from "../../ffi/uring/setup.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import type { Parker, Platform } from "../../lib/hypervisor.ts";
import type { BufferOpener, CacheMode, ChannelOpener, Disk } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { HAS_DAEMON, StorageDaemon, VhostRig } from "../ffi/vhost/daemon.ts";
import { PluginRig } from "../ffi/plugin/rig.ts";
import { ChannelRig, Folder, openBelow, openFile, PoolRig, randomSource, simulatedPlatform, UringRig } from "./rig.ts";

const DISK_BYTES = 4 << 20;

/** Knows none of the setup flags that came after Linux 5.13. */
const oldKernel: SetupCall = (entries, params) => {
  const flags = new Uint32Array(params.view.buffer)[2]!;
  return (flags & ~0x18) !== 0 ? -EINVAL : kernelSetup(entries, params);
};

/** A disk of zeroes on some engine, and what its channels need. */
interface Stage extends AsyncDisposable {
  readonly disk: Pick<Disk, "properties" | "attachment">;
  readonly platform: Platform;
  readonly parker: Parker | undefined;
  /** Opens channels to it; absent: storage's own engines do. */
  readonly open?: ChannelOpener;
  /** Where its buffers must lie; absent: anywhere. */
  readonly openMemory?: BufferOpener;
  /** Where its file is, if it has one. */
  readonly folder: string;
}

/** How a suite's disk is made. */
type Engine = (undo: AsyncDisposableStack, readOnly: boolean) => Promise<Omit<Stage, keyof AsyncDisposable>>;

function sized(format: string): Engine {
  return async (undo, readOnly) => {
    const disk = undo.use(await openDisk({ format, target: `${DISK_BYTES}`, readOnly, engine: "auto" }));
    return { disk, platform: simulatedPlatform(), parker: undefined, folder: "/nowhere" };
  };
}

function pooled(makePlatform: () => Platform): Engine {
  return async (undo, readOnly) => {
    const folder = undo.use(new Folder());
    const path = folder.file("disk.img", DISK_BYTES);
    const { pool, platform, parker } = undo.use(new PoolRig({ platform: makePlatform(), workers: 3 }));
    const disk = undo.use(await openFile(path, { pool }, readOnly));
    return { disk, platform, parker, folder: folder.path };
  };
}

/** Through a ring of this thread's own; `under` is where the file is made. */
function ring(cache: CacheMode, options: { setup?: SetupCall; under?: string } = {}): Engine {
  return async (undo, readOnly) => {
    const folder = undo.use(new Folder(options.under));
    const path = folder.file("disk.img", DISK_BYTES);
    const rig = undo.use(new UringRig(options.setup === undefined ? {} : { setup: options.setup }));
    const disk = undo.use(await rig.open(path, { readOnly, cache }));
    const { platform, parker, channels } = rig;
    return { disk, platform, parker, open: channels, folder: folder.path };
  };
}

const inline: Engine = async (undo, readOnly) => {
  const folder = undo.use(new Folder());
  const disk = undo.use(await openFile(folder.file("disk.img", DISK_BYTES), {}, readOnly));
  return { disk, platform: simulatedPlatform(), parker: undefined, folder: folder.path };
};

/** Through a storage daemon's export. */
function exported(format: string): Engine {
  // A qcow2 frees whole clusters only.
  const create = format === "qcow2" ? { create: "cluster_size=4096" } : {};
  return async (undo, readOnly) => {
    const options = { format, sizeBytes: DISK_BYTES, writable: !readOnly, ...create };
    const daemon = undo.use(await StorageDaemon.start(options));
    const rig = undo.use(new VhostRig());
    const disk = undo.use(await rig.connect(daemon.socket, { readOnly }));
    const { platform, parker, channels, openMemory } = rig;
    return { disk, platform, parker, open: channels, openMemory, folder: daemon.folder.path };
  };
}

/** By the process of a plugin. */
function plugin(makePlatform: () => Platform, target: string): Engine {
  return async (undo, readOnly) => {
    const rig = undo.use(await PluginRig.start({ disk: "memory_disk.ts", target, readOnly, platform: makePlatform() }));
    const { disk, platform, parker, channels } = rig;
    // Without a descriptor to wake it, the thread looks.
    const sleeps = platform.descriptor.module === openNativePlatform().descriptor.module;
    return { disk, platform, parker: sleeps ? parker : undefined, open: channels, folder: "/nowhere" };
  };
}

const ENGINES: Readonly<Record<string, Engine>> = {
  memory: sized("memory"),
  null: sized("null"),
  "file-inline": inline,
  file: pooled(simulatedPlatform),
  "file, real memory": pooled(openNativePlatform),
  uring: ring("writeback"),
  "uring, past the page cache": ring("none"),
  "uring, written through": ring("writethrough"),
  "uring, on a file system in memory": ring("writeback", { under: "/dev/shm" }),
  "uring, as on an old kernel": ring("writeback", { setup: oldKernel }),
  plugin: plugin(openNativePlatform, "async,flush"),
  "plugin, in a simulation": plugin(simulatedPlatform, ""),
  ...(HAS_DAEMON && { "vhost-user-blk, qcow2": exported("qcow2"), "vhost-user-blk, raw": exported("raw") }),
};

async function stage(engine: Engine, readOnly = false): Promise<Stage> {
  const undo = new AsyncDisposableStack();
  const made = await engine(undo, readOnly);
  return { ...made, [Symbol.asyncDispose]: () => undo.disposeAsync() };
}

async function rigOn(
  { disk, platform, parker, open, openMemory }: Stage,
  options: { depth?: number; announce?: boolean } = {},
): Promise<ChannelRig> {
  return new ChannelRig(await disk.attachment(0), { platform, parker, open, openMemory, ...options });
}

function fillRandomly(bytes: Uint8Array, random: () => number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = random() * 256;
}

/** Cuts whole sectors into 1 to 11 pieces. */
function cut(sectors: number, random: () => number): number[] {
  const lengths: number[] = [];
  for (let left = sectors; left > 0;) {
    const piece = lengths.length === 10 ? left : Math.min(left, 1 + Math.floor(random() * 8));
    lengths.push(piece * SECTOR_BYTES);
    left -= piece;
  }
  return lengths;
}

/** Copies pieces that lie `gapBytes` apart in a buffer from or to one run of bytes. */
function gather(buffer: Uint8Array, lengths: readonly number[], gapBytes: number): Uint8Array {
  const whole = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
  let from = 0;
  let to = 0;
  for (const length of lengths) {
    whole.set(buffer.subarray(from, from + length), to);
    from += length + gapBytes;
    to += length;
  }
  return whole;
}

/** Random reads and writes on disjoint parts of the disk, 32 at a time, each compared with a model. */
function exercise(rig: ChannelRig, rounds: number, random: () => number): void {
  const model = new Uint8Array(DISK_BYTES);
  const partBytes = DISK_BYTES / 32;
  const placed: { reading: boolean; offset: number; lengths: number[]; gap: number }[] = [];
  const start = (tag: number): void => {
    const lengths = cut(1 + Math.floor(random() * 40), random);
    const sectors = lengths.reduce((sum, length) => sum + length, 0) / SECTOR_BYTES;
    const offset = tag * partBytes + Math.floor(random() * (partBytes / SECTOR_BYTES - sectors)) * SECTOR_BYTES;
    const operation = { reading: random() < 0.5, offset, lengths, gap: random() < 0.5 ? 0 : SECTOR_BYTES };
    placed[tag] = operation;
    fillRandomly(rig.buffer(tag), random);
    if (operation.reading) rig.read(tag, offset, lengths, operation.gap);
    else rig.write(tag, offset, lengths, operation.gap);
  };
  const check = (tag: number, result: number): void => {
    const { reading, offset, lengths, gap } = placed[tag]!;
    const data = gather(rig.buffer(tag), lengths, gap);
    assertEquals(result, 0);
    if (!reading) model.set(data, offset);
    else assertEquals(data, model.slice(offset, offset + data.length), `read at ${offset}`);
  };
  let left = rounds;
  for (let tag = 0; tag < 32; tag++) start(tag);
  while (rig.channel.inFlight > 0) {
    for (const [tag, result] of rig.reapSome()) {
      check(tag, result);
      if (left-- > 0) start(tag);
    }
  }
}

for (const [name, engine] of Object.entries(ENGINES)) {
  const movesData = name !== "null";

  if (movesData) {
    Deno.test(`${name}: random operations at depth 32 with scattered vectors read back what was written`, async () => {
      await using made = await stage(engine);
      using rig = await rigOn(made);
      exercise(rig, 1500, randomSource(1));
    });
  }

  if (movesData) {
    Deno.test(`${name}: buffers that the channel was not opened with serve as well`, async () => {
      await using made = await stage(engine);
      using rig = await rigOn(made, { announce: false });
      exercise(rig, 200, randomSource(2));
    });
  }

  Deno.test(`${name}: every operation completes once, flushes among them`, async () => {
    await using made = await stage(engine);
    using rig = await rigOn(made);
    const seen = new Map<number, number>();
    for (let round = 0; round < 20; round++) {
      for (let tag = 0; tag < 32; tag++) {
        if (tag % 4 === 0) rig.channel.flush(tag);
        else rig.write(tag, tag * 4096, [4096]);
      }
      assertEquals(rig.channel.inFlight, 32);
      while (rig.channel.inFlight > 0) {
        for (const [tag, result] of rig.reapSome()) {
          assertEquals(result, 0);
          seen.set(tag, (seen.get(tag) ?? 0) + 1);
        }
      }
    }
    assertEquals([...seen.values()], new Array(32).fill(20));
    assertEquals(rig.channel.reap(), 0);
  });

  Deno.test(`${name}: nothing starts before submit`, async () => {
    await using made = await stage(engine);
    using rig = await rigOn(made);
    rig.write(0, 0, [512]);
    assertEquals(rig.channel.reap(), 0);
    assertEquals(rig.channel.inFlight, 1);
    assertEquals(rig.finish(), new Map([[0, 0]]));
  });

  Deno.test(`${name}: a tag that is in flight or too large, and closing while busy, are refused`, async () => {
    await using made = await stage(engine);
    using rig = await rigOn(made);
    rig.channel.flush(3);
    assertThrows(() => rig.channel.flush(3), RangeError, "in flight");
    assertThrows(() => rig.channel.flush(32), RangeError, "depth");
    assertThrows(() => rig.channel[Symbol.dispose](), Error, "operations in flight: 1");
    assertEquals(rig.finish().get(3), 0);
  });

  Deno.test(`${name}: writes to a read-only disk fail, reads and flushes do not`, async () => {
    await using made = await stage(engine, true);
    assert(made.disk.properties.readOnly);
    using rig = await rigOn(made);
    assertEquals(rig.writeNow(0, 512), -EBADF);
    assertEquals(rig.readNow(0, 512), 0);
    rig.channel.flush(1);
    assertEquals(rig.finish().get(1), 0);
  });

  Deno.test(`${name}: a discard gives bytes back where the properties say so, and is refused elsewhere`, async () => {
    await using made = await stage(engine);
    using rig = await rigOn(made);
    rig.buffer(0).fill(0x5a);
    assertEquals(rig.writeNow(0, 64 << 10), 0);
    const { discard } = made.disk.properties;
    rig.channel.discard(1, 16 << 10, 32 << 10, false);
    assertEquals(rig.finish().get(1), discard === undefined ? -EOPNOTSUPP : 0);
    if (discard?.secure !== true) {
      rig.channel.discard(1, 16 << 10, 4096, true);
      assertEquals(rig.finish().get(1), -EOPNOTSUPP);
    }
    if (!movesData) return;
    assertEquals(rig.readNow(0, 64 << 10), 0);
    const expected = new Uint8Array(64 << 10).fill(0x5a);
    if (discard !== undefined) expected.fill(0, 16 << 10, 48 << 10);
    assertEquals(rig.buffer(0), expected);
  });

  if (movesData) {
    Deno.test(`${name}: a read beyond the end is an I/O error, and the next one is not`, async () => {
      await using made = await stage(engine);
      using rig = await rigOn(made);
      assertEquals(rig.readNow(DISK_BYTES - 512, 1024), -EIO);
      assertEquals(rig.readNow(DISK_BYTES, 512), -EIO);
      assertEquals(rig.readNow(DISK_BYTES - 512, 512), 0);
    });
  }

  Deno.test(`${name}: channels come and go, several at a time, and leave no descriptor`, async () => {
    let folder: string;
    {
      await using made = await stage(engine);
      folder = made.folder;
      for (let round = 0; round < 5; round++) {
        using one = await rigOn(made, { depth: 4 });
        using other = await rigOn(made, { depth: 4 });
        one.buffer(0).fill(round + 1);
        one.write(0, 0, [4096]);
        other.write(0, 4096, [512]);
        assertEquals([one.finish().get(0), other.finish().get(0)], [0, 0]);
        assertEquals(other.readNow(0, 4096), 0);
        if (movesData) assertEquals(other.buffer(0)[4095], round + 1);
      }
    }
    assertEquals(openBelow(folder), 0);
  });
}
