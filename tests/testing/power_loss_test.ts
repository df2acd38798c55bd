/**
 * A disk whose power a test cuts: what a guest has flushed stays, the rest is kept, torn or lost by a seed, also while
 * requests are in flight; and a verified load knows what it may no longer expect.
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { EIO } from "../../lib/errno.ts";
import { chooseFilters } from "../../lib/storage/filter/spec.ts";
import { filterDisk } from "../../lib/storage/filter/stack.ts";
import { StageRig } from "../../lib/testing/contract_stage.ts";
import { STATE, stoppedAttachment } from "../storage/replayed_disk.ts";
import { type PowerCut, powerLossFilter, testHost } from "../../testing.ts";

const KIB = 1024;
const block = (value: number): Uint8Array => new Uint8Array(4 * KIB).fill(value);

/** Writes 60 blocks, flushes after 30, cuts the power, and returns what became of them. */
async function cutAfterWrites(seed: number): Promise<{ readonly cut: PowerCut; readonly lost: readonly number[] }> {
  using power = powerLossFilter({ seed });
  await using host = await testHost();
  const guest = await host.startGuest();
  await using disk = await host.attach({ domain: guest.domid, image: "memory:1M", filters: [power.filter] });
  const drive = await guest.connect(disk.vdev);
  for (let i = 0; i < 60; i++) {
    await drive.write(i * 4 * KIB, block(i + 1));
    if (i === 29) await drive.flush();
  }
  const cut = await power.cut();
  const lost: number[] = [];
  for (let i = 0; i < 60; i++) {
    const back = await drive.read(i * 4 * KIB, 4 * KIB);
    if (back.some((byte) => byte !== i + 1)) lost.push(i);
  }
  return { cut, lost };
}

Deno.test("what was flushed survives a power failure; of the rest a seed decides", async () => {
  const { cut, lost } = await cutAfterWrites(1);
  assertEquals(cut.unflushed, Array.from({ length: 30 }, (_, i) => ({ sector: 8 * (30 + i), count: 8 })));
  assertEquals([lost.every((i) => i >= 30), lost.length], [true, cut.lost + cut.torn]);
  assert(cut.kept > 0 && cut.torn > 0 && cut.lost > 0, `each is there: ${JSON.stringify(cut)}`);
  assertEquals(await cutAfterWrites(1), { cut, lost });
  assert((await cutAfterWrites(2)).lost.join() !== lost.join());
});

Deno.test("what a power failure has left of the cache reaches the image when the disk is closed", async () => {
  using power = powerLossFilter({ seed: 3 });
  await using host = await testHost();
  const image = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(image) };
  Deno.truncateSync(image, 64 * KIB);
  const guest = await host.startGuest();
  const disk = await host.attach({ domain: guest.domid, image, filters: [power.filter] });
  const drive = await guest.connect();
  for (let i = 0; i < 16; i++) await drive.write(i * 4 * KIB, block(1));
  assertEquals(Deno.readFileSync(image), new Uint8Array(64 * KIB), "nothing was flushed");
  const { kept, torn, lost } = await power.cut();
  assertEquals(kept + torn + lost, 16);
  const left = await drive.read(0, 64 * KIB);
  await disk[Symbol.asyncDispose]();
  assertEquals(Deno.readFileSync(image), left);
  assertEquals(
    Array.from({ length: 16 }, (_, i) => left[i * 4 * KIB]! + left[(i + 1) * 4 * KIB - 1]!).filter((ends) => ends === 2)
      .length,
    kept,
  );
});

Deno.test("a verified load goes on after a power failure, and flushes what was kept", async () => {
  using power = powerLossFilter({ cacheBytes: 1 << 20 });
  await using host = await testHost();
  const guest = await host.startGuest({ drive: { queues: 2 } });
  await using disk = await host.attach({ domain: guest.domid, image: "memory:4M", filters: [power.filter] });
  const drive = await guest.connect(disk.vdev);
  for (let round = 1; round <= 3; round++) {
    const { errors, miscompares } = await drive.load({ requests: 600, seed: round, flushEvery: 100, mix: 0.2 });
    assertEquals([errors, miscompares], [0, 0]);
    assert((await power.cut(drive.model)).unflushed.length > 0);
    const { errors: late, miscompares: wrong, verifiedSectors } = await drive.load({ requests: 300, mix: 1 });
    assertEquals([late, wrong, verifiedSectors > 0], [0, 0, true]);
  }
});

Deno.test("a flush that a power failure interrupts fails, and makes nothing durable later", async () => {
  using power = powerLossFilter({ seed: 2, flushLimitMs: 0 });
  const [data, state, open] = [new SharedArrayBuffer(64 * KIB), new SharedArrayBuffer(4), new SharedArrayBuffer(4)];
  const word = new Int32Array(state);
  const [hanging] = await chooseFilters([power.filter]);
  await using disk = filterDisk({
    properties: { sectors: 128, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
    description: "a disk that a test stops",
    attachment: () => Promise.resolve(stoppedAttachment(data, state, open)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }, [hanging!]);
  await using rig = new StageRig({ disk });
  using driver = await rig.driver();
  driver.buffer(0).fill(1);
  assertEquals(await driver.writeAt(0, 512), 0);
  word[0] = STATE.hangs;
  driver.channel.flush(1);
  driver.channel.submit();
  const { lost, unflushed } = await power.cut();
  assertEquals([lost, unflushed], [1, [{ sector: 0, count: 1 }]]);
  word[0] = STATE.works;
  assertEquals(await driver.finished(), new Map([[1, -EIO]]));
  assertEquals([await driver.writeAt(1024, 512), await driver.flushNow()], [0, 0]);
  assertEquals(new Uint8Array(data).indexOf(1, 512), 1024, "a later flush has nothing of the earlier one's");
});

Deno.test("a write cache that is too small, or was disposed, is refused", async () => {
  assertThrows(() => powerLossFilter({ cacheBytes: 4096 }), XenblkError, "Cannot make a write cache of 4096 bytes");
  const power = powerLossFilter();
  power[Symbol.dispose]();
  await using host = await testHost();
  const guest = await host.startGuest();
  const attaching = host.attach({ domain: guest.domid, image: "memory:1M", filters: [power.filter] });
  await assertRejects(() => attaching, XenblkError, "id takes what powerLossFilter has chosen");
});
