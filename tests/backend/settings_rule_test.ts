/**
 * Disks of one kind with settings of their own: a rule that sees each disk when it appears.
 */

import { assertEquals } from "@std/assert";
import type { DiskIdentity } from "../../lib/backend/disk_identity.ts";
import { DEFAULT_SETTINGS } from "../../lib/backend/settings.ts";
import { type Xenstore, XenstoreError } from "../../lib/hypervisor.ts";
import { DOM0, GUEST, Rig } from "./rig.ts";

const UUID = "11111111-2222-3333-4444-555555555555";

Deno.test("a rule sees guest, virtual device, kind and image of each disk, and its settings hold for that disk", async () => {
  await using rig = new Rig();
  rig.toolstack.write(`/local/domain/${GUEST}/name`, "web");
  rig.toolstack.write(`/local/domain/${GUEST}/vm`, `/vm/${UUID.toUpperCase()}`);
  const seen: DiskIdentity[] = [];
  rig.serve({}, {
    settingsFor: (disk) => {
      seen.push(disk);
      return { ...DEFAULT_SETTINGS, readOnly: disk.vdev === 51712, maxQueues: disk.vdev === 51712 ? 1 : 3 };
    },
  });
  const [first, second] = [rig.attach({ vdev: "xvda" }), rig.attach({ vdev: "xvdb", params: "null:32M" })];
  for (const device of [first, second]) await rig.frontend(device).connect();
  const guest = { kind: "vbd3", domain: GUEST, domainName: "web", domainUuid: UUID };
  assertEquals(seen, [{ ...guest, vdev: 51712, image: "null:64M" }, { ...guest, vdev: 51728, image: "null:32M" }]);
  assertEquals(rig.disks.map(({ request }) => request.readOnly), [true, false]);
  assertEquals([first, second].map((device) => rig.backend(device, "multi-queue-max-queues")), [undefined, "3"]);
});

/** A connection as a driver domain has it: it may not read the guest's name. */
function withoutName(rig: Rig): Xenstore {
  const store = rig.simulated.connect(DOM0);
  const read = (path: string): string | undefined => {
    if (path === `/local/domain/${GUEST}/name`) throw new XenstoreError("not permitted", "EACCES", path);
    return store.read(path);
  };
  return new Proxy(store, {
    get: (target, key) => key === "read" ? read : Reflect.get(target, key)?.bind?.(target) ?? Reflect.get(target, key),
  });
}

Deno.test("where the guest's name may not be read, as in a driver domain, the rule sees the disk without it", async () => {
  await using rig = new Rig();
  const seen: DiskIdentity[] = [];
  rig.serve({}, {
    openXenstore: () => withoutName(rig),
    settingsFor: (disk) => {
      seen.push(disk);
      return DEFAULT_SETTINGS;
    },
  });
  await rig.frontend(rig.attach({ vdev: "xvda" })).connect();
  assertEquals(seen, [{ kind: "vbd3", domain: GUEST, vdev: 51712, image: "null:64M" }]);
});

Deno.test("a disk is served where the guest's name may not be read, although the log asks for it", async () => {
  await using rig = new Rig();
  const named: string[] = [];
  rig.serve({}, { openXenstore: () => withoutName(rig), guestFound: (_domain, name) => void named.push(name) });
  await rig.frontend(rig.attach({ vdev: "xvda" })).connect();
  assertEquals(named, []);
});
