/**
 * `xenblk serve` with every transport feature at once: four rings of 16 pages, indirect requests of up to 1 MiB and
 * discards, with the real xenstored. The gate runs a short form; XENBLK_NATIVE=full runs the whole
 * matrix.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { AbiName } from "../../../lib/blkif/abi.ts";
import type { GrantMode } from "../../../lib/dataplane/types.ts";
import type { DomId } from "../../../lib/hypervisor.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach } from "./backend.ts";
import { GuestProcess, type RingShape } from "./guest.ts";
import { assertClean, endAgainAndAgain, GUEST, LOAD, newDisk, received, WIDE } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const REQUESTS = FULL ? 20_000 : 600;
const RESTARTS = FULL ? 10 : 2;
const KILLS = FULL ? 30 : 4;
const ALL: readonly (readonly [GrantMode, AbiName])[] = (["copy", "persistent", "map", "map-each"] as const).flatMap(
  (grants) => (["x86_64-abi", "x86_32-abi", "arm-abi"] as const).map((abi) => [grants, abi] as const),
);
const SOME: typeof ALL = [["copy", "x86_64-abi"], ["persistent", "x86_32-abi"], ["map", "arm-abi"]];

for (const [grants, abi] of FULL ? ALL : SOME) {
  const requests = grants === "map-each" ? REQUESTS / 5 : REQUESTS; // each of its requests maps its pages: 2.5 ms
  nativeTest(`${requests} requests of up to 1 MiB on four rings of 16 pages verify, ${grants}, ${abi}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", "--grants", grants, ...WIDE.args]);
    await using guest = new GuestProcess(xen, GUEST);
    const { disk, device, image } = await newDisk(xen, guest, "disk.img", {
      abi,
      shape: WIDE.shape,
      sizeBytes: 2 ** 28,
    });
    const facts = await disk.connect();
    assertEquals(facts.maxIndirectSegments, 256);
    const outcome = received(await disk.load({ ...WIDE.load, requests }));
    assertClean(outcome, backend.messages);
    assert(outcome.bytesWritten / outcome.writes > 200_000, "most requests are large");
    assert(outcome.verifiedSectors > requests * 10, `only ${outcome.verifiedSectors} sectors verified`);
    assertMatch(backend.messages, /connected: .*4 rings of 16 pages/);
    await detach(xen, device);
    assertEquals((await backend.holdings()).mappedPages, 0);
    const verdict = await disk.verify(image);
    assertEquals([verdict.miscompares, verdict.uncheckedSectors], [0, 0]);
    assertEquals(await backend.stop(), 0, backend.messages);
  });
}

nativeTest(
  "every ring size verifies, with the new and the old node names; more than was offered is refused",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", "--max-ring-page-order", "3", "--queues", "2"]);
    await using guest = new GuestProcess(xen, GUEST);
    const shapes: [string, RingShape, Record<string, string>, string][] = [
      ["a", { ringPages: 2 }, {}, "1 ring of 2 pages"],
      ["b", { ringPages: 4, queues: 2 }, {}, "2 rings of 4 pages"],
      ["c", { ringPages: 16, queues: 64 }, {}, "2 rings of 8 pages"],
      ["d", { ringPages: 4 }, { "num-ring-pages": "4" }, "1 ring of 4 pages"],
      ["e", { queues: 2 }, { "ring-page-order": "0" }, "2 rings of 1 page"],
    ];
    for (const [name, shape, override, rings] of shapes) {
      const device = await attach(xen, { domain: GUEST as DomId, params: "memory:16M", readOnly: false });
      const disk = await guest.disk(frontendPath(device), "x86_64-abi", override, { ...shape, requests: 128 });
      await disk.connect();
      assertClean(received(await disk.load({ ...LOAD, depth: 128, requests: 400, discardEvery: 20 })), name);
      assert(backend.messages.includes(` ${rings}, grants`), `${name}: ${backend.messages}`);
      await detach(xen, device);
    }
    const device = await attach(xen, { domain: GUEST as DomId, params: "memory:16M", readOnly: false });
    const disk = await guest.disk(frontendPath(device), "x86_64-abi", { "ring-page-order": "4" }, { ringPages: 8 });
    await disk.connect().then(
      () => assert(false, "a ring that is too large connected"),
      (error) => assertMatch(error.message, /ring-page-order/),
    );
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

nativeTest(
  "a disk that supports discards carries them out, and an option switches them off",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    for (const [option, offered] of [["on", true], ["off", false]] as const) {
      await using backend = new BackendProcess(xen, ["serve", "--discard", option]);
      await using guest = new GuestProcess(xen, GUEST);
      const device = await attach(xen, { domain: GUEST as DomId, params: "memory:16M", readOnly: false });
      const disk = await guest.disk(frontendPath(device));
      assertEquals((await disk.connect()).discard, offered);
      const outcome = received(await disk.load({ ...LOAD, requests: 500, discardEvery: 10 }));
      assertClean(outcome, backend.messages);
      assertEquals(outcome.discards > 30, offered);
      await detach(xen, device);
      assertEquals(await backend.stop(), 0, backend.messages);
    }
  },
);

nativeTest(
  `serve restarted ${RESTARTS} times under load on four rings: the guest sees a pause and no error`,
  async () => {
    await endAgainAndAgain("copy", "SIGTERM", RESTARTS, WIDE);
  },
);

nativeTest(
  `serve killed ${KILLS} times under load on four rings: nothing is lost, indirect requests included`,
  async () => {
    const said = await endAgainAndAgain("copy", "SIGKILL", KILLS, WIDE);
    assertMatch(said, /recovered after a crash: \d+ requests/);
  },
);
