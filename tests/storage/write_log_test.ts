/**
 * The log of unflushed writes: whatever a disk forgets that keeps answered writes in its memory, the log brings back,
 * in order.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { EIO } from "../../lib/errno.ts";
import { XenblkError } from "../../lib/errors.ts";
import { newNonce } from "../../lib/nonce.ts";
import { nullAttachment } from "../../lib/storage/engine/null.ts";
import { loggedAttachment, openChannel as openLogged } from "../../lib/storage/write_log/channel.ts";
import { DiskLog, logBytes } from "../../lib/storage/write_log/log.ts";
import { LogParts, takePart } from "../../lib/storage/write_log/parts.ts";
import { ChannelRig, openChannel, randomSource, simulatedPlatform } from "./rig.ts";
import { assertNoAllocation } from "../heap.ts";
import { DATA_BYTES, Guest, Stage } from "./write_log_rig.ts";

Deno.test("a disk that forgets what was not flushed gets every answered write back, at any moment, in order", () => {
  let replayed = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = randomSource(seed);
    using stage = new Stage(random);
    const guest = new Guest(stage, random);
    for (let step = 0; step < 400; step++) {
      guest.step();
      if (step % 20 === 0) {
        replayed += stage.log.unflushed().length;
        guest.check(stage.afterDeath());
      }
    }
    guest.finish();
    guest.check(stage.afterDeath());
    assertEquals(guest.running.map(({ size }) => size), [0, 0]);
  }
  assert(replayed > 400, `only ${replayed} operations were in the log when it was looked at`);
});

Deno.test("a log that is full flushes by itself, and writes wait for that", () => {
  using stage = new Stage(randomSource(1), 1);
  const ring = stage.rings[0]!;
  for (let written = 0; written < 20; written++) {
    ring.buffer(0).fill(written + 1);
    assertEquals(ring.writeNow(4096 * (written % 16), 4096), 0);
    assert(stage.log.unflushed().length <= 8);
  }
  assert(stage.disk.flushes >= 3, `${stage.disk.flushes} flushes`);
  ring.channel.flush(1);
  ring.finish();
  assertEquals(stage.log.unflushed(), []);
});

Deno.test("a write that has no room at the end of the log, which is not full, makes room and is carried out", () => {
  for (const isFlushed of [false, true]) {
    using stage = new Stage(randomSource(7));
    const [ring, other] = stage.rings as [ChannelRig, ChannelRig];
    for (const lengthBytes of [3072, 3072, 4096]) assertEquals(ring.writeNow(0, lengthBytes), 0);
    // The log's own flushes have freed the first two: 4 of 16 KiB are used, and the last 6 are left.
    while (stage.log.unflushed().length > 1) ring.channel.reap();
    other.channel.flush(0);
    if (isFlushed) other.finish();
    ring.write(1, 8192, [8192]);
    finishSoon(ring);
    other.finish();
  }
});

/** A write that nobody completes would be waited for for a long time. */
function finishSoon(ring: ChannelRig): void {
  for (let turns = 0; ring.channel.inFlight > 0; turns++) {
    assert(turns < 1000, "it waits for ever");
    ring.channel.submit();
    ring.channel.reap();
  }
}

Deno.test("a flush of the guest waits for one of the log's own, so that the last one leaves nothing in flight", () => {
  using stage = new Stage(randomSource(6), 1);
  const ring = stage.rings[0]!;
  for (let tag = 0; tag < 2; tag++) assertEquals(ring.writeNow(4096 * tag, 1024), 0);
  ring.write(2, 0, [2048]);
  ring.channel.flush(0);
  ring.channel.submit();
  assertEquals(stage.disk.flushes, 1);
  ring.finish();
  assertEquals(stage.disk.flushes, 2);
});

Deno.test("after a failed flush of the log's own nothing is written any more, on any ring, and the log is kept", () => {
  using stage = new Stage(randomSource(2));
  const [one, other] = stage.rings as [ChannelRig, ChannelRig];
  other.channel.flush(1);
  other.channel.submit();
  stage.disk.flushResult = -EIO;
  for (let tag = 0; tag < 5; tag++) one.write(tag, 4096 * tag, [4096]);
  const results = [...one.finish().values()];
  assertEquals(results.filter((result) => result !== 0 && result !== -EIO), []);
  const kept = stage.log.unflushed().length;
  assert(kept >= 3, `${kept} operations are kept`);
  // The disk reports the failure once; its next flush succeeds, and proves nothing.
  stage.disk.flushResult = 0;
  assertEquals(other.finish(), new Map([[1, -EIO]]));
  assertEquals(other.writeNow(0, 512), -EIO);
  other.channel.flush(0);
  assertEquals(other.finish(), new Map([[0, -EIO]]));
  one.channel.discard(0, 0, 512, false);
  assertEquals(one.finish(), new Map([[0, -EIO]]));
  assertEquals(one.readNow(0, 512), 0);
  assertEquals(stage.log.unflushed().length, kept);
});

Deno.test("a failed write is not kept", () => {
  using stage = new Stage(randomSource(3), 1);
  const ring = stage.rings[0]!;
  stage.disk.writeResult = -EIO;
  assertEquals(ring.writeNow(512, 512), -EIO);
  stage.disk.writeResult = 0;
  assertEquals(ring.writeNow(0, 512), 0);
  assertEquals(stage.log.unflushed().map(({ offsetBytes, lengthBytes }) => [offsetBytes, lengthBytes]), [[0, 512]]);
});

Deno.test("a log belongs to its nonce, and to nobody if it is cut or damaged", () => {
  const memory = new Uint8Array(new SharedArrayBuffer(logBytes(1, DATA_BYTES)));
  const log = new DiskLog(memory);
  const nonce = newNonce();
  assertEquals(log.belongsTo(nonce), false);
  log.begin(nonce, 1, DATA_BYTES);
  assertEquals([log.belongsTo(nonce), log.belongsTo(newNonce())], [true, false]);
  assertEquals(new DiskLog(memory.subarray(0, 8192)).belongsTo(nonce), false);
  const words = new Uint32Array(memory.buffer);
  words[1] = 99;
  assertEquals(log.belongsTo(nonce), false);
  words[1] = 2;
  words[0] = 0;
  assertEquals(log.belongsTo(nonce), false);
  assertThrows(() => log.begin(nonce, 2, DATA_BYTES), TypeError);
});

Deno.test("what an idle ring has not reclaimed is not written again once another ring's flush covered it", () => {
  using stage = new Stage(randomSource(4));
  const [idle, busy] = stage.rings as [ChannelRig, ChannelRig];
  idle.buffer(0).fill(1);
  idle.writeNow(0, 512);
  busy.channel.flush(0);
  busy.finish();
  busy.buffer(0).fill(2);
  busy.writeNow(0, 512);
  busy.channel.flush(0);
  busy.finish();
  assertEquals(stage.log.unflushed(), []);
  assertEquals(stage.afterDeath()[0], 2);
});

Deno.test("each channel has a part of the log, which another one gets once it is closed, or was never opened", () => {
  const parts = new LogParts(2);
  const [first, second] = [parts.give()!, parts.give()!];
  assertEquals([first.part, second.part], [0, 1]);
  const taken = takePart(first);
  const third = parts.give()!;
  assertEquals(third.part, 1);
  assertThrows(() => takePart(second), XenblkError, "has gone to another one");
  using _third = takePart(third);
  assertEquals(parts.give(), undefined);
  taken[Symbol.dispose]();
  assertThrows(() => takePart(first), XenblkError);
  assertEquals(parts.give()?.part, 0);
});

Deno.test("logged writes, with the log's own flushes, allocate nothing", () => {
  const [depth, dataBytes] = [32, 4 << 20];
  const platform = simulatedPlatform();
  const lengthBytes = logBytes(1, dataBytes);
  const memory = platform.memory.allocate(lengthBytes);
  const log = new DiskLog(memory.view);
  log.begin(newNonce(), 1, dataBytes);
  const attachment = loggedAttachment(
    nullAttachment(),
    { address: memory.address, lengthBytes },
    new LogParts(1).give()!,
  );
  const context = { platform, openChannel } as unknown as Parameters<typeof openLogged>[2];
  const open: typeof openChannel = (attachment, options) => openLogged(attachment, options, context);
  using ring = new ChannelRig(attachment, { platform, open, depth, bufferBytes: 4096, vectorsPerTag: 1 });
  for (let tag = 0; tag < depth; tag++) ring.write(tag, tag * 4096, [4096]);
  ring.finish();
  const write = (operations: number): void => {
    for (let done = 0; done < operations;) {
      for (let tag = 0; tag < depth; tag++) ring.channel.write(tag, tag * 4096, tag, 1);
      ring.channel.submit();
      while (ring.channel.inFlight > 0) done += ring.channel.reap();
    }
  };
  assertNoAllocation(10_000, write);
  assert(log.mark >= 160_000);
  ring.channel.flush(0);
  ring.finish();
});
