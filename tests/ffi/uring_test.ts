/**
 * Engine `uring` with the kernel: setup on older kernels and where io_uring is forbidden, sleeping and waking, more
 * operations than the ring holds, and a heap that does not grow. tests/storage tests the contract of all engines.
 */

import { ERRNO } from "../../lib/errno.ts";
import { assert, assertEquals, assertLess, assertMatch, assertThrows } from "@std/assert";
import "./libraries.ts";
import { createEventfd, lowerEventfd, raiseEventfd } from "../../ffi/linux/eventfd.ts";
import { kernelSetup, openRing, ringRefusal, RingUnavailable, type SetupCall } from "../../ffi/uring/setup.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { nativeMemory } from "../../ffi/linux/memory.ts";
import { NativeWaker, NativeWakeToken } from "../../ffi/linux/park.ts";
import { UringChannel } from "../../ffi/uring/channel.ts";
import { openUringParker, UringEngine } from "../../ffi/uring/engine.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import { ChannelRig, Folder, simulatedPlatform, UringRig } from "../storage/rig.ts";
import { assertNoAllocation } from "../heap.ts";

const FLAGS = { cqSize: 1 << 3, clamp: 1 << 4, coop: 1 << 8, taskrun: 1 << 9, single: 1 << 12, defer: 1 << 13 };
const { EPERM, ENOSYS, ENOMEM, EXDEV, ENFILE, EMFILE, EINVAL } = ERRNO;
const MIB = 2 ** 20;

/** A kernel that knows these setup flags and no other; `asked` hears what it was asked for. */
function kernelThatKnows(known: number, asked: number[] = []): SetupCall {
  return (entries, params) => {
    const flags = new Uint32Array(params.view.buffer)[2]!;
    asked.push(flags);
    return (flags & ~known) === 0 ? kernelSetup(entries, params) : -EINVAL;
  };
}

Deno.test("setup: the newest flags first, then those of ever older kernels", () => {
  const always = FLAGS.cqSize | FLAGS.clamp;
  const kernels = [
    { known: always | FLAGS.single | FLAGS.defer | FLAGS.taskrun, attempts: 2 },
    { known: always | FLAGS.coop | FLAGS.taskrun, attempts: 3 },
    { known: always, attempts: 4 },
  ];
  for (const { known, attempts } of kernels) {
    const asked: number[] = [];
    using ring = openRing({ entries: 8, completions: 16, setup: kernelThatKnows(known, asked) });
    assertEquals([asked.length, ring.flags], [attempts, known & ~always]);
    assertEquals([ring.entries, ring.completionCount], [8, 16]);
  }
});

Deno.test("setup: the reason says whether io_uring is forbidden, missing or too old", () => {
  const cases: [number, RegExp, RegExp][] = [
    [EPERM, /system-call filter|kernel\.io_uring_disabled/, /filter pass io_uring_setup|sysctl/],
    [ENOSYS, /^this kernel has no io_uring/, /^use Linux 5\.13/],
    [ENOMEM, /^there is not enough memory/, /LimitMEMLOCK=, ulimit -l/],
    [EMFILE, /^this process has as many files open as it may$/, /LimitNOFILE=, ulimit -n/],
    [ENFILE, /^this machine has as many files/, /sysctl fs\.file-max/],
    [EXDEV, /^the kernel refuses it: .*EXDEV/, /./],
  ];
  for (const [errno, reason, remedy] of cases) {
    const refusal = ringRefusal(() => -errno)!;
    assertMatch(refusal.reason, reason);
    assertMatch(refusal.remedy, remedy);
  }
  const old = ringRefusal((entries, params) => {
    const fd = kernelSetup(entries, params);
    new Uint32Array(params.view.buffer)[5] = 1;
    return fd;
  });
  assertMatch(old!.reason, /too old/);
  assertEquals(ringRefusal(), undefined);
  assertThrows(() => openRing({ entries: 1, completions: 2, setup: () => -EPERM }), RingUnavailable);
});

Deno.test("a refused setup leaves no descriptor open", () => {
  const count = (): number => [...Deno.readDirSync("/proc/self/fd")].length;
  const before = count();
  for (let i = 0; i < 5; i++) {
    ringRefusal();
    ringRefusal(() => -EPERM);
    ringRefusal((entries, params) => {
      const fd = kernelSetup(entries, params);
      new Uint32Array(params.view.buffer)[5] = 0;
      return fd;
    });
  }
  assertEquals(count(), before);
});

Deno.test("a reactor that is not to use io_uring, or runs on a simulation, sleeps as its platform does", () => {
  using token = new NativeWakeToken();
  const platform = openNativePlatform();
  using parker = platform.openParker(token);
  assert(!(parker instanceof UringEngine));
  using ring = platform.openParker(token, { withIo: true });
  assert(ring instanceof UringEngine);
  const simulated = simulatedPlatform();
  using simulatedToken = simulated.createWakeToken();
  using other = simulated.openParker(simulatedToken, { withIo: true });
  assertEquals([parker.submit, typeof ring.submit, other.submit], [undefined, "function", undefined]);
});

Deno.test("a reactor whose ring cannot be made goes without, and says why", () => {
  using token = new NativeWakeToken();
  using parker = openUringParker(token, { setup: () => -EMFILE });
  assert(!(parker instanceof UringEngine));
  assertMatch(parker.refusal!.reason, /as many files open as it may/);
  assertMatch(parker.refusal!.remedy, /LimitNOFILE/);
});

Deno.test("more operations in a turn than the ring holds all complete", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", 8 * MIB), { cache: "none" });
  const { platform, parker, channels: open } = rig;
  const depth = 2000;
  using channel = new ChannelRig(await disk.attachment(0), {
    platform,
    parker,
    open,
    depth,
    bufferBytes: 512,
    vectorsPerTag: 1,
  });
  for (let tag = 0; tag < depth; tag++) channel.read(tag, tag * 4096, [512]);
  const results = channel.finish();
  assertEquals([results.size, [...results.values()].every((result) => result === 0)], [depth, true]);
});

Deno.test("operations allocate nothing", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", MIB));
  const memory = nativeMemory.allocate(32 * 4096);
  const vectors = {
    addresses: Float64Array.from({ length: 32 }, (_, tag) => memory.address + tag * 4096),
    lengths: new Uint32Array(32).fill(4096),
  };
  using channel = rig.channels(await disk.attachment(0), { depth: 32, vectors, memory: nativeMemory, buffers: memory });
  const carryOut = (operations: number): void => {
    for (let done = 0; done < operations;) {
      for (let tag = 0; tag < 32; tag++) {
        if (tag % 2 === 0) channel.read(tag, tag * 4096, tag, 1);
        else channel.write(tag, tag * 4096, tag, 1);
      }
      channel.submit();
      while (channel.inFlight > 0) {
        done += channel.reap();
        if (channel.inFlight > 0) rig.parker.park(-1);
      }
    }
  };
  assertNoAllocation(5000, carryOut);
});

/** Milliseconds that a park took. */
function parkedMs(engine: UringEngine, timeoutMs: number): number {
  const start = performance.now();
  engine.park(timeoutMs);
  return performance.now() - start;
}

Deno.test("park: ends by its timeout, by a wake before it, by one from another thread, and only once each", async () => {
  using token = new NativeWakeToken();
  using engine = new UringEngine(token);
  assert(parkedMs(engine, 20) >= 20);
  const waker = new NativeWaker(token);
  waker.wake();
  waker.wake();
  assertLess(parkedMs(engine, 60_000), 30_000);
  assert(parkedMs(engine, 20) >= 20);
  const program = `self.onmessage = ({ data: { word, fd, waker } }) => import(waker).then(({ NativeWaker }) => {
    const words = new Int32Array(word);
    while (Atomics.load(words, 0) !== 1);
    new NativeWaker({ word, fd }).wake();
    self.close();
  });`;
  const url = URL.createObjectURL(new Blob([program], { type: "application/javascript" }));
  const worker = new Worker(url, { type: "module" });
  worker.postMessage({
    word: token.word,
    fd: token.fd,
    waker: new URL("../../ffi/linux/park.ts", import.meta.url).href,
  });
  await new Promise((resolve) => setTimeout(resolve, 0));
  assertLess(parkedMs(engine, 60_000), 30_000);
  worker.terminate();
  URL.revokeObjectURL(url);
});

Deno.test("park: a wake that comes to light when the sleeper has just said that it sleeps ends it", () => {
  using token = new NativeWakeToken();
  // An older kernel's ring shows completions before it is entered.
  using engine = new UringEngine(token, { setup: kernelThatKnows(FLAGS.cqSize | FLAGS.clamp) });
  engine.submit();
  for (let round = 0; round < 3; round++) {
    raiseEventfd(token.fd); // what a waker does that finds the word PARKED
    assertLess(parkedMs(engine, 60_000), 30_000, `round ${round}`);
  }
  assert(parkedMs(engine, 20) >= 20);
});

Deno.test("park: a watched descriptor ends it, also if it became readable before, until it is watched no more", () => {
  using token = new NativeWakeToken();
  using engine = new UringEngine(token);
  const fd = createEventfd();
  let fired = 0;
  const source = { fd, fired: () => void fired++ };
  engine.watch(source);
  engine.submit();
  assert(parkedMs(engine, 20) >= 20);
  for (let round = 0; round < 3; round++) {
    raiseEventfd(fd);
    assertLess(parkedMs(engine, 60_000), 30_000, `round ${round}`);
    lowerEventfd(fd); // as whoever takes the events does
  }
  raiseEventfd(fd);
  engine.submit(); // which takes the completion in, before the park
  assertLess(parkedMs(engine, 60_000), 30_000);
  lowerEventfd(fd);
  assertEquals(fired, 4);
  assert(parkedMs(engine, 20) >= 20);
  engine.unwatch(source);
  raiseEventfd(fd);
  assert(parkedMs(engine, 20) >= 20);
  libc().close(fd);
  assertThrows(() => engine.watch({ fd: -1, fired: () => {} }), TypeError, "without a descriptor");
});

Deno.test("park: returns at once while a channel has results that were not reaped", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", MIB));
  const { platform, parker, channels: open } = rig;
  using channel = new ChannelRig(await disk.attachment(0), { platform, parker, open });
  channel.read(0, 0, [4096]);
  channel.channel.submit();
  parker.park(5000);
  assertLess(parkedMs(parker, 10_000), 5000);
  assertEquals(channel.channel.reap(), 1);
  assert(parkedMs(parker, 20) >= 20);
});

Deno.test("a completion costs the other channels of its reactor nothing", async () => {
  using folder = new Folder();
  using rig = new UringRig();
  await using disk = await rig.open(folder.file("disk.img", MIB), { cache: "none" });
  const { platform, parker, channels: open } = rig;
  using channels = new DisposableStack();
  const parts = { platform, parker, open, depth: 4, bufferBytes: 4096, vectorsPerTag: 1 };
  for (let idle = 0; idle < 100; idle++) channels.use(new ChannelRig(await disk.attachment(0), parts));
  const busy = channels.use(new ChannelRig(await disk.attachment(0), parts));
  const { goOn } = UringChannel.prototype;
  let calls = 0;
  UringChannel.prototype.goOn = function (): void {
    calls++;
    goOn.call(this);
  };
  channels.defer(() => void (UringChannel.prototype.goOn = goOn));
  for (let round = 0; round < 50; round++) {
    busy.read(0, 0, [4096]);
    assertEquals(busy.finish(), new Map([[0, 0]]));
  }
  assertEquals(calls, 0, "nothing came back unfinished");
  // Two flushes at a time run one after the other.
  for (let round = 0; round < 50; round++) {
    busy.channel.flush(0);
    busy.channel.flush(1);
    assertEquals(busy.finish(), new Map([[0, 0], [1, 0]]));
  }
  assertEquals(calls, 50);
});
