/**
 * What `serve` tells a service manager, over real datagram sockets: that it serves the disks that were there, that it is
 * alive, and that it ends.
 */

import { assert, assertEquals } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { DatagramSocket } from "../datagram_socket.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, nodeValue, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";

const GUEST = 7;

/** A path and an abstract name. */
const NAMES: readonly (readonly [kind: string, nameIn: (directory: string) => string])[] = [
  ["a path", (directory) => `${directory}/notify`],
  ["an abstract name", () => `@xenblk-test-${Deno.pid}`],
];

for (const [kind, nameIn] of NAMES) {
  nativeTest(
    `serve tells systemd that it is ready, what it serves, that it lives, that it ends; by ${kind}`,
    async () => {
      await using xen = await NativeXen.start();
      await xen.createDomain(GUEST);
      const image = sparseImage(xen.directory, "disk.img", 2 ** 20);
      const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
      using socket = new DatagramSocket(nameIn(xen.directory));
      const environment = ["env", `NOTIFY_SOCKET=${nameIn(xen.directory)}`, "WATCHDOG_USEC=400000"];
      await using backend = new BackendProcess(xen, ["serve"], environment);
      const ready = await socket.get(/^READY=1$/m);
      assertEquals(socket.received[ready]!.split("\n")[1], "STATUS=1 disk of kind vbd3, 0 connected");
      assert(!socket.received.some((text) => text.startsWith("STOPPING")));
      const seen = socket.received.filter((text) => text === "WATCHDOG=1").length;
      while (socket.take().filter((text) => text === "WATCHDOG=1").length < seen + 3) await socket.get(/./);
      await nodeValue(xen, `${backendPath(device)}/hotplug-status`, "connected"); // an end before that is "before any device"
      assertEquals(await backend.stop(), 0, backend.messages);
      const stopping = await socket.get(/^STOPPING=1$/m);
      assert(ready < stopping);
      assert(await socket.get(/^EXTEND_TIMEOUT_USEC=[1-9]/) > stopping);
    },
  );
}

nativeTest("attach gives signs of life for as long as its guest takes to close the disk", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 20);
  const name = `${xen.directory}/notify`;
  using socket = new DatagramSocket(name);
  await using guest = new GuestProcess(xen, GUEST);
  await using backend = new BackendProcess(xen, ["attach", String(GUEST), image, "xvdb", "--timeout=3"], [
    "env",
    `NOTIFY_SOCKET=${name}`,
    "WATCHDOG_USEC=400000",
  ]);
  const disk = await guest.disk(frontendPath({ frontendDomain: GUEST as DomId, vdev: 51728 }));
  await backend.says(/offering/);
  await disk.connect();
  await socket.get(/^READY=1$/m);
  Deno.kill(guest.pid, "SIGSTOP");
  await backend.stop();
  Deno.kill(guest.pid, "SIGCONT");
  const stopping = await socket.get(/^STOPPING=1$/m);
  const signs = socket.take().slice(stopping).filter((text) => text === "WATCHDOG=1").length;
  assert(signs > 10, `${signs} signs of life in the 3 s that the guest had`);
});
