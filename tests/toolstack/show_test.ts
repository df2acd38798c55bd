/**
 * One disk in detail: before it is served, connected, with a frontend that makes no sense, and as text.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { renderDetails } from "../../lib/cli/show.ts";
import { showDevice } from "../../lib/toolstack/show.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { Rig } from "../backend/rig.ts";

Deno.test("a disk that no backend serves shows what the toolstack wrote, and nothing else", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "raw:/a.img", readOnly: true, cdrom: true });
  const details = showDevice(rig.toolstack, device);
  assertEquals([details.offer, details.rings, details.sectors, details.online], [
    undefined,
    undefined,
    undefined,
    true,
  ]);
  assertEquals(
    renderDetails(details),
    "disk      xvda (51712)\n" +
      "guest     guest-5, domain 5\n" +
      "image     raw:/a.img\n" +
      "access    read-only, CD-ROM\n" +
      "backend   Initialising: /local/domain/0/backend/vbd3/5/51712\n" +
      "hint      no backend of kind vbd3 has answered; check that `xenblk serve --kind vbd3` is running\n" +
      "frontend  Initialising: /local/domain/5/device/vbd/51712\n",
  );
});

Deno.test("a connected disk shows its size, its rings and what was offered", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "null:64M" });
  rig.serve({ maxQueues: 4, grants: "persistent", discard: false });
  await rig.frontend(device, { queues: 2, ringPages: 4 }).connect();
  rig.toolstack.write(`${backendPath(device)}/direct-io-safe`, "1");
  const details = showDevice(rig.toolstack, device);
  const ports = details.rings!.map(({ eventChannel }) => eventChannel);
  assertEquals(details.rings!.map(({ ringRefs }) => ringRefs.length), [4, 4]);
  assertEquals([details.protocol, details.offer!.maxQueues, details.sectors], ["x86_64-abi", 4, 131072]);
  const text = renderDetails(details);
  assertMatch(text, /^size +64\.0 MiB, 131072 sectors; logical sectors of 512 bytes \(physical 4096\)$/m);
  assertMatch(text, new RegExp(`^rings +2 of 4 pages, event channel ${ports.join(", ")}`, "m"));
  assertMatch(
    text,
    /^offered +4 rings of up to 16 pages, indirect requests of 256 segments, flushes, barriers, persistent grants, direct I\/O safe$/m,
  );
});

Deno.test("a frontend that makes no sense, an error and a removal are shown", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "null:64M" });
  rig.serve();
  await rig.backendReaches(device, 2);
  rig.guestWrites(device, { "ring-ref": "8 ", "event-channel": "\x1b[2J" });
  rig.toolstack.write(`${backendPath(device)}/online`, "0");
  rig.toolstack.write(`${backendPath(device)}/error`, "Cannot do it");
  const details = showDevice(rig.toolstack, device);
  assertMatch(details.frontendError!, /ring-ref is "8 "/);
  const text = renderDetails(details);
  assertMatch(text, /^ring error +Cannot connect to the frontend/m);
  assertMatch(text, /^error +Cannot do it$/m);
  assertMatch(text, /^backend +InitWait, to be removed: /m);
  assertEquals(text.includes("\x1b"), false);
});
