/**
 * What docs/unprivileged.md says: as a user without any right, serve serves a disk once it may use xenstored's socket,
 * and says what it lacks before.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { missingProgram, nativeTest, NativeXen } from "../harness.ts";
import { asNobody, NOBODY } from "../unprivileged.ts";
import { attach, BackendProcess, detach, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";

const GUEST = 7;

/** Gives the machine's files, but for xenstored's socket, to nobody. */
function giveAway(folder: string): void {
  Deno.chmodSync(folder, 0o755);
  Deno.chownSync(folder, NOBODY, NOBODY);
  for (const { name, isDirectory, isFile } of Deno.readDirSync(folder)) {
    if (isDirectory) giveAway(`${folder}/${name}`);
    else if (isFile) Deno.chownSync(`${folder}/${name}`, NOBODY, NOBODY);
  }
}

nativeTest(
  "a user without rights serves a disk; without xenstored's socket the reason is that permission",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    const image = sparseImage(xen.directory, "disk.img", 2 ** 26);
    giveAway(xen.directory);
    Deno.chmodSync(xen.libraries, 0o755);
    {
      await using refused = new BackendProcess(xen, ["serve"], asNobody(`${xen.directory}/closed-1`));
      assertEquals(await refused.exited(), 5, refused.messages);
      assertMatch(refused.messages, /Cannot connect to xenstored: .*permission denied on/);
    }
    Deno.chownSync(xen.socketPath, NOBODY, NOBODY);
    await using backend = new BackendProcess(xen, ["serve"], asNobody(`${xen.directory}/closed-2`));
    await backend.says(/serving all/);
    await using guest = new GuestProcess(xen, GUEST, asNobody(`${xen.directory}/closed-3`));
    const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
    const disk = await guest.disk(frontendPath(device));
    await disk.connect();
    const outcome = await disk.load({ ...MIXED_LOAD, requests: 300 });
    assertEquals([outcome.errors, outcome.miscompares, outcome.unanswered], [0, 0, 0], backend.messages);
    assertMatch(await Deno.readTextFile(`/proc/${backend.pid}/status`), new RegExp(`^Uid:\\s+${NOBODY}\\s`, "m"));
    assert(!/warning|error/.test(backend.messages), backend.messages);
    await detach(xen, device);
    assertEquals((await disk.verify(image)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
  },
  missingProgram("setpriv", "util-linux"),
);
