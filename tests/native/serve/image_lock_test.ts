/**
 * Image locks between processes: two `xenblk serve` with one image, and QEMU's tools next to one `xenblk serve`.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { missingProgram, nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, nodeValue, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";

const IMAGE_BYTES = 2 ** 26;
const GUESTS = [7, 8] as const;

/** The device's error node. */
function errorOf(xen: NativeXen, device: DeviceAddress): Promise<string> {
  return nodeValue(xen, `${backendPath(device)}/error`);
}

/** The number of a process's descriptors of a file, and how many of them lock it. */
function descriptors(pid: number, path: string): { open: number; locked: number } {
  let [open, locked] = [0, 0];
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    if (Deno.readLinkSync(`/proc/${pid}/fd/${name}`) !== path) continue;
    open++;
    if (Deno.readTextFileSync(`/proc/${pid}/fdinfo/${name}`).includes("OFDLCK")) locked++;
  }
  return { open, locked };
}

nativeTest(
  "a second process waits for an image that the first one writes to, and serves it when the first has ended",
  async () => {
    await using xen = await NativeXen.start();
    // Two lives of one virtual machine, as in a migration: of another guest's disk it would be refused.
    const uuid = "00000000-0000-4000-8000-00000000000a";
    for (const domid of GUESTS) await xen.createDomain(domid, `life-${domid}`, uuid);
    const image = sparseImage(xen.directory, "disk.img", IMAGE_BYTES);
    await using first = new BackendProcess(xen, ["serve", "--kind", "vbd3"]);
    await using second = new BackendProcess(xen, ["serve", "--kind", "other"]);
    await using guest = new GuestProcess(xen, GUESTS[0]);
    await using otherGuest = new GuestProcess(xen, GUESTS[1]);
    const device = await attach(xen, { domain: GUESTS[0] as DomId, params: `aio:${image}` });
    const other = await attach(xen, { domain: GUESTS[1] as DomId, params: `aio:${image}`, kind: "other" });
    const disk = await guest.disk(frontendPath(device));
    await disk.connect();
    await disk.load({ ...MIXED_LOAD, requests: 200 });
    const { open, locked } = descriptors(first.pid, image);
    assert(open >= 2 && locked === open, `${locked} of ${open} descriptors are locked`);

    const otherDisk = await otherGuest.disk(frontendPath(other));
    const connecting = otherDisk.connect();
    assertEquals(
      await errorOf(xen, other),
      `It waits for image ${image}: process ${first.pid} (deno) uses it; it connects when that use ends`,
    );

    assertEquals(await first.stop("SIGKILL") === 0, false);
    await connecting;
    const outcome = await otherDisk.load({ ...MIXED_LOAD, readShare: 0, requests: 200 });
    assertEquals(outcome.errors, 0, second.messages);
    assertEquals(await second.stop(), 0, second.messages);
  },
);

nativeTest("an image that another guest has is refused at once, until that guest's disk is detached", async () => {
  await using xen = await NativeXen.start();
  for (const domid of GUESTS) await xen.createDomain(domid);
  const image = sparseImage(xen.directory, "disk.img", IMAGE_BYTES);
  await using serve = new BackendProcess(xen, ["serve"]);
  await using guest = new GuestProcess(xen, GUESTS[0]);
  // blkback has it, which takes no lock. Its script has written these nodes.
  const blkback = await attach(xen, { domain: GUESTS[1] as DomId, params: image, kind: "vbd" });
  await xen.run("xenstore-write", [`${backendPath(blkback)}/hotplug-status`, "connected"]);
  const device = await attach(xen, { domain: GUESTS[0] as DomId, params: `aio:${image}` });
  assertEquals(await nodeValue(xen, `${backendPath(device)}/hotplug-status`), "error");
  assertMatch(
    await nodeValue(xen, `${backendPath(device)}/hotplug-error`),
    /^Cannot write to image .*disk\.img: xvda of guest-8 \(domain 8\) uses it \(vbd, mode w\); detach it there first/,
  );
  await xen.run("xenstore-rm", [backendPath(blkback)]);
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  await detach(xen, device);
  assertEquals(await serve.stop(), 0, serve.messages);
});

nativeTest("QEMU's tools cannot open an image while a guest uses it", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUESTS[0]);
  const image = sparseImage(xen.directory, "disk.img", IMAGE_BYTES);
  await using backend = new BackendProcess(xen, ["serve"]);
  await using guest = new GuestProcess(xen, GUESTS[0]);
  const device = await attach(xen, { domain: GUESTS[0] as DomId, params: `aio:${image}` });
  const disk = await guest.disk(frontendPath(device));
  const write = (): Promise<string> => xen.run("qemu-io", ["-f", "raw", "-c", "write 0 512", image]);
  await write();
  await disk.connect();
  assertMatch((await assertRejects(write, Error)).message, /Failed to get "write" lock/);
  await detach(xen, device);
  await write();
  assertEquals(await backend.stop(), 0, backend.messages);
}, missingProgram("qemu-io", "qemu-utils"));
