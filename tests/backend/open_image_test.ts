/**
 * The image of a device: InitWait does not wait for it, what depends on it is published once it is open, a toolstack and
 * a frontend see how it stands, an image that does not open is retried, and a disc can be changed.
 */

import { QmpAbsentError } from "../../lib/storage/qemu/silence.ts";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { DiskRequest } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { FAST_CLOCK, Rig, RING_NODES, turn, until } from "./rig.ts";

/** An image that opens when the test says so. */
function slow(rig: Rig): { readonly begun: () => boolean; readonly open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  let begun = false;
  rig.beforeOpen = () => {
    begun = true;
    return promise;
  };
  return { begun: () => begun, open: resolve };
}

Deno.test("InitWait and what a frontend needs for its rings do not wait for the image; hotplug-status does", async () => {
  await using rig = new Rig();
  const image = slow(rig);
  const device = rig.attach();
  rig.serve();
  await until("the image is being opened", image.begun);
  assertEquals(rig.backend(device, "state"), "2");
  for (const name of ["max-ring-page-order", "feature-flush-cache", "feature-persistent"]) {
    assert(rig.backend(device, name) !== undefined, name);
  }
  assertEquals([rig.backend(device, "hotplug-status"), rig.backend(device, "feature-discard")], [undefined, "0"]);
  image.open();
  await until("it is open", () => rig.backend(device, "hotplug-status") === "connected");
  assertEquals([rig.backend(device, "feature-discard"), rig.backend(device, "discard-granularity")], ["1", "512"]);
});

Deno.test("a frontend that goes to Initialised while the image opens is connected once it is open", async () => {
  await using rig = new Rig();
  const image = slow(rig);
  const device = rig.attach();
  rig.serve();
  const frontend = rig.frontend(device);
  const connecting = frontend.connect();
  await until("the frontend has published its ring", () => {
    return image.begun() && rig.toolstack.read(`/local/domain/5/device/vbd/${device.vdev}/state`) === "3";
  });
  assertEquals(rig.backend(device, "state"), "2");
  image.open();
  const { disk } = await connecting;
  assertEquals([disk.sectors, rig.backend(device, "feature-discard")], [131072, "1"]);
});

Deno.test("an image that does not answer is reported while it lasts, and its device can be removed meanwhile", async () => {
  await using rig = new Rig();
  const image = slow(rig);
  const clock = new SimulatedClock();
  const device = rig.attach();
  const kind = rig.serve({}, { clock });
  await until("the image is being opened", image.begun);
  clock.advance(10_000);
  await until("there is an error", () => rig.backend(device, "error") !== undefined);
  assertStringIncludes(rig.backend(device, "error")!, "open image null:64M: no answer within 10 s");
  assertEquals([rig.backend(device, "hotplug-status"), rig.backend(device, "state")], [undefined, "2"]);
  assertEquals(rig.lines.filter((line) => line.includes("no answer")).length, 1);
  removeDevice(rig.toolstack, device);
  for (let waits = 0; waits < 5 && kind.status().length > 0; waits++) {
    await turn();
    clock.advance(1_000);
  }
  await until("the device is gone", () => kind.status().length === 0);
  image.open();
  await until("what came late is closed", () => rig.disks.length === 1 && rig.openDisks === 0);
});

Deno.test("a toolstack's removal is carried out though the image does not open", async () => {
  await using rig = new Rig();
  const image = slow(rig);
  const device = rig.attach();
  rig.serve({}, { clock: FAST_CLOCK });
  await until("the image is being opened", image.begun);
  requestRemoval(rig.toolstack, backendPath(device));
  await rig.backendReaches(device, 6);
  image.open();
});

Deno.test("an image that is missing is opened when it is there, without any event, and said once", async () => {
  const directory = Deno.makeTempDirSync();
  try {
    await using rig = new Rig();
    const path = `${directory}/late.img`;
    const device = rig.attach({ params: `raw:${path}` });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    rig.serve({}, { clock: FAST_CLOCK });
    await until("the toolstack is told", () => rig.backend(device, "hotplug-status") === "error");
    assertStringIncludes(rig.backend(device, "hotplug-error")!, path);
    assertEquals(rig.backend(device, "state"), "2", "its frontend waits, too");
    await until("it was tried again", () => rig.debugLines.filter((line) => line.endsWith(": open")).length >= 3);
    Deno.writeFileSync(path, new Uint8Array(1 << 20));
    await rig.backendReaches(device, 4);
    assertEquals([rig.backend(device, "error"), rig.backend(device, "hotplug-error")], [undefined, undefined]);
    assertEquals(rig.backend(device, "hotplug-status"), "connected");
    assertEquals(rig.lines.filter((line) => line.startsWith("error")).length, 1);
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
});

for (const params of ["", "aio:"]) {
  Deno.test(`a CD-ROM drive without a disc (params "${params}") is empty, and a disc can be put in and taken out`, async () => {
    await using rig = new Rig();
    const device = rig.attach({ cdrom: true, readOnly: true, params: "null:1M" });
    rig.toolstack.write(`${backendPath(device)}/params`, params);
    rig.serve();
    const { disk } = await rig.frontend(device).connect();
    assertEquals([disk.sectors, disk.info], [0, 7]);
    await rig.idle(device);
    rig.writes.length = 0;
    for (const [disc, sectors] of [["null:2M", "4096"], ["null:3M", "6144"], [params, "0"]] as const) {
      rig.toolstack.write(`${backendPath(device)}/params`, disc);
      await until(`it has ${sectors} sectors`, () => rig.backend(device, "sectors") === sectors);
      await until("its ring is served", () => rig.plane.open.length === 1);
    }
    await rig.idle(device);
    // blkfront takes another size from Connected, written again.
    assertEquals(rig.statesWritten(device), ["4", "4", "4"]);
    assertEquals(rig.backend(device, "error"), undefined);
    assertEquals(rig.openDisks, 0);
  });
}

Deno.test("a disc that cannot be opened leaves the guest an empty drive, and people the reason", async () => {
  await using rig = new Rig();
  const device = rig.attach({ cdrom: true, readOnly: true, params: "null:1M" });
  const kind = rig.serve();
  await rig.frontend(device).connect();
  await rig.idle(device);
  const change = async (params: string, sectors: string): Promise<void> => {
    rig.toolstack.write(`${backendPath(device)}/params`, params);
    await until(`it has ${sectors} sectors`, () => rig.backend(device, "sectors") === sectors);
    await rig.idle(device);
    assertEquals([rig.plane.open.length, rig.backend(device, "state")], [1, "4"]);
  };
  for (const missing of ["raw:/nonexistent/a.iso", "raw:/nonexistent/b.iso"]) {
    await change(missing, "0");
    const error = `Cannot open image ${missing.slice(4)}: there is no such file; check the path; ` +
      "the drive is empty until its disc is changed again";
    const { error: status, image } = kind.status()[0]!;
    assertEquals([rig.backend(device, "error"), status, image], [error, error, "no disc"]);
    await change("null:2M", "4096");
    assertEquals([rig.backend(device, "error"), kind.status()[0]!.error], [undefined, undefined]);
  }
  await rig.says("the drive has null:2M");
});

Deno.test("a disc whose storage daemon dies while it is opened is opened by the next one", async () => {
  await using rig = new Rig();
  const device = rig.attach({ cdrom: true, readOnly: true, params: "null:1M" });
  rig.serve();
  await rig.frontend(device).connect();
  await rig.idle(device);
  let deaths = 0;
  rig.beforeOpen = () => deaths++ === 0 ? Promise.reject(new QmpAbsentError("it has ended")) : Promise.resolve();
  rig.toolstack.write(`${backendPath(device)}/params`, "null:2M");
  await until("it has the disc", () => rig.backend(device, "sectors") === "4096");
  await rig.idle(device);
  assertEquals([deaths, rig.backend(device, "error")], [2, undefined]);
});

Deno.test("a disc that could not be opened is forgotten once the guest starts over and has another one", async () => {
  await using rig = new Rig();
  const device = rig.attach({ cdrom: true, readOnly: true, params: "null:1M" });
  rig.serve();
  await rig.frontend(device).connect();
  rig.toolstack.write(`${backendPath(device)}/params`, "raw:/nonexistent/a.iso");
  await until("the drive is empty", () => rig.backend(device, "sectors") === "0");
  assertStringIncludes(rig.backend(device, "error")!, "the drive is empty");
  rig.guestWrites(device, { state: "1" });
  await until("the image is refused", () => rig.backend(device, "hotplug-status") === "error");
  assertEquals(rig.backend(device, "error")!.includes("the drive is empty"), false);
  rig.toolstack.write(`${backendPath(device)}/params`, "null:2M");
  await until("it is offered", () => rig.backend(device, "hotplug-status") === "connected");
  assertEquals(rig.backend(device, "error"), undefined);
});

for (const params of ["", "aio:"]) {
  Deno.test(`a disk that names no image (params "${params}") is an error, and not an empty drive`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    rig.toolstack.write(`${backendPath(device)}/params`, params);
    rig.serve();
    await until("there is an error", () => rig.backend(device, "error") !== undefined);
    assertMatch(
      rig.backend(device, "error")!,
      /its node params names no image, and it is no CD-ROM drive; attach it with an image, or with devtype=cdrom/,
    );
  });
}

Deno.test("an image with a relative path that is not there has another remedy, unless the operator named it", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "raw:disk.img" });
  rig.serve();
  await until("there is an error", () => rig.backend(device, "error") !== undefined);
  assertEquals(
    rig.backend(device, "error"),
    "Cannot open image disk.img: there is no such file; attach it with its absolute path",
  );
  await using other = new Rig();
  const named = other.attach({ params: "/a.img" });
  other.serve({ image: "disk.img" });
  await until("there is an error", () => other.backend(named, "error") !== undefined);
  assertStringIncludes(other.backend(named, "error")!, "Cannot open image disk.img: there is no such file; create it");
});

Deno.test("a changed image of a disk that is in use is refused aloud, and used once the guest has closed the disk", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "null:1M" });
  rig.serve();
  const frontend = rig.frontend(device);
  await frontend.connect();
  await rig.idle(device);
  rig.toolstack.write(`${backendPath(device)}/params`, "null:2M");
  await until("it is refused", () => rig.backend(device, "error") !== undefined);
  assertStringIncludes(rig.backend(device, "error")!, 'Cannot change the image to "null:2M": the guest uses null:1M');
  assertEquals([rig.plane.queues.length, rig.plane.open.length], [1, 1], "its ring is served on");
  rig.toolstack.write(`${backendPath(device)}/params`, "null:1M");
  await until("it is taken back", () => rig.backend(device, "error") === undefined);
  rig.toolstack.write(`${backendPath(device)}/params`, "null:2M");
  await until("it is refused", () => rig.backend(device, "error") !== undefined);
  await frontend.disconnect();
  const { disk } = await frontend.reconnect();
  assertEquals(disk.sectors, 4096);
  await until("it is taken back", () => rig.backend(device, "error") === undefined);
});

Deno.test("an image that the toolstack names while the disk is offered is the one that is connected", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "null:1M" });
  rig.serve();
  await until("the first one is open", () => rig.backend(device, "hotplug-status") === "connected");
  rig.toolstack.write(`${backendPath(device)}/params`, "null:2M");
  assertEquals((await rig.frontend(device).connect()).disk.sectors, 4096);
});

Deno.test("a program's own openDisk gets formats that only it knows, and the files of passphrases", async () => {
  await using rig = new Rig();
  const requests: DiskRequest[] = [];
  const device = rig.attach({ params: "my:disk 1" });
  const other = rig.attach({ params: "format=luks,passphrase-file=/etc/keys/db,target=/srv/db", vdev: "xvdb" });
  rig.serve({}, {
    openDisk: (request) => {
      requests.push(request);
      return openDisk({ ...request, format: "memory", target: "1M" });
    },
  });
  for (const each of [device, other]) {
    await until("it is offered", () => rig.backend(each, "hotplug-status") === "connected");
  }
  const named = requests.map(({ format, target, passphraseFile }) => ({ format, target, passphraseFile }));
  named.sort((one, other) => one.format.localeCompare(other.format)); // devices open in any order
  assertEquals(named, [
    { format: "luks", target: "/srv/db", passphraseFile: "/etc/keys/db" },
    { format: "my", target: "disk 1", passphraseFile: undefined },
  ]);
});
