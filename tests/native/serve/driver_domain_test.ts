/**
 * `xenblk serve BACKEND-PATH` in a driver domain: the toolstack in domain 0 writes the nodes, domain 3 has the image,
 * and a guest uses it. Here xenstored takes each client for domain 0, so the path must name the backend's domain;
 * tests/backend/kind_test.ts shows how a backend finds its own.
 */

import { assertEquals } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, received } from "./scenes.ts";

const DRIVER_DOMAIN = 3;

nativeTest("a driver domain serves a disk to a guest", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(DRIVER_DOMAIN, "storage");
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 26);
  const backendDomain = DRIVER_DOMAIN as DomId;
  const device = await attach(xen, { domain: GUEST as DomId, backendDomain, params: `aio:${image}` });
  await using serve = new BackendProcess(xen, ["serve", backendPath(device)], [], DRIVER_DOMAIN);
  await using guest = new GuestProcess(xen, GUEST);
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  assertClean(received(await disk.load({ ...LOAD, requests: 300 })), serve.messages);
  assertEquals((await disk.verify(image)).miscompares, 0);
  const stats = await xen.processStats(serve.pid);
  assertEquals([stats?.domid, stats?.ports], [DRIVER_DOMAIN, 1], serve.messages);
  await detach(xen, device);
  assertEquals(await serve.exited(), 0, serve.messages);
});
