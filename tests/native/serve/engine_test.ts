/**
 * `xenblk serve` with each engine and cache mode, on a real file system: what it logs and publishes, and that a guest's
 * data is right in the image afterwards.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach, nodeValue } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, DiskFolder, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const REQUESTS = Deno.env.get("XENBLK_NATIVE") === "full" ? 30_000 : 2000;
const IMAGE_BYTES = 2 ** 26;

/** Arguments of `serve`, and its message about the disk. */
const CASES: readonly (readonly [args: readonly string[], says: RegExp])[] = [
  [["--engine", "uring"], /engine uring, reads by call if cached, writes by \w+, cache writeback\)/],
  [["--engine", "uring", "--grants", "map"], /engine uring, reads by call if cached, writes by \w+, cache writeback\)/],
  [["--engine", "uring", "--cache", "none"], /engine uring, cache none\)/],
  [["--engine", "uring", "--cache", "none", "--grants", "persistent"], /grants copy in place of persistent/],
  [
    ["--engine", "uring", "--cache", "writethrough"],
    /engine uring, reads by call if cached, writes by ring, cache writethrough\)/,
  ],
  [["--engine", "uring", "--cache", "unsafe"], /cache unsafe: a crash of this machine loses or damages its data/],
  [["--engine", "file"], /engine file, cache writeback\)/],
  [["--engine", "file", "--cache", "writethrough"], /engine file, cache writethrough\)/],
];

for (const [args, says] of CASES) {
  nativeTest(`${REQUESTS} requests verify with serve ${args.join(" ")}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", ...args]);
    await using guest = new GuestProcess(xen, GUEST);
    using folder = new DiskFolder();
    const options = { sizeBytes: IMAGE_BYTES, folder: folder.path };
    const { disk, device, image } = await newDisk(xen, guest, "disk.img", options);
    const facts = await disk.connect();
    const flushes = !args.includes("writethrough");
    assertEquals([facts.flush, facts.barrier, facts.discard], [flushes, flushes, args.includes("uring")]);
    assertEquals([facts.logicalSectorBytes, facts.physicalSectorBytes], [512, 4096]);
    const outcome = received(await disk.load({ ...LOAD, requests: REQUESTS, discardEvery: 50 }));
    assertClean(outcome, backend.messages);
    assert(outcome.verifiedSectors > REQUESTS / 4, `only ${outcome.verifiedSectors} sectors verified`);
    assertMatch(backend.messages, says);
    await detach(xen, device);
    assertEquals((await disk.verify(image)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
  });
}

nativeTest(
  "a disk with direct-io-safe is read and written with O_DIRECT, straight into the guest's pages",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    using folder = new DiskFolder();
    const options = { sizeBytes: IMAGE_BYTES, folder: folder.path };
    const { disk, device } = await newDisk(xen, guest, "disk.img", options);
    await xen.run("xenstore-write", [`${backendPath(device)}/direct-io-safe`, "1"]);
    await using backend = new BackendProcess(xen, ["serve", "--engine", "uring", "--grants", "persistent"]);
    await disk.connect();
    assertClean(received(await disk.load({ ...LOAD, requests: REQUESTS })), backend.messages);
    assertMatch(backend.messages, /engine uring, cache none\)/);
    assertMatch(backend.messages, /grants persistent/);
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

nativeTest("a cache mode that the engine does not have is refused in the disk's error node", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using backend = new BackendProcess(xen, ["serve", "--engine", "file", "--cache", "none"]);
  await using guest = new GuestProcess(xen, GUEST);
  const { device } = await newDisk(xen, guest, "disk.img", { sizeBytes: IMAGE_BYTES });
  await backend.says(/cache none needs engine uring/);
  const error = await nodeValue(xen, `${backendPath(device)}/error`);
  assertMatch(error, /cache none needs engine uring/);
  assertEquals(await backend.stop(), 0, backend.messages);
});
