/**
 * A channel of engine `uring` on a fake ring, where the test plays the kernel: short and retried I/O, the order of
 * flushes, routes, and what a channel leaves behind when it is closed.
 */

import "./libraries.ts";
import { EIO } from "../../lib/errno.ts";
import { assertEquals, assertGreater, assertThrows } from "@std/assert";
import { UringChannel } from "../../ffi/uring/channel.ts";
import { FileSlot } from "../../ffi/uring/file.ts";
import { FIXED_FILE, type IoUring } from "../../ffi/uring/ring.ts";
import { nativeMemory } from "../../ffi/linux/memory.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { CacheMode, IoVectors, MemoryRule } from "../../lib/storage/disk.ts";
import type { UringAttachment, UringRoutes } from "../../lib/storage/image/medium.ts";
import { Folder, UringRig } from "../storage/rig.ts";

const [EAGAIN, ENOTTY] = [11, 25];
const MIB = 2 ** 20;

const ANYTHING: MemoryRule = { direct: true, asynchronous: true };

/** A prepared submission, in words that matter. */
interface Prepared {
  readonly offset: number;
  readonly length: number;
  readonly tag: number;
}

/** A channel with a fake ring: the test completes its submissions. */
class Detached implements Disposable {
  readonly prepared: Prepared[] = [];
  readonly channel: UringChannel;
  readonly vectors: IoVectors = { addresses: new Float64Array(1100), lengths: new Uint32Array(1100) };
  /** Results that keep the reactor from sleeping. */
  unreaped = 0;
  /** Its clock, and the time that passes until the next look at it. */
  timeMs = 1000;
  lookMs = 0;
  /** The engine was told that the channel is closed. */
  closed = false;
  readonly #undo = new DisposableStack();

  constructor(attachment: UringAttachment, rule?: MemoryRule) {
    const memory = this.#undo.use(nativeMemory.allocate(1100 * 8192));
    for (let i = 0; i < 1100; i++) {
      this.vectors.addresses[i] = memory.address + i * 8192; // with gaps, so that none is merged
      this.vectors.lengths[i] = 4096;
    }
    const ring = {
      registerFile: () => undefined,
      prepare: (_code: number, _fd: number, offset: number, _at: number, length: number, _flags: number, tag: number) =>
        void this.prepared.push({ offset, length, tag }),
    } as unknown as IoUring;
    const host = {
      ring,
      makeRoom: (): void => {},
      countUnreaped: (count: number): void => void (this.unreaped += count),
      readClock: (into: Float64Array, index: number): void => void (into[index] = this.timeMs += this.lookMs),
    };
    const options = { depth: 4, vectors: this.vectors, memory: nativeMemory, ...(rule && { rule }) };
    const closed = (): void => void (this.closed = true);
    this.channel = this.#undo.use(new UringChannel(attachment, options, host, 2, closed));
  }

  /** What the channel prepared since the last call. */
  take(): Prepared[] {
    return this.prepared.splice(0);
  }

  /** The kernel's answer to an operation, and what the channel makes of it. */
  answer(tag: number, result: number): Prepared[] {
    this.channel.arrived(tag, result);
    this.channel.goOn();
    return this.take();
  }

  /** Results by tag. */
  reap(): Record<number, number> {
    const count = this.channel.reap();
    return Object.fromEntries(
      Array.from({ length: count }, (_, i) => [this.channel.tags[i]!, this.channel.results[i]!]),
    );
  }

  [Symbol.dispose](): void {
    this.#undo.dispose();
  }
}

async function withDetached(
  body: (rig: Detached) => void,
  cache: CacheMode = "none",
  change: (attachment: UringAttachment) => UringAttachment = (attachment) => attachment,
): Promise<void> {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", MIB), { cache });
  using detached = new Detached(change(await disk.attachment(0) as UringAttachment));
  body(detached);
  assertEquals(detached.unreaped, 0);
}

Deno.test("a short transfer goes on where it ended, within a vector and at its end, until it is whole", async () => {
  await withDetached((rig) => {
    rig.channel.read(1, 8192, 0, 3);
    rig.channel.submit();
    assertEquals(rig.take(), [{ offset: 8192, length: 3, tag: 1 }]);
    // 1024 bytes into the second vector: two are left, the first of them shorter.
    assertEquals(rig.answer(1, 4096 + 1024), [{ offset: 8192 + 5120, length: 2, tag: 1 }]);
    // To the end of the second: the last one goes without an array of vectors, by its length.
    assertEquals(rig.answer(1, 3072), [{ offset: 8192 + 8192, length: 4096, tag: 1 }]);
    assertEquals(rig.answer(1, 4000), [{ offset: 8192 + 12_192, length: 96, tag: 1 }]);
    assertEquals(rig.reap(), {});
    assertEquals(rig.answer(1, 96), []);
    assertEquals(rig.reap(), { 1: 0 });
  });
});

Deno.test("vectors that are adjacent in memory become one", async () => {
  await withDetached((rig) => {
    const { addresses } = rig.vectors;
    addresses[1] = addresses[0]! + 4096;
    addresses[2] = addresses[1]! + 4096;
    rig.channel.read(0, 0, 0, 3);
    rig.channel.read(1, 16384, 3, 2);
    rig.channel.submit();
    assertEquals(rig.take(), [{ offset: 0, length: 12_288, tag: 0 }, { offset: 16_384, length: 2, tag: 1 }]);
    rig.answer(0, 12_288);
    rig.answer(1, 8192);
    assertEquals(rig.reap(), { 0: 0, 1: 0 });
  });
});

Deno.test("a transfer that makes no progress fails, errors are reported, and EAGAIN is retried", async () => {
  await withDetached((rig) => {
    for (const [tag, result] of [[0, 0], [1, -5], [2, -28]] as const) {
      rig.channel.write(tag, 0, 4 * tag, 1);
      rig.channel.submit();
      rig.take();
      assertEquals(rig.answer(tag, result), []);
    }
    assertEquals(rig.reap(), { 0: -EIO, 1: -EIO, 2: -28 });
    rig.channel.flush(0);
    rig.channel.read(1, 512, 0, 1);
    rig.channel.submit();
    assertEquals(rig.take().length, 2);
    for (const errno of [EAGAIN, 4, EAGAIN]) {
      assertEquals(rig.answer(1, -errno), [{ offset: 512, length: 4096, tag: 1 }]);
      assertEquals(rig.answer(0, -errno).length, 1);
    }
    assertEquals([...rig.answer(1, 4096), ...rig.answer(0, 0)], []);
    assertEquals(rig.reap(), { 0: 0, 1: 0 });
    rig.channel.read(3, 0, 0, 1);
    rig.channel.submit();
    let attempts = 1;
    while (rig.answer(3, -EAGAIN).length > 0) attempts++;
    assertGreater(attempts, 100);
    assertEquals(rig.unreaped, 1);
    assertEquals(rig.reap(), { 3: -EAGAIN });
    rig.channel.read(3, 0, 0, 1);
    rig.channel.submit();
    rig.take();
    assertEquals(rig.answer(3, -EAGAIN).length, 1, "the next operation of the tag is tried again, too");
    assertEquals([rig.answer(3, 4096), rig.reap()], [[], { 3: 0 }]);
  });
});

Deno.test("an operation that the kernel always puts off ends with its error", async () => {
  await withDetached((rig) => {
    rig.channel.read(0, 0, 0, 1);
    rig.channel.submit();
    for (let i = 0; i < 2000 && rig.channel.reap() === 0; i++) rig.answer(0, -4);
    assertEquals(rig.channel.results[0], -4);
  });
});

Deno.test("more vectors than the kernel takes per call are transferred by several", async () => {
  await withDetached((rig) => {
    rig.channel.write(2, 512, 0, 1100);
    rig.channel.submit();
    assertEquals(rig.take(), [{ offset: 512, length: 1024, tag: 2 }]);
    assertEquals(rig.answer(2, 1024 * 4096), [{ offset: 512 + 1024 * 4096, length: 76, tag: 2 }]);
    assertEquals([rig.answer(2, 76 * 4096), rig.reap()], [[], { 2: 0 }]);
  });
});

Deno.test("a flush that is to be ignored completes without the kernel, and keeps the reactor awake until it is reaped", async () => {
  await withDetached((rig) => {
    rig.channel.flush(1);
    rig.channel.submit();
    assertEquals([rig.take(), rig.unreaped], [[], 1]);
    assertEquals(rig.reap(), { 1: 0 });
  }, "unsafe");
});

Deno.test("transfers go by the ring or by calls as the routes and the rule of the memory say", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", MIB), {});
  const attachment = await disk.attachment(0) as UringAttachment;
  /** Whether a read and a write go by the ring. */
  const byRing = (routes: Partial<UringRoutes>, rule: MemoryRule): boolean[] => {
    using detached = new Detached({ ...attachment, routes: { ...attachment.routes, ...routes } }, rule);
    const { channel } = detached;
    channel.read(0, 0, 0, 1);
    channel.write(1, 4096, 1, 1);
    channel.submit();
    const prepared = detached.take().map(({ tag }) => tag);
    for (const tag of prepared) detached.answer(tag, 4096);
    assertEquals(detached.reap(), { 0: 0, 1: 0 });
    return [prepared.includes(0), prepared.includes(1)];
  };
  for (const direct of [false, true]) {
    const buffered = { direct: false, reads: "call", writes: "ring" } as const;
    assertEquals(byRing(buffered, { direct, asynchronous: true }), [false, true]);
    assertEquals(byRing(buffered, { direct, asynchronous: false }), [false, false]);
    const past = { direct: true, reads: "call", writes: "ring" } as const;
    assertEquals(byRing(past, { direct, asynchronous: true }), [direct, true]);
    assertEquals(byRing(past, { direct, asynchronous: false }), [false, false]);
  }
});

Deno.test("a secure discard is a call that blocks, whatever the route of others", async () => {
  const command = (attachment: UringAttachment): UringAttachment => ({
    ...attachment,
    routes: { ...attachment.routes, discards: "command" },
  });
  await withDetached(
    (rig) => {
      rig.channel.discard(0, 0, 4096, true);
      rig.channel.submit();
      assertEquals([rig.take(), rig.reap()], [[], { 0: -ENOTTY }], "what the kernel says of it for a plain file");
    },
    "none",
    command,
  );
});

Deno.test("a channel's descriptor is past the page cache exactly where the routes and the memory's rule say so", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  for (const cache of ["none", "writeback"] as const) {
    const path = folder.file(`${cache}.img`, MIB);
    await using disk = await rig.open(path, { cache });
    const attachment = await disk.attachment(0) as UringAttachment;
    const direct = attachment.routes.direct;
    // The second channel has the descriptor of the first one.
    for (const rule of [ANYTHING, { ...ANYTHING, direct: false }, ANYTHING]) {
      using _channel = new Detached(attachment, rule);
      assertEquals(directDescriptors(path), direct && rule.direct ? 1 : 0, `${cache}, ${JSON.stringify(rule)}`);
    }
  }
});

/** Descriptors of a file in this process with O_DIRECT. */
function directDescriptors(path: string): number {
  const flag = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;
  return [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => {
    try {
      if (Deno.readLinkSync(`/proc/self/fd/${name}`) !== path) return false;
      const flags = /^flags:\s+([0-7]+)/m.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${name}`))![1]!;
      return (parseInt(flags, 8) & flag) !== 0;
    } catch {
      return false; // closed meanwhile: it was the listing's own
    }
  }).length;
}

Deno.test("a channel that cannot be opened, or is closed, lets the disk be closed", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  const disk = await rig.open(folder.file("disk.img", MIB), {});
  const attachment = await disk.attachment(0) as UringAttachment;
  const descriptor = { ...attachment.descriptor, entry: 5 };
  assertThrows(() => new Detached({ ...attachment, descriptor }), XenblkError, "another channel has its descriptor");
  const detached = new Detached(attachment);
  detached[Symbol.dispose]();
  assertEquals(detached.closed, true);
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error("a channel counts as open")), 10_000);
  await Promise.race([disk[Symbol.asyncDispose](), late.promise]);
  clearTimeout(timer);
});

Deno.test("a file's place among the registered ones is free again when its channel is closed", () => {
  const registered = new Set<number>();
  const ring = {
    registerFile: (fd: number) => registered.size === 2 ? undefined : (registered.add(fd + 100), fd + 100),
    unregisterFile: (index: number) => void registered.delete(index),
  } as unknown as IoUring;
  using first = new FileSlot(ring, 7);
  for (let i = 0; i < 3; i++) {
    using slot = new FileSlot(ring, 8);
    assertEquals([slot.index, slot.flag], [108, FIXED_FILE]);
    using full = new FileSlot(ring, 9);
    assertEquals([full.index, full.flag], [9, 0], "the descriptor itself, where there is no room");
  }
  assertEquals([first.index, [...registered]], [107, [107]]);
});

Deno.test("after a synchronous call that took long, operations go to the ring for a while", async () => {
  const calls = (attachment: UringAttachment): UringAttachment => ({
    ...attachment,
    routes: { ...attachment.routes, direct: false, reads: "call" },
  });
  await withDetached(
    (rig) => {
      const read = (): number => {
        rig.channel.read(0, 0, 0, 1);
        rig.channel.submit();
        const prepared = rig.take().length;
        if (prepared > 0) rig.answer(0, 4096);
        assertEquals(rig.reap(), { 0: 0 });
        return prepared;
      };
      const readMany = (): number => Array.from({ length: 600 }, read).reduce((sum, prepared) => sum + prepared, 0);
      assertEquals(readMany(), 0);
      rig.timeMs += 1000;
      assertEquals(readMany(), 0, "time that passes between two calls is no call's");
      rig.lookMs = 10;
      assertEquals(read(), 0);
      rig.lookMs = 0;
      assertEquals(readMany(), 512);
      assertEquals(readMany(), 0);
    },
    "writeback",
    calls,
  );
});

Deno.test("one flush at a time is with the kernel, so that a failure is reported before a later success", async () => {
  await withDetached((rig) => {
    rig.channel.flush(0);
    rig.channel.write(1, 512, 0, 1);
    rig.channel.flush(2);
    rig.channel.submit();
    assertEquals(rig.take().map(({ tag }) => tag), [1, 0], "a write waits for no flush");
    rig.channel.flush(3);
    rig.channel.submit();
    assertEquals(rig.answer(0, -EAGAIN).map(({ tag }) => tag), [0], "put off, it is still its turn");
    assertEquals(rig.answer(0, -EIO).map(({ tag }) => tag), [2]);
    assertEquals(rig.answer(2, 0).map(({ tag }) => tag), [3]);
    assertEquals(rig.answer(1, 4096), []);
    rig.channel.reap();
    assertEquals([...rig.channel.tags.subarray(0, 3)], [0, 2, 1], "in the order of their ends");
    assertEquals([...rig.channel.results.subarray(0, 3)], [-EIO, 0, 0]);
    assertEquals(rig.answer(3, 0), []);
    assertEquals(rig.reap(), { 3: 0 });
  });
});

Deno.test("writes that are durable when they are done go one at a time, beside reads; others do not wait", async () => {
  for (const [cache, at] of [["writethrough", [1, 0]], ["none", [0, 1, 2]]] as const) {
    await withDetached(
      (rig) => {
        rig.channel.write(0, 0, 0, 1);
        rig.channel.read(1, 4096, 1, 1);
        rig.channel.write(2, 8192, 2, 1);
        rig.channel.submit();
        assertEquals(rig.take().map(({ tag }) => tag), [...at], cache);
        const [first, last] = [rig.answer(0, 1024), rig.answer(0, 3072)];
        assertEquals(first, [{ offset: 1024, length: 3072, tag: 0 }], "the rest of a short one is not another one");
        assertEquals(last.map(({ tag }) => tag), cache === "none" ? [] : [2]);
        rig.answer(1, 4096);
        rig.answer(2, 4096);
        assertEquals(rig.reap(), { 0: 0, 1: 0, 2: 0 });
      },
      cache,
      byRing,
    );
  }
});

const disk = await attachmentOfTemporaryFile();
const inMemory = disk.routes.reads === "call" ? " (the temporary folder is in memory)" : "";

Deno.test({
  name: `a read of what is in the page cache is a call, other reads go by the ring, as do the next ones${inMemory}`,
  ignore: inMemory !== "",
  fn: async () => {
    using folder = new Folder();
    using rig = new UringRig();
    const path = folder.file("disk.img", 8 * MIB);
    const image = Uint8Array.from({ length: 8 * MIB }, (_, i) => i >> 12);
    Deno.writeFileSync(path, image);
    await using disk = await rig.open(path, { cache: "writeback" });
    const attachment = await disk.attachment(0) as UringAttachment;
    using detached = new Detached({ ...attachment, routes: { ...attachment.routes, writes: "call" } });
    const { channel, vectors } = detached;
    const read = (tag: number, page: number, pages: number): Prepared[] => {
      channel.read(tag, page * 4096, tag, pages);
      channel.submit();
      return detached.take();
    };
    await keepInPageCache(path, 1023);
    assertEquals(read(0, 1023, 1), []);
    assertEquals(detached.reap(), { 0: 0 });
    assertEquals(nativeMemory.view(vectors.addresses[0]!, 4096), image.subarray(1023 * 4096, 1024 * 4096));
    for (const tag of [0, 1, 2]) channel.read(tag, 1023 * 4096, tag, 1);
    channel.submit();
    assertEquals(detached.take().map(({ tag }) => tag), [0, 1, 2], "one call for all");
    for (const tag of [0, 1, 2]) detached.answer(tag, 4096);
    assertEquals(detached.reap(), { 0: 0, 1: 0, 2: 0 });
    assertEquals(read(0, 1023, 2), [{ offset: 1024 * 4096, length: 4096, tag: 0 }], "what is not there");
    assertEquals(detached.answer(0, 4096), []);
    channel.write(3, 0, 3, 1);
    channel.submit();
    assertEquals(detached.take(), [], "writes are calls as before");
    assertEquals(detached.reap(), { 0: 0, 3: 0 });
    for (let i = 0; i < 32; i++) {
      assertEquals(read(1, 1023, 1), [{ offset: 1023 * 4096, length: 4096, tag: 1 }], "looking in vain costs time");
      detached.answer(1, 4096);
      detached.reap();
    }
    assertEquals(read(2, 1023, 1), [], "it looks again");
    assertEquals(detached.reap(), { 2: 0 });
  },
});

/** Makes that page of the file the only one in the page cache. */
async function keepInPageCache(path: string, page: number): Promise<void> {
  const dd = ["dd", `if=${path}`, "of=/dev/null", "bs=4096", "status=none"];
  for (
    const [name, ...args] of [["sync", path], [...dd, "iflag=nocache", "count=0"], [...dd, `skip=${page}`, "count=1"]]
  ) {
    const { success } = await new Deno.Command(name!, { args }).output();
    assertEquals(success, true, name);
  }
}

async function attachmentOfTemporaryFile(): Promise<UringAttachment> {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", MIB), { cache: "writeback" });
  return await disk.attachment(0) as UringAttachment;
}

function byRing(attachment: UringAttachment): UringAttachment {
  return { ...attachment, routes: { ...attachment.routes, reads: "ring" } };
}

Deno.test("a discard goes in pieces, one discard at a time, and a write meanwhile is no call", async () => {
  const punch = (attachment: UringAttachment): UringAttachment => ({
    ...attachment,
    routes: { direct: false, reads: "ring", writes: "call", discards: "punch" },
  });
  const { now } = performance;
  let pieceMs = 0;
  let timeMs = 0;
  performance.now = () => timeMs += pieceMs;
  try {
    await withDetached(
      (rig) => {
        rig.channel.discard(0, MIB, 100 * MIB, false);
        rig.channel.discard(1, 0, MIB, false);
        rig.channel.submit();
        assertEquals(rig.take().map(({ offset, tag }) => [offset / MIB, tag]), [[1, 0]]);
        rig.channel.write(2, 0, 0, 1);
        rig.channel.submit();
        assertEquals(rig.take().map(({ tag }) => tag), [2], "by the ring: a call would wait for the discard");
        rig.answer(2, 4096);
        const offsets: number[] = [];
        for (let next = rig.answer(0, 0); next[0]?.tag === 0; next = rig.answer(0, 0)) {
          offsets.push(next[0]!.offset / MIB);
          pieceMs = 10; // from the third piece on they are halved
        }
        assertEquals(offsets, [17, 49, 65, 73, 77, 79, ...Array.from({ length: 21 }, (_, i) => 80 + i)]);
        rig.answer(1, 0);
        assertEquals(rig.reap(), { 0: 0, 1: 0, 2: 0 });
        rig.channel.write(2, 0, 0, 1);
        rig.channel.submit();
        assertEquals([rig.take(), rig.reap()], [[], { 2: 0 }], "a call again");
      },
      "writeback",
      punch,
    );
  } finally {
    performance.now = now;
  }
});
