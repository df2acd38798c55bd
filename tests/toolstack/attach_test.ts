/**
 * Attaching and detaching: the nodes and their permissions as libxl writes them, free and taken devices, waiting, and
 * that nothing is left behind after any failure.
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, XenstoreOperations } from "../../lib/hypervisor.ts";
import { PASSES } from "../../lib/xenbus/error_text.ts";
import { removeDevice, waitForConnected } from "../../lib/toolstack/attach.ts";
import { detachDevice, findDevice, findDisk } from "../../lib/toolstack/detach.ts";
import { listDevices } from "../../lib/toolstack/list.ts";
import { backendPath, type DeviceAddress, frontendPath, libxlPath } from "../../lib/xenbus/paths.ts";
import { formatVdev } from "../../lib/xenbus/vdev.ts";
import { DOM0, GUEST, Rig, RING_NODES, until } from "../backend/rig.ts";

const SOON = { timeoutMs: 5000 } as const;
const AT_ONCE = { timeoutMs: 50 } as const;

/** Every node of the store with its value and permissions, as lines. */
function dump(store: XenstoreOperations, path = "/"): string[] {
  const permissions = (store.permissions(path) ?? []).map((entry) =>
    (entry.read ? (entry.write ? "b" : "r") : entry.write ? "w" : "n") + entry.domain
  );
  const below = (store.list(path) ?? []).toSorted().flatMap((name) =>
    dump(store, path === "/" ? `/${name}` : `${path}/${name}`)
  );
  return [`${path} = ${JSON.stringify(store.read(path))} (${permissions})`, ...below];
}

Deno.test("attach writes what libxl writes, with its permissions", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "aio:/scratch/q.img" });
  assertEquals(dump(rig.toolstack, frontendPath(device)), [
    '/local/domain/5/device/vbd/51712 = "" (n5,r0)',
    '/local/domain/5/device/vbd/51712/backend = "/local/domain/0/backend/vbd3/5/51712" (n5,r0)',
    '/local/domain/5/device/vbd/51712/backend-id = "0" (n5,r0)',
    '/local/domain/5/device/vbd/51712/device-type = "disk" (n5,r0)',
    '/local/domain/5/device/vbd/51712/state = "1" (n5,r0)',
    '/local/domain/5/device/vbd/51712/trusted = "1" (n5,r0)',
    '/local/domain/5/device/vbd/51712/virtual-device = "51712" (n5,r0)',
  ]);
  assertEquals(dump(rig.toolstack, backendPath(device)), [
    '/local/domain/0/backend/vbd3/5/51712 = "" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/bootable = "1" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/dev = "xvda" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/device-type = "disk" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/discard-enable = "1" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/frontend = "/local/domain/5/device/vbd/51712" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/frontend-id = "5" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/mode = "w" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/online = "1" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/params = "aio:/scratch/q.img" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/removable = "0" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/state = "1" (n0,r5)',
    '/local/domain/0/backend/vbd3/5/51712/type = "vbd3" (n0,r5)',
  ]);
  const libxl = dump(rig.toolstack, libxlPath(device));
  assertEquals(libxl.length, 14);
  assert(libxl.every((line) => line.endsWith("(n0)")), libxl.join("\n"));
  assert(libxl.includes('/libxl/5/device/vbd/51712/backend = "/local/domain/0/backend/vbd3/5/51712" (n0)'));
});

Deno.test("the protocol is written for a PV guest, as libxl does, or when it is given", async () => {
  await using rig = new Rig();
  const protocol = (device: DeviceAddress): string | undefined =>
    rig.toolstack.read(`${frontendPath(device)}/protocol`);
  rig.toolstack.write("/libxl/5/type", "pvh");
  assertEquals(protocol(rig.attach()), undefined);
  rig.toolstack.write("/libxl/5/type", "pv");
  assertEquals(protocol(rig.attach()), "x86_64-abi");
  assertEquals(protocol(rig.attach({ protocol: "x86_32-abi" })), "x86_32-abi");
});

Deno.test("without a name the disk gets the first letters that no disk of the guest has, under any prefix", async () => {
  await using rig = new Rig();
  rig.attach({ vdev: "hda" });
  rig.attach({ vdev: "sdc1", kind: "qdisk" });
  rig.toolstack.write("/libxl/5/device/vbd/51760/params", "left behind"); // xvdd
  const names = Array.from({ length: 26 }, () => formatVdev(rig.attach().vdev));
  assertEquals(names.slice(0, 3), ["xvdb", "xvde", "xvdf"]);
  assertEquals(names.slice(-4), ["xvdz", "xvdaa", "xvdab", "xvdac"]);
});

for (const holder of ["frontend", "backend", "libxl"] as const) {
  Deno.test(`a device that is taken by its ${holder} node is refused with that node, and nothing is written`, async () => {
    await using rig = new Rig();
    const device: DeviceAddress = { backendDomain: DOM0, kind: "vbd3", frontendDomain: GUEST, vdev: 51728 };
    const path = { frontend: frontendPath, backend: backendPath, libxl: libxlPath }[holder](device);
    rig.toolstack.makeDirectory(path);
    const before = dump(rig.toolstack);
    const error = assertThrows(() => rig.attach({ vdev: "xvdb" }), XenblkError, `it is taken by ${path}`);
    assertEquals(error.exitStatus, 1);
    assertEquals(dump(rig.toolstack), before);
  });
}

Deno.test("a name that Linux would number like another disk of the guest is refused with both names", async () => {
  await using rig = new Rig();
  rig.attach({ vdev: "xvda" });
  rig.attach({ vdev: "xvdb1" });
  const before = dump(rig.toolstack);
  for (const [vdev, other] of [["sda", "xvda"], ["hda", "xvda"], ["xvda1", "xvda"], ["sdb", "xvdb1"]] as const) {
    const message = `Cannot attach ${vdev} to domain 5: it clashes with ${other}, which the guest has`;
    assertThrows(() => rig.attach({ vdev, kind: "other" }), XenblkError, message);
  }
  assertEquals(dump(rig.toolstack), before);
  rig.attach({ vdev: "sdb2" });
});

Deno.test("a domain that does not exist and a name that is not a device are refused, and nothing is written", async () => {
  await using rig = new Rig();
  const before = dump(rig.toolstack);
  assertEquals(assertThrows(() => rig.attach({ domain: 9 as DomId }), XenblkError, "domain 9").exitStatus, 3);
  assertEquals(assertThrows(() => rig.attach({ vdev: "disk1" }), XenblkError, "disk1").exitStatus, 2);
  assertEquals(dump(rig.toolstack), before);
});

Deno.test("attach, connect and detach leave the store as it was", async () => {
  await using rig = new Rig();
  rig.toolstack.makeDirectory("/local/domain/0/backend");
  rig.toolstack.makeDirectory("/libxl/5/device");
  const before = dump(rig.toolstack);
  const kind = rig.serve();
  const device = rig.attach({ vdev: "xvdb" });
  const frontend = rig.frontend(device);
  const [connection] = await Promise.all([frontend.connect(), waitForConnected(rig.toolstack, device, SOON)]);
  assertEquals(connection.disk.sectors, 131072);
  await detachDevice(rig.toolstack, findDevice(rig.toolstack, GUEST, "xvdb"), SOON);
  await frontend.closed;
  await until("the device is gone", () => kind.status().length === 0);
  assertEquals(dump(rig.toolstack), before);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("waiting for a device ends with the backend's own error", async () => {
  await using rig = new Rig();
  rig.serve();
  const device = rig.attach({ params: "/nonexistent/image" });
  const error = await assertRejects(() => waitForConnected(rig.toolstack, device, SOON), XenblkError, "/nonexistent");
  assertEquals(error.exitStatus, 1);
});

Deno.test("waiting for a guest that does not connect ends in time, with both states", async () => {
  await using rig = new Rig();
  rig.serve();
  const device = rig.attach();
  await rig.backendReaches(device, 2);
  const wait = (): Promise<void> => waitForConnected(rig.toolstack, device, AT_ONCE);
  const error = await assertRejects(wait, XenblkError, "backend InitWait, frontend Initialising");
  assertEquals([error.kind, error.exitStatus], ["timeout", 4]);
});

Deno.test("waiting goes on while storage is slow to answer; if the time is over first, that is the reason", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const node = `${backendPath(device)}/error`;
  rig.toolstack.write(node, `Cannot open image: no answer within 10 s; check the storage behind it; ${PASSES}`);
  const late = await assertRejects(
    () => waitForConnected(rig.toolstack, device, AT_ONCE),
    XenblkError,
    "in time: Cannot",
  );
  assertEquals([late.kind, late.exitStatus], ["timeout", 4]);
  const attaching = waitForConnected(rig.toolstack, device, SOON);
  rig.toolstack.write(node, "Cannot open image: it is damaged");
  await assertRejects(() => attaching, XenblkError, "it is damaged");
});

Deno.test("waiting for a guest that ends meanwhile ends at once, and says so", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const attaching = waitForConnected(rig.toolstack, device, SOON);
  rig.toolstack.remove(frontendPath(device)); // what the guest owns goes with it, the backend's nodes later
  const error = await assertRejects(
    () => attaching,
    XenblkError,
    "the guest's nodes were removed meanwhile: it has ended",
  );
  assertEquals(error.kind, "not-found");
});

Deno.test("waiting for a device that is removed meanwhile, or for a store that is lost, ends at once", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const removed = waitForConnected(rig.toolstack, device, SOON);
  rig.toolstack.remove(backendPath(device));
  assertEquals((await assertRejects(() => removed, XenblkError, "was removed")).exitStatus, 3);
  const other = rig.attach({ vdev: "xvdb" });
  const lost = waitForConnected(rig.toolstack, other, SOON);
  rig.simulated.stop();
  await assertRejects(() => lost, XenblkError, "lost");
});

Deno.test("a guest that does not close its disk keeps it unless detaching is forced", async () => {
  await using rig = new Rig();
  const kind = rig.serve();
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  const detach = (force: boolean): Promise<void> => detachDevice(rig.toolstack, device, { ...AT_ONCE, force });
  const error = await assertRejects(() => detach(false), XenblkError, "backend Closing, frontend Connected");
  assertEquals([error.kind, error.exitStatus], ["timeout", 4]);
  assertEquals(rig.plane.open.length, 1);
  await detach(true);
  await until("the device is gone", () => kind.status().length === 0);
  assertEquals(listDevices(rig.toolstack), []);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("detaching a device that no backend serves reports that", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const detach = (): Promise<void> => detachDevice(rig.toolstack, device, AT_ONCE);
  const error = await assertRejects(detach, XenblkError, "its backend did not answer in time");
  assertEquals([error.exitStatus, error.remedy?.includes("xenblk serve --kind vbd3")], [4, true]);
});

Deno.test("detaching removes what is left of a device, and needs no backend if it is Closed", async () => {
  await using rig = new Rig();
  const closed = rig.attach();
  rig.toolstack.write(`${backendPath(closed)}/state`, "6");
  await detachDevice(rig.toolstack, closed, AT_ONCE);
  const half = rig.attach();
  rig.toolstack.remove(backendPath(half));
  await detachDevice(rig.toolstack, findDevice(rig.toolstack, GUEST, "xvda"), AT_ONCE);
  assertEquals(rig.toolstack.list("/local/domain/5/device/vbd"), []);
  assertEquals(rig.toolstack.list("/libxl/5/device/vbd"), undefined);
});

Deno.test("whatever attach calls taken, detach removes, and attach then works", async () => {
  await using rig = new Rig();
  const device: DeviceAddress = { backendDomain: DOM0, kind: "vbd3", frontendDomain: GUEST, vdev: 51728 };
  const leftovers: Record<string, () => void> = {
    "the frontend's directory": () => rig.toolstack.write(`${frontendPath(device)}/state`, "1"),
    "a frontend that names another guest's disk": () =>
      rig.toolstack.write(`${frontendPath(device)}/backend`, "/local/domain/0/backend/vbd3/6/51728"),
    "libxl's directory": () => rig.toolstack.write(`${libxlPath(device)}/params`, "x"),
    "a backend without frontend": () => rig.toolstack.write(`${backendPath(device)}/state`, "6"),
    "a backend without anything": () => rig.toolstack.makeDirectory(backendPath(device)),
    "a backend of a kind of its own": () => {
      rig.toolstack.write("/local/domain/0/backend/mine/5/51728/params", "x");
      rig.toolstack.write(`${frontendPath(device)}/state`, "1");
    },
  };
  for (const [what, leave] of Object.entries(leftovers)) {
    leave();
    assertThrows(() => rig.attach({ vdev: "xvdb" }), XenblkError, "it is taken by", what);
    await detachDevice(rig.toolstack, findDisk(rig.toolstack, String(GUEST), "xvdb").device, AT_ONCE);
    assertEquals(dump(rig.toolstack).filter((line) => line.includes("51728")), [], what);
    removeDevice(rig.toolstack, rig.attach({ vdev: "xvdb" }));
  }
  rig.toolstack.write("/local/domain/0/backend/vif/5/51728/handle", "0");
  assertThrows(() => findDevice(rig.toolstack, GUEST, "xvdb"), XenblkError, "it has no disk");
});

Deno.test("a disk whose guest is gone is detached by the guest's domid, though no backend answers", async () => {
  await using rig = new Rig();
  const device = rig.attach({ vdev: "xvdb" });
  rig.toolstack.remove("/local/domain/5");
  const { guest, device: found } = findDisk(rig.toolstack, "5", "xvdb");
  assertEquals([guest, found], [{ domain: GUEST }, device]);
  await detachDevice(rig.toolstack, found, AT_ONCE);
  assertEquals(listDevices(rig.toolstack), []);
  assertThrows(() => findDisk(rig.toolstack, "5", "xvdb"), XenblkError, "Cannot find domain 5");
});

Deno.test("a disk that the guest does not have is not found, and the error names those it has", async () => {
  await using rig = new Rig();
  const find = (): unknown => findDevice(rig.toolstack, GUEST, "xvdz");
  assertEquals(assertThrows(find, XenblkError, "it has no disk").exitStatus, 3);
  rig.attach();
  rig.attach({ kind: "qdisk" });
  assertThrows(find, XenblkError, "only xvda, xvdb");
});

Deno.test("the list shows the disks of all backends, with states, image and error, and no other devices", async () => {
  await using rig = new Rig();
  rig.simulated.createGuest(6 as DomId, "web");
  rig.serve();
  const served = rig.attach({ domain: 6 as DomId, readOnly: true, cdrom: true });
  const failing = rig.attach({ params: "/nonexistent/image" });
  const foreign = rig.attach({ kind: "vbd", params: "/dev/loop0" });
  rig.toolstack.write("/local/domain/0/backend/vif/5/0/frontend", "/local/domain/5/device/vif/0");
  rig.toolstack.write("/local/domain/0/backend/console/5/0/frontend", "/local/domain/5/console");
  await rig.frontend(served).connect();
  await until("the missing image is reported", () => rig.backend(failing, "error") !== undefined);
  const list = listDevices(rig.toolstack);
  assertEquals(list.map((device) => device.backendPath), [failing, foreign, served].map(backendPath));
  const shown = list[2]!;
  assertEquals([shown.domainName, shown.name, shown.kind], ["web", "xvda", "vbd3"]);
  assertEquals([shown.backendState, shown.frontendState], ["Connected", "Connected"]);
  assertEquals([shown.params, shown.readOnly, shown.cdrom, shown.sectors], ["null:64M", true, true, 131072]);
  assertEquals("error" in shown, false);
  assert(list[0]!.error?.includes("/nonexistent/image"));
  assertEquals([list[1]!.params, list[1]!.backendState], ["/dev/loop0", "Initialising"]);
  assertEquals(listDevices(rig.toolstack, 6 as DomId).length, 1);
});
