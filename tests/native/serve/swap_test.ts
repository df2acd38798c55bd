/**
 * `swap` in a real `serve` with a real storage daemon: a disk goes from a raw file to qcow2 images and back under a guest's
 * verified load over two rings; and the process, or both, are killed at each step.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { assertClean, assertProgress, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";
import { SwapStage } from "./swap_stage.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const ROUNDS = FULL ? 10 : 1;
/** With each of them, and each way from raw to qcow2, within the daemon, and back to raw. */
const STEPS: Readonly<Record<"serve" | "daemon", readonly string[]>> = {
  serve: ["committed", "opened", "committed", "released", "started", "held", "releasing"],
  daemon: ["committed", "released", "committed", "held"],
};
const ALL_STEPS = ["opened", "releasing", "released", "held", "committed", "started"];

nativeTest(
  `a disk goes from raw to qcow2, to another one, back, and by another engine, ${ROUNDS} times under a verified load`,
  async () => {
    await using stage = await SwapStage.open();
    const { disk, images: { raw, one, two, entered } } = stage;
    const backend = stage.serve({}, "--allow-image", "json:**");
    await disk.connect();
    await disk.startLoad(UNTIL_STOPPED);
    for (let round = 0; round < ROUNDS; round++) {
      for (const image of [one, two, raw]) {
        await assertProgress(disk, 200);
        const { now, pausedMs } = await stage.swap(backend, image);
        assert(now.startsWith(image), now);
        assert(pausedMs! < 20_000);
        assertEquals(await stage.node("params"), image);
      }
    }
    // The same file, by another engine.
    assertMatch((await stage.swap(backend, entered)).now, /^json:.*engine qemu/);
    await assertProgress(disk, 200);
    const { before, now, sizeBytes } = await stage.swapByVerb(raw);
    assertMatch(`${before}; ${now}; ${sizeBytes}`, /^json:.*engine qemu.*; raw:.*engine uring.*; 67108864$/);
    await assertProgress(disk, 200);
    assertClean(received(await disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  },
);

/** The steps after which a restart finds the new image. */
const AFTER_COMMIT: readonly string[] = ["committed", "started"];

for (const killed of ["serve", "daemon"] as const) {
  const who = killed === "serve" ? "serve is" : "serve and its daemon are";
  nativeTest(`${who} killed at each step of an exchange: the next one finds the old image or the new one`, async () => {
    await using stage = await SwapStage.open();
    const { disk, images: { raw, one, two } } = stage;
    const next = new Map([[raw, one], [one, two], [two, raw]]);
    let connected = false;
    let present = raw;
    for (const step of FULL ? [...ALL_STEPS, ...ALL_STEPS, ...ALL_STEPS] : STEPS[killed]) {
      const backend = stage.serve({ DIE_AT: step, DIE_WITH: killed });
      if (!connected) await disk.connect();
      else await backend.says(/connected:/);
      if (!connected) await disk.startLoad(UNTIL_STOPPED);
      connected = true;
      await assertProgress(disk, 100);
      const to = next.get(present)!;
      await stage.swap(backend, to).catch(() => {});
      await backend.exited();
      const found = await stage.node("params");
      assertEquals(found, AFTER_COMMIT.includes(step) ? to : present, `${step}: ${backend.messages}`);
      present = found;
    }
    const backend = stage.serve();
    await backend.says(/connected:/);
    await assertProgress(disk, 100);
    while (present !== raw) {
      present = next.get(present)!;
      await stage.swap(backend, present);
    }
    assertEquals((await stage.daemons()).length, 0, "nothing is left of a raw disk in a daemon");
    assertClean(received(await disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  });
}

nativeTest(
  "a raw disk goes on in a copy of another format that was opened before, and its requests wait briefly",
  async () => {
    await using stage = await SwapStage.open();
    const { disk, folder, images: { raw } } = stage;
    const backend = stage.serve();
    await disk.connect();
    assertClean(received(await disk.load({ ...LOAD, requests: 2000 })), backend.messages);
    const copy = `${folder}/copy.qcow2`;
    await qemuImg("convert", "-U", "-f", "raw", "-O", "qcow2", raw.slice("raw:".length), copy);
    await disk.startLoad({ ...UNTIL_STOPPED, readShare: 1, flushEvery: 0, barrierEvery: 0 });
    await assertProgress(disk, 200);
    const { before } = await stage.swap(backend, `qcow2:${copy}`);
    assertMatch(before, /engine uring/);
    await assertProgress(disk, 200);
    assertClean(received(await disk.stopLoad()), backend.messages);
    assertClean(received(await disk.load({ ...LOAD, requests: 2000 })), backend.messages);
    await stage.killDaemons();
    await backend.says(/served again after/);
    assertClean(received(await disk.load({ ...LOAD, requests: 500 })), backend.messages);
    // The daemon keeps tables of the qcow2 in its memory until a flush; qemu-img reads the file.
    assertClean(received(await disk.load({ ...LOAD, requests: 20, flushEvery: 1 })), backend.messages);
    await qemuImg("convert", "-U", "-f", "qcow2", "-O", "raw", copy, `${folder}/again.raw`);
    await stage.swap(backend, `raw:${folder}/again.raw`);
    assertClean(received(await disk.load({ ...LOAD, requests: 500 })), backend.messages);
    await stage.daemonsEnded();
    await stage.finish(backend, `${folder}/again.raw`);
  },
);

nativeTest(
  "a daemon that hangs keeps its disk: the exchange ends in time, and the guest goes on when it answers",
  async () => {
    await using stage = await SwapStage.open();
    const { disk, images: { raw, one, two } } = stage;
    const backend = stage.serve();
    await disk.connect();
    await stage.swap(backend, one);
    await disk.startLoad(UNTIL_STOPPED);
    await assertProgress(disk, 200);
    await stage.killDaemons("SIGSTOP");
    for (const image of [raw, two]) {
      const beganMs = performance.now();
      await assertRejects(() => stage.swap(backend, image, 1000), XenblkError, "has not finished what is in flight");
      assert(performance.now() - beganMs < 20_000);
      assertEquals(await stage.node("params"), one);
    }
    await stage.killDaemons("SIGCONT");
    await assertProgress(disk, 200);
    await stage.swap(backend, raw);
    await assertProgress(disk, 200);
    assertClean(received(await disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  },
);
