/**
 * Rings move between the reactors of `serve` all the time, under a guest's verified load over two rings, with each engine
 * and grant mode: no response is lost, none comes twice, all bytes are right. The process is killed in the middle, too.
 */

import { assert, assertEquals } from "@std/assert";
import type { LoadSpec } from "../../../lib/guest/load_types.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, DiskFolder, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const IMAGE_BYTES = 2 ** 26;
const PROGRAM = new URL("./moving_serve.ts", import.meta.url).pathname;
const ORDERED: LoadSpec = { ...LOAD, flushEvery: 40, barrierEvery: 20 };
const TWO_RINGS = { queues: 2, requests: 32 };
const KILLS = FULL ? 10 : 3;

function serve(xen: NativeXen, moves: number, ...args: string[]): BackendProcess {
  const rings = ["--queues", "2", "--workers", "2", "--no-balance"];
  return new BackendProcess(xen, ["serve", ...rings, ...args], ["env", `MOVES=${moves}`], 0, PROGRAM);
}

const MOVES = FULL ? 1000 : 100;

for (
  const args of [
    ["--engine", "uring", "--grants", "copy"],
    ["--engine", "uring", "--grants", "persistent"],
    ["--engine", "uring", "--cache", "none"],
    ["--engine", "file"],
  ]
) {
  nativeTest(`rings move ${MOVES} times under a verified load, serve ${args.join(" ")}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = serve(xen, MOVES, ...args);
    await using guest = new GuestProcess(xen, GUEST);
    using folder = new DiskFolder();
    const options = { sizeBytes: IMAGE_BYTES, folder: folder.path, shape: TWO_RINGS };
    const { disk, device, image } = await newDisk(xen, guest, "disk.img", options);
    await disk.connect();
    await backend.says(/connected:/); // both rings are open by then
    const before = await backend.holdings();
    await disk.startLoad(ORDERED);
    await backend.says(/moved \d+ times/, 150_000);
    const outcome = received(await disk.stopLoad());
    assertClean(outcome, backend.messages);
    assert(outcome.verifiedSectors > 100, `only ${outcome.verifiedSectors} sectors verified`);
    const after = await backend.holdings();
    assert(
      after.descriptors <= before.descriptors + 8,
      `${before.descriptors} descriptors became ${after.descriptors}`,
    );
    assertEquals(after.ports, before.ports);
    await detach(xen, device);
    assertEquals((await disk.verify(image)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
  });
}

nativeTest(`killed ${KILLS} times while rings move, serve answers each request once`, async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  using folder = new DiskFolder();
  const options = { sizeBytes: IMAGE_BYTES, folder: folder.path, shape: TWO_RINGS };
  const { disk, device, image } = await newDisk(xen, guest, "disk.img", options);
  let backend = serve(xen, 1e9);
  try {
    await disk.connect();
    await disk.startLoad(ORDERED);
    for (let kill = 0; kill < KILLS; kill++) {
      await backend.says(/connected:/);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 300));
      await backend.stop("SIGKILL");
      backend = serve(xen, 1e9);
    }
    await backend.says(/connected:/);
    assertClean(received(await disk.stopLoad()), backend.messages);
    await detach(xen, device);
    assertEquals((await disk.verify(image)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
  } finally {
    await backend[Symbol.asyncDispose]();
  }
});
