/**
 * The claims of docs/security.md about confinement that a test can show without a service manager: serving needs no
 * capability and no way to gain one.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { missingProgram, nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";

const GUEST = 7;
const NO_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];

nativeTest("serve needs no capability: a disk is served, its image locked, its ring journalled", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 26);
  await using backend = new BackendProcess(xen, ["serve"], NO_CAPABILITIES);
  // Through the stand-in event channels, a process without capabilities cannot notify a process that has some.
  await using guest = new GuestProcess(xen, GUEST, NO_CAPABILITIES);
  const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  const outcome = await disk.load({ ...MIXED_LOAD, requests: 300 });
  assertEquals([outcome.errors, outcome.miscompares, outcome.unanswered], [0, 0, 0], backend.messages);
  const status = await Deno.readTextFile(`/proc/${backend.pid}/status`);
  assertMatch(status, /^CapPrm:\s0+$/m);
  assertMatch(status, /^NoNewPrivs:\s1$/m);
  assert(!/warning|error/.test(backend.messages), backend.messages);
  await detach(xen, device);
  assertEquals((await disk.verify(image)).miscompares, 0);
  assertEquals(await backend.stop(), 0, backend.messages);
}, missingProgram("setpriv", "util-linux"));

/** The arguments for setpriv that leave the capabilities which the installed unit leaves. */
function unitCapabilities(): string[] {
  const unit = Deno.readTextFileSync(new URL("../../../contrib/systemd/xenblk.service", import.meta.url));
  const names = /^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.toLowerCase().split(" ");
  const kept = names.map((name) => name.replace("cap_", "+"));
  return ["setpriv", `--bounding-set=-all,${kept.join(",")}`, "--inh-caps=-all", "--no-new-privs"];
}

nativeTest("with the installed unit's capabilities a storage daemon is confined in full", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const image = `${xen.directory}/disk.qcow2`;
  await xen.run("qemu-img", ["create", "-q", "-f", "qcow2", image, "64M"]);
  await using backend = new BackendProcess(xen, ["serve"], unitCapabilities());
  await using guest = new GuestProcess(xen, GUEST, unitCapabilities());
  const device = await attach(xen, { domain: GUEST as DomId, params: `qcow2:${image}` });
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  const outcome = await disk.load({ ...MIXED_LOAD, requests: 100 });
  assertEquals([outcome.errors, outcome.miscompares, outcome.unanswered], [0, 0, 0], backend.messages);
  await detach(xen, device);
  assertEquals(await backend.stop(), 0, backend.messages);
  assert(!/warning|error/.test(backend.messages), backend.messages);
}, missingProgram("setpriv", "util-linux") ?? missingProgram("qemu-storage-daemon", "qemu-system-common"));
