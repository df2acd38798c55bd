/**
 * Which guests `image info` shows as users of an image, by xenstore.
 */

import { assertEquals } from "@std/assert";
import { guestsOf, useText } from "../../../lib/cli/image/use.ts";
import type { Host } from "../../../lib/cli/verb.ts";
import type { DomId } from "../../../lib/hypervisor.ts";
import { DOM0, Rig } from "../../backend/rig.ts";
import { Folder } from "../../storage/rig.ts";

const OTHER = 6 as DomId;

Deno.test("the guests that have an image are found under any name of it, readers and writers", async () => {
  await using rig = new Rig();
  using folder = new Folder();
  const image = folder.file("disk.img", 4096);
  rig.simulated.createGuest(OTHER, "db");
  const link = `${folder.path}/link.img`;
  Deno.symlinkSync(image, link);
  rig.attach({ params: `qcow2:${link}`, readOnly: true });
  rig.attach({ domain: OTHER, params: image });
  rig.attach({ domain: OTHER, params: folder.file("other.img", 4096) });
  const platform = { openXenstore: () => rig.simulated.connect(DOM0) };
  const host = { openNativePlatform: () => Promise.resolve(platform) } as unknown as Host;
  assertEquals((await guestsOf(host, image)).map(useText), [
    "xvda of guest-5 (domain 5), read-only",
    "xvda of db (domain 6), for writing",
  ]);
  const none = { openNativePlatform: () => Promise.reject(new Error("no Xen")) };
  assertEquals(await guestsOf(none, image), []);
});
