/**
 * The weight of a disk: from its settings to its rings, changed while they are served, and kept when the guest connects
 * again.
 */

import { assertEquals } from "@std/assert";
import { DEFAULT_SETTINGS } from "../../lib/backend/settings.ts";
import { Rig } from "./rig.ts";

/** Of each ring that was opened so far, as its reactor sees it. */
function weights(rig: Rig): readonly (number | undefined)[] {
  return rig.plane.queues.map(({ spec: { weight } }) => weight && new Int32Array(weight)[0]);
}

Deno.test("each disk's rings get its weight, 100 where none is set", async () => {
  await using rig = new Rig();
  rig.serve({}, {
    settingsFor: ({ vdev }) => vdev === 51712 ? { ...DEFAULT_SETTINGS, weight: 700 } : DEFAULT_SETTINGS,
  });
  for (const vdev of ["xvda", "xvdb"]) await rig.frontend(rig.attach({ vdev })).connect();
  assertEquals(weights(rig), [700, 100]);
});

Deno.test("a weight that changes reaches rings that are open, and stays when the guest connects again", async () => {
  await using rig = new Rig();
  const kind = rig.serve({ weight: 50 });
  const device = rig.attach();
  const frontend = rig.frontend(device);
  await frontend.connect();
  kind.change(device, { weight: 900 });
  assertEquals([weights(rig), kind.reports()[0]!.weight], [[900], 900]);
  await frontend.disconnect();
  await frontend.reconnect();
  assertEquals(weights(rig), [900, 900]);
  assertEquals(kind.heldBy({ ...device, vdev: 1 }), undefined);
});
