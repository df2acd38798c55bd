/**
 * A disk that hangs under a connected guest, in a real `serve` on a FUSE file system: the disk's own error node and the
 * log say so within seconds, a neighbour's do not, and the report is taken back when the storage answers.
 */

import { assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { HangingFileSystem, missingFuse } from "../hanging_fs.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, nodeValue } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, assertProgress, GUEST, newDisk, received, UNTIL_STOPPED } from "./scenes.ts";

nativeTest("a connected disk whose storage hangs says so, and takes it back", async () => {
  await using fuse = await HangingFileSystem.mount();
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  await using backend = new BackendProcess(xen, ["serve"]);
  const healthy = await newDisk(xen, guest, "healthy.img", { sizeBytes: 2 ** 24 });
  const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${fuse.image("hung.img", 2 ** 24)}` });
  const hung = { disk: await guest.disk(frontendPath(device)), device };
  for (const { disk } of [healthy, hung]) {
    await disk.connect();
    await disk.startLoad(UNTIL_STOPPED);
  }
  await fuse.hang("write", "fsync", "interrupts");
  const error = await nodeValue(xen, `${backendPath(hung.device)}/error`);
  assertMatch(error, /^Cannot complete [0-9]+ requests? of the guest on .*hung\.img .*: no answer within 10 s; check/);
  await assertProgress(healthy.disk, 1000);
  await fuse.resume();
  await assertProgress(hung.disk, 1000);
  await nodeGone(xen, `${backendPath(hung.device)}/error`);
  for (const { disk } of [healthy, hung]) assertClean(received(await disk.stopLoad()), backend.messages);
  assertEquals(backend.messages.split("no answer within").length, 2, backend.messages);
  assertEquals(await backend.stop(), 0, backend.messages);
}, missingFuse());

async function nodeGone(xen: NativeXen, path: string): Promise<void> {
  const there = (): Promise<boolean> => xen.run("xenstore-read", [path]).then(() => true, () => false);
  for (const end = performance.now() + 30_000; await there();) {
    if (performance.now() > end) throw new Error(`${path} is still there`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
