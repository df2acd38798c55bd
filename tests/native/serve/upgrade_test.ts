/**
 * The files of the program go away while `serve` runs, as when an upgrade replaces them: disks that it has are served,
 * resized, limited, detached and offered to their guest again, and the process ends as it should.
 */

import { assertEquals, assertGreater, assertMatch } from "@std/assert";
import { ControlClient } from "../../../lib/control/client.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;
/** What the program is made of. */
const PARTS = ["deno.json", "deno.lock", "cli.ts", "platform.ts", "lib", "ffi"];

nativeTest("the disks of a serve whose files are gone are served, resized, limited and detached", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const program = `${xen.directory}/program/`;
  await Deno.mkdir(program);
  await xen.run("cp", ["-a", ...PARTS.map((part) => ROOT + part), program]);
  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve"], [], 0, `${program}cli.ts`);
  const first = await newDisk(xen, guest, "first.img", { sizeBytes: 2 ** 20 });
  const second = await newDisk(xen, guest, "second.img", { sizeBytes: 2 ** 20 });
  for (const { disk } of [first, second]) await disk.connect();
  await Deno.remove(program, { recursive: true });

  assertClean(received(await first.disk.load({ ...LOAD, requests: 100 })), serve.messages);
  using client = (await ControlClient.connect(`${xen.directory}/journals/control/${serve.pid}.sock`))!;
  const labels = (await client.call("status", {})).devices.map(({ label }) => label);
  assertEquals(labels.length, 2);
  const [detached, other] = labels;
  assertEquals(await client.call("resize", { device: detached!, sizeBytes: 2 ** 21 }), { before: 2048, now: 4096 });
  assertEquals((await client.call("limit", { device: other!, limits: { iops: 5 } })).limits.iops, 5);
  const slow = performance.now();
  assertClean(received(await second.disk.load({ ...LOAD, flushEvery: 0, requests: 4 })), serve.messages);
  assertGreater(performance.now() - slow, 500, "its reactor has what limits it");
  assertEquals(await client.call("detach", { device: detached! }), {});
  await serve.says(/removed/);
  assertEquals(await serve.stop(), 0, serve.messages);
  assertMatch(serve.messages, /offering .*first\.img/);
});
