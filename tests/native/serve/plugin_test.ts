/**
 * A disk in TypeScript behind a real xenstored: `serve` runs no program that xenstore names unless it is allowed, and then
 * a guest uses the disk; `attach` runs what the operator names.
 */

import { assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { parseVdev } from "../../../lib/xenbus/vdev.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, nodeValue } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, DiskFolder, GUEST, LOAD, received } from "./scenes.ts";

const EXAMPLES = new URL("../../../examples/", import.meta.url).pathname;
const domain = GUEST as DomId;

nativeTest(
  "serve runs a plugin that xenstore names only if it is allowed; what is lost with it is not hidden",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    const device = await attach(xen, { domain, params: `aio:plugin:${EXAMPLES}compressed_disk.ts?16M` });
    {
      await using serve = new BackendProcess(xen, ["serve"]);
      await serve.says(/xenstore names a program, which is not allowed; allow it with --allow-image/);
      assertMatch(await nodeValue(xen, `${backendPath(device)}/error`), /xenstore names a program/);
    }
    await using serve = new BackendProcess(xen, ["serve", "--allow-image", `plugin:${EXAMPLES}*`]);
    await serve.says(/offering plugin:.*compressed_disk\.ts\?16M \(16\.0 MiB, process \d+\)/);
    const disk = await guest.disk(frontendPath(device));
    const facts = await disk.connect();
    assertEquals(facts.sectors, 32768);
    assertClean(received(await disk.load({ ...LOAD, requests: 2000, discardEvery: 50 })), serve.messages);
    // The plugin keeps everything in memory, and ends with serve.
    await serve.stop("SIGKILL");
    await using next = new BackendProcess(xen, ["serve", "--allow-image", `plugin:${EXAMPLES}*`]);
    await next.says(/Cannot use it: what was written to it has ended with the process that served it; /);
    const { errors, miscompares } = await disk.load({ ...LOAD, requests: 50 });
    assertEquals([errors > 0, miscompares], [true, 0], "the guest gets errors, not an empty disk");
    await detach(xen, device);
    assertEquals(await next.stop(), 0, next.messages);
  },
);

nativeTest("attach runs the plugin that it is given, with the permissions that it is given", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  using folder = new DiskFolder();
  const image = `plugin:${EXAMPLES}sqlite_disk.ts?${folder.path}/disk.db`;
  const allowed = ["read", "write"].flatMap((kind) => ["--plugin-allow", `${kind}=${folder.path}`]);
  await using process = new BackendProcess(xen, ["attach", String(GUEST), image, "xvdb", ...allowed]);
  const path = frontendPath({ frontendDomain: domain, vdev: parseVdev("xvdb") });
  await process.says(/offering plugin:/);
  const disk = await guest.disk(path);
  await disk.connect();
  await process.says(/ is xvdb of /);
  const area = { firstSector: 0, sectors: 8192 };
  assertClean(received(await disk.load({ ...LOAD, area, requests: 1000 })), process.messages);
  assertEquals(await process.stop(), 0, process.messages);
});
