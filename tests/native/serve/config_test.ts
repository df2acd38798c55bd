/**
 * `serve` and `attach` with a configuration file: each disk is served as its rule says, and the command line takes
 * precedence. A file with a fault is refused before anything is served.
 */

import { assertEquals, assertMatch, assertNotMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, received } from "./scenes.ts";

const FILE = `
[serve]
grants = "copy"
queues = 2
log-level = "debug"

[[disk]]
domain = "web*"
vdev = "xvdb"
grants = "map"
filter = ["throttle,iops=100000"]

[[disk]]
image = "/**/attached.img"
grants = "map"
queues = 3
`;

/** The line about a disk's connection. */
function connection(vdev: string): RegExp {
  return new RegExp(`${vdev} of .*: connected: (.*)`);
}

nativeTest("each disk is served as the configuration says, by serve and by attach", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST, "web-1");
  const config = `${xen.directory}/config.toml`;
  Deno.writeTextFileSync(config, FILE);
  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve", "--config", config]);
  for (const [vdev, number, grants] of [["xvda", 51712, "copy"], ["xvdb", 51728, "map"]] as const) {
    const params = `aio:${sparseImage(xen.directory, `${vdev}.img`, 2 ** 26)}`;
    const device = await attach(xen, { domain: GUEST as DomId, params, vdev });
    assertEquals(device.vdev, number);
    const disk = await guest.disk(frontendPath(device));
    await disk.connect();
    await serve.says(connection(vdev));
    assertMatch(connection(vdev).exec(serve.messages)![1]!, new RegExp(`grants ${grants}`));
    assertEquals(
      (await xen.run("xenstore-read", [`/local/domain/0/backend/vbd3/${GUEST}/${number}/multi-queue-max-queues`]))
        .trim(),
      "2",
    );
    assertClean(received(await disk.load({ ...LOAD, requests: 100 })), serve.messages);
  }
  assertMatch(serve.messages, /debug: /);

  const image = sparseImage(xen.directory, "attached.img", 2 ** 26);
  await using attached = new BackendProcess(xen, [
    "attach",
    String(GUEST),
    image,
    "xvdc",
    "--config",
    config,
    "--queues",
    "1",
  ]);
  await attached.says(/offering/);
  const disk = await guest.disk(frontendPath({ frontendDomain: GUEST as DomId, vdev: 51744 }));
  await disk.connect();
  await attached.says(connection("xvdc"));
  assertMatch(connection("xvdc").exec(attached.messages)![1]!, /grants map/);
  const offered = `/local/domain/0/backend/vbd3/${GUEST}/51744/multi-queue-max-queues`;
  assertEquals(await xen.run("xenstore-exists", [offered]).then(() => "offered", () => "none"), "none");
});

nativeTest("a configuration with a fault is refused before anything is served, with its line", async () => {
  await using xen = await NativeXen.start();
  const config = `${xen.directory}/config.toml`;
  Deno.writeTextFileSync(config, "[serve]\nqueues = 99\n");
  await using serve = new BackendProcess(xen, ["serve", "--config", config]);
  assertEquals(await serve.exited(), 2);
  assertMatch(
    serve.messages,
    /config\.toml:2: Cannot use queues = 99 in \[serve\]: it takes a whole number from 1 to 64/,
  );
  assertNotMatch(serve.messages, /serving/);
});
