/**
 * What processes left of devices that are gone is removed when the next one starts, and nothing else is.
 */

import { assert, assertEquals } from "@std/assert";
import { MOST_DEVICES, sweepLeftovers } from "../../lib/backend/leftovers.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { deviceLabel } from "../../lib/backend/journals.ts";
import { DOM0, Rig, until } from "./rig.ts";

Deno.test("a process removes at its start what is left of devices that are gone, and says which", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  const kind = rig.serve({}, { keepJournals: true });
  const device = rig.attach();
  await rig.frontend(device).connect();
  assertEquals(await kind.close({ leave: "connected", timeoutMs: 0 }, 5000), true);
  const left = journals.names().sort();
  assertEquals(left, [`vbd3-5-${device.vdev}-0`, `vbd3-5-${device.vdev}-latch`]);
  removeDevice(rig.toolstack, device);
  rig.serve();
  assertEquals(journals.names(), []);
  assert(
    rig.lines.some((line) => line.includes(`of 1 devices that are gone: vbd3/5/${device.vdev}`)),
    String(rig.lines),
  );
});

Deno.test("what still runs for a device that could not be opened is ended when the device is removed", async () => {
  await using rig = new Rig();
  const gone: boolean[] = [];
  const device = rig.attach();
  const label = deviceLabel(device);
  rig.beforeOpen = () => Promise.reject(new Error("its daemon does not start"));
  rig.serve({}, {
    endLeftovers: (isGone) => {
      gone.push(isGone(label));
      return Promise.resolve([`ended what ran for ${label}`]);
    },
  });
  await rig.says("its daemon does not start");
  assertEquals(gone, [false]);
  removeDevice(rig.toolstack, device);
  await until("it is ended", () => gone.length > 1);
  assertEquals(gone, [false, true]);
});

Deno.test("files in use, of devices that exist, or with other names are left alone", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  const device = rig.attach();
  const kept = [
    `vbd3-5-${device.vdev}-0`,
    `vbd3-5-${device.vdev}-latch`,
    "vbd3-6-51712-0",
    "vbd3-6-51728-writes",
    "notes",
    "a b-1-2-0",
    "vbd3-99999-1-0",
  ];
  for (
    const name of [
      ...kept,
      "vbd3-6-51728-0",
      "some-kind-7-6-51728-3",
      "some-kind-7-6-51728-latch",
      "vbd3-6-51728-snapshot",
    ]
  ) {
    journals.open(name, 64);
  }
  using _served = journals.lock("vbd3-6-51712.lock");
  using store = rig.toolstack;
  assertEquals(sweepLeftovers(journals, store, DOM0).sort(), ["some-kind-7/6/51728", "vbd3/6/51728"]);
  assertEquals(journals.names().sort(), [...kept, "vbd3-6-51712.lock"].sort());
});

Deno.test("a sweep is bounded, and the next one goes on", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  for (let vdev = 0; vdev < MOST_DEVICES + 3; vdev++) journals.open(`vbd3-6-${vdev}-latch`, 64);
  using store = rig.toolstack;
  assertEquals(sweepLeftovers(journals, store, DOM0).length, MOST_DEVICES);
  assertEquals(sweepLeftovers(journals, store, DOM0).length, 3);
  assertEquals(journals.names(), []);
});
