/**
 * Disks in TypeScript in trouble: processes that are killed, end, hang, have no memory or break the protocol. Requests go
 * on with the next process, or fail, and never lie.
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { EIO, ENOMEM, ENOSPC } from "../../../lib/errno.ts";
import type { Disk } from "../../../lib/storage/disk.ts";
import type { PluginAttachment } from "../../../ffi/plugin/attachment.ts";
import { viewOf } from "../../../ffi/linux/memory.ts";
import { CHANNEL_BYTES, CHANNEL_WORD, channelAt, ChannelMemory } from "../../../ffi/plugin/layout.ts";
import { ChannelRig, eventually, Folder } from "../../storage/rig.ts";
import { BREACH, PluginNotes } from "../../../ffi/plugin/notes.ts";
import { PluginRig, type RigOptions } from "./rig.ts";

const PAGE_BYTES = 4096;
const PAGE = {
  exit: 1,
  loop: 2,
  silence: 3,
  heap: 4,
  arrays: 5,
  full: 6,
  later: 7,
  unhandled: 8,
  untold: 9,
  trap: 10,
  good: 20,
};

/** For processes that hang. The others get time, so that on a busy machine none of them counts as one that hangs. */
const SOON_MS = 1000;
const AMPLE_MS = 20_000;

/** A disk whose troubles happen once, in a folder of its own. */
async function troubled(
  undo: AsyncDisposableStack,
  options: Partial<RigOptions> = {},
  folder = undo.use(new Folder()),
): Promise<PluginRig<Disk>> {
  const settings = { requestTimeoutMs: AMPLE_MS, memoryBytes: 64 << 20, permissions: [`write=${folder.path}`] };
  return undo.use(
    await PluginRig.open({
      disk: "troubled_disk.ts",
      target: `${options.target ?? ""}:${folder.path}`,
      settings: { ...settings, ...options.settings },
    }),
  );
}

/** One write; resolves with its result. */
async function writeTo(channel: ChannelRig, page: number): Promise<number> {
  channel.write(0, page * PAGE_BYTES, [PAGE_BYTES]);
  return (await channel.finished()).get(0)!;
}

function pidOf({ description }: Disk): number {
  return Number(/process (\d+)/.exec(description)![1]);
}

for (
  const [what, page, reason] of [
    ["exits", PAGE.exit, /it ended with status 7/],
    ["loops", PAGE.loop, /it hangs: (its event loop has not run for|a request was not carried out within) 1 s/],
    ["never answers", PAGE.silence, /it hangs: a request was not carried out within 1 s/],
    ["fills its heap", PAGE.heap, /it needed more memory than its 64 MiB/],
    ["leaves a rejection unhandled", PAGE.unhandled, /it ended with status 1: .*nobody waits for this/],
  ] as const
) {
  Deno.test(`a plugin that ${what} is replaced, and its requests are carried out by the next process`, async () => {
    await using undo = new AsyncDisposableStack();
    const hangs = page === PAGE.loop || page === PAGE.silence;
    const rig = await troubled(undo, { settings: { requestTimeoutMs: hangs ? SOON_MS : AMPLE_MS } });
    const { disk } = rig;
    const said: (string | undefined)[] = [];
    using _watch = disk.watchTrouble!(() => void said.push(disk.trouble));
    using channel = await rig.channel();
    const before = pidOf(disk);
    for (const tag of [0, 1, 2, 3]) channel.buffer(tag).fill(tag + 1);
    channel.write(0, page * PAGE_BYTES, [PAGE_BYTES]);
    for (const tag of [1, 2, 3]) channel.write(tag, (PAGE.good + tag) * PAGE_BYTES, [PAGE_BYTES]);
    assertEquals(await channel.finished(), new Map([[0, 0], [1, 0], [2, 0], [3, 0]]));
    channel.read(0, page * PAGE_BYTES, [PAGE_BYTES]);
    assertEquals([...await channel.finished()], [[0, 0]]);
    assertEquals(new Set(channel.buffer(0).subarray(0, PAGE_BYTES)), new Set([1]));
    assert(pidOf(disk) !== before);
    assertMatch(said[0] ?? "", reason);
    assertEquals([said.length, said[1]], [2, undefined]);
  });
}

Deno.test("a plugin that is killed is replaced with requests in flight: all are carried out", async () => {
  await using rig = await PluginRig.open({ disk: "memory_disk.ts", target: "async" });
  using channel = await rig.channel();
  for (let round = 0; round < 3; round++) {
    for (let tag = 0; tag < 32; tag++) {
      channel.buffer(tag).fill(round * 32 + tag);
      channel.write(tag, tag * 2 * PAGE_BYTES, [PAGE_BYTES, 512], 512);
    }
    channel.channel.submit();
    Deno.kill(pidOf(rig.disk), "SIGKILL");
    const results = await channel.finished();
    assertEquals([results.size, new Set(results.values())], [32, new Set([0])]);
  }
});

Deno.test("a request that ends three processes fails, and the disk goes on", async () => {
  await using rig = await PluginRig.open({ disk: "troubled_disk.ts" });
  using channel = await rig.channel();
  assertEquals(await writeTo(channel, PAGE.exit), -EIO);
  assertEquals(await writeTo(channel, PAGE.good), 0);
  assertEquals(rig.lines.all.filter((line) => line.includes("served again")).length, 3);
});

Deno.test("a plugin in trouble fails its requests, if the operator wants that, until another process runs", async () => {
  await using undo = new AsyncDisposableStack();
  const rig = await troubled(undo, { settings: { onTrouble: "fail", requestTimeoutMs: SOON_MS } });
  using channel = await rig.channel();
  const before = pidOf(rig.disk);
  assertEquals(await writeTo(channel, PAGE.silence), -EIO);
  await eventually(() => pidOf(rig.disk) !== before && rig.disk.trouble === undefined, "another process serves");
  assertEquals(await writeTo(channel, PAGE.silence), 0);
});

Deno.test("errors of methods are errors of their requests, with their errno, and stand in the log", async () => {
  await using undo = new AsyncDisposableStack();
  const rig = await troubled(undo);
  using channel = await rig.channel();
  assertEquals(await writeTo(channel, PAGE.full), -ENOSPC);
  assertEquals(await writeTo(channel, PAGE.later), -EIO);
  assertEquals([await writeTo(channel, PAGE.untold), await writeTo(channel, PAGE.trap)], [-EIO, -EIO]);
  assertEquals(await writeTo(channel, PAGE.good), 0);
  await eventually(() => rig.lines.all.length === 3, "each error that can be read is logged");
  assertMatch(
    rig.lines.all[0]!,
    /: write at byte 24576 failed: the store is full \(file:.*troubled_disk.ts:\d+:\d+\)$/,
  );
});

Deno.test("a plugin gets no more memory for typed arrays either: a request fails, or the process is replaced", async () => {
  await using undo = new AsyncDisposableStack();
  const rig = await troubled(undo);
  using channel = await rig.channel();
  const result = await writeTo(channel, PAGE.arrays);
  const isReplaced = rig.lines.all.some((line) => line.includes("it needed more memory than its 64 MiB"));
  assertEquals(result, isReplaced ? 0 : -ENOMEM);
  assertEquals(await writeTo(channel, PAGE.good), 0);
});

Deno.test("writes that were answered and not flushed make the disk fail; what was flushed does not", async () => {
  for (const flushed of [true, false]) {
    await using undo = new AsyncDisposableStack();
    const rig = await troubled(undo, { target: "flush" });
    using channel = await rig.channel();
    assertEquals(await writeTo(channel, PAGE.good), 0);
    if (flushed) channel.channel.flush(0);
    assertEquals([...await channel.finished()], flushed ? [[0, 0]] : []);
    assertEquals(await writeTo(channel, PAGE.exit), flushed ? 0 : -EIO);
    if (flushed) continue;
    assertMatch(await rig.disk.failed!, /ended with status 7, with writes that it had not flushed$/);
    assertEquals(await writeTo(channel, PAGE.good), -EIO);
  }
});

for (
  const [what, spoil, reason] of [
    [
      "counts completions that cannot be",
      (words, _) => void (words[CHANNEL_WORD.completionTail]! += 1000),
      /completions at once/,
    ],
    [
      "completes a request twice",
      (words, { completions }) => {
        completions[0] = 5;
        words[CHANNEL_WORD.completionTail]! += 1;
      },
      /request 5, which is not in flight/,
    ],
    [
      "invents a result",
      (words, { completions }) => {
        completions.set([0, 77]);
        words[CHANNEL_WORD.completionTail]! += 1;
      },
      /the result 77/,
    ],
  ] as readonly (readonly [string, (words: Int32Array, memory: ChannelMemory) => void, RegExp])[]
) {
  Deno.test(`a process that ${what} is ended, and the disk goes on`, async () => {
    await using undo = new AsyncDisposableStack();
    const folder = undo.use(new Folder());
    const rig = await troubled(undo, {}, folder);
    const attachment = await rig.disk.attachment(0) as PluginAttachment;
    const { platform, channels } = rig;
    using channel = new ChannelRig(attachment, { platform, open: channels });
    const memory = new ChannelMemory(viewOf(attachment.address + channelAt(0), CHANNEL_BYTES).buffer, 0);
    // It answers nothing itself.
    channel.write(0, PAGE.silence * PAGE_BYTES, [PAGE_BYTES]);
    channel.channel.submit();
    await eventually(() => [...Deno.readDirSync(folder.path)].length > 0, "the plugin has taken the request");
    spoil(memory.words, memory);
    assertEquals([...await channel.finished()], [[0, 0]]);
    assert(
      rig.lines.all.some((line) => /it broke the protocol/.test(line) && reason.test(line)),
      rig.lines.all.join("\n"),
    );
  });
}

Deno.test("a start that is given up before it began, or while it is under way, leaves no process", async () => {
  await using rig = await PluginRig.start({ disk: "memory_disk.ts" });
  const first = rig.disk.pid;
  Deno.kill(first, "SIGKILL");
  await rig.disk.lost;
  const reason = new Error("the disk is closed");
  assertEquals(await rig.disk.restart(AbortSignal.abort(reason)).catch((error) => error), reason);
  const ending = new AbortController();
  const starting = rig.disk.restart(ending.signal).catch((error) => error);
  await eventually(() => rig.disk.pid !== first, "a process is started");
  ending.abort(reason);
  assertEquals(await starting, reason);
  assertThrows(() => Deno.kill(rig.disk.pid, "SIGCONT"), Deno.errors.NotFound);
});

Deno.test("what a channel says of a process that has ended does not end the next one", async () => {
  await using rig = await PluginRig.start({ disk: "memory_disk.ts" });
  const { notes } = await rig.disk.attachment(0) as PluginAttachment;
  Deno.kill(rig.disk.pid, "SIGKILL");
  await rig.disk.lost;
  new PluginNotes(notes).accuse(BREACH.age, 1);
  await rig.disk.restart();
  using channel = await rig.channel();
  assertEquals(await writeTo(channel, PAGE.good), 0);
});
