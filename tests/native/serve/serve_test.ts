/**
 * `xenblk serve` in its own process, with Debian's xenstored and the stand-in grant and event
 * libraries. Guests in their own processes drive it: data, reconnects, restarts, leaks. The gate runs a short form;
 * XENBLK_NATIVE=full runs the whole matrix.
 */

import { assert, assertEquals, assertMatch, assertNotMatch } from "@std/assert";
import type { AbiName } from "../../../lib/blkif/abi.ts";
import type { GrantMode } from "../../../lib/dataplane/types.ts";
import { MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import type { DeviceAddress } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach } from "./backend.ts";
import { assertNoEndlessGrowth } from "./growth.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import {
  assertClean,
  assertProgress,
  DIRECT,
  endAgainAndAgain,
  GUEST,
  IMAGE_BYTES,
  LOAD,
  newDisk,
  POOLED,
  received,
  UNTIL_STOPPED,
} from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const REQUESTS = FULL ? 100_000 : 3000;
/** Cycles per round; there are at least two rounds. */
const CYCLES = FULL ? 25 : 12;
/** Allowed growth per round: less than one mapping and 680 KiB per cycle. A leaked ring would be 8 MiB of pages. */
const ALLOWED_GROWTH = { descriptors: 0, mappings: CYCLES - 2, residentKiB: 8 * 1024 };
const RESTARTS = FULL ? 10 : 3;
const KILLS = FULL ? 50 : 5;
const ABI_NAMES: readonly AbiName[] = ["x86_64-abi", "x86_32-abi", "arm-abi"];
const GRANT_MODES: readonly GrantMode[] = ["copy", "persistent", "map", "map-each"];

for (const grants of GRANT_MODES) {
  for (const abi of ABI_NAMES) {
    if (!FULL && (grants === "copy") !== (abi === "x86_64-abi") && abi !== "x86_32-abi") continue;
    nativeTest(`${REQUESTS} requests of mixed sizes at depth 32 verify, ${grants}, ${abi}`, async () => {
      await using xen = await NativeXen.start();
      await xen.createDomain(GUEST);
      await using backend = new BackendProcess(xen, ["serve", "--grants", grants]);
      await using guest = new GuestProcess(xen, GUEST);
      const { disk, device, image } = await newDisk(xen, guest, "disk.img", { abi });
      await disk.connect();
      const outcome = await disk.load({ ...LOAD, requests: REQUESTS });
      assertClean(received(outcome), backend.messages);
      assertEquals(outcome.reads + outcome.writes + outcome.barriers + outcome.flushes, REQUESTS);
      assert(outcome.flushes > 0 && outcome.barriers > 0);
      assert(outcome.verifiedSectors > REQUESTS / 4, `only ${outcome.verifiedSectors} sectors verified`);
      assertMatch(backend.messages, new RegExp(`connected: .*grants ${grants}\n`));
      const { mappedPages } = await backend.holdings();
      if (grants === "persistent") assert(mappedPages > 32 * 8, `only ${mappedPages} pages stay mapped`);
      else assertEquals(mappedPages, 1, "the ring");
      await detach(xen, device);
      assertEquals((await backend.holdings()).mappedPages, 0);
      const verdict = await disk.verify(image);
      assertEquals(verdict.miscompares, 0);
      assertEquals(await backend.stop(), 0, backend.messages);
    });
  }

  nativeTest(`a read-only disk reads as its image does, and refuses writes, ${grants}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", "--grants", grants]);
    await using guest = new GuestProcess(xen, GUEST);
    const { disk, image } = await newDisk(xen, guest, "disk.img", { readOnly: true });
    const facts = await disk.connect();
    assertEquals([facts.readOnly, facts.sectors], [true, IMAGE_BYTES / 512]);
    assertClean(received(await disk.load({ ...MIXED_LOAD, readShare: 1, requests: REQUESTS })), backend.messages);
    const refused = await disk.load({ ...MIXED_LOAD, readShare: 0, requests: 20 }, true);
    assertEquals(refused.errorsByKind, { "write -1": 20 });
    assertEquals((await Deno.stat(image)).blocks, 0, "nothing was written");
    assertEquals(await backend.stop(), 0);
  });
}

for (const grants of ["copy", "persistent"]) {
  nativeTest(`${2 * CYCLES} cycles of connecting and disconnecting leave nothing behind, ${grants}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", "--grants", grants]);
    await using guest = new GuestProcess(xen, GUEST);
    const { disk } = await newDisk(xen, guest, "disk.img");
    await disk.connect();
    let cycle = 0;
    const cycles = async (): Promise<void> => {
      for (const end = cycle + CYCLES; cycle < end; cycle++) {
        assertClean(received(await disk.load({ ...LOAD, seed: cycle + 1, requests: 200 })), `cycle ${cycle}`);
        await disk.disconnect();
        const { mappedPages, ports } = await backend.holdings();
        assertEquals([mappedPages, ports], [0, 0]);
        await disk.reconnect();
      }
    };
    await assertNoEndlessGrowth(backend, cycles, { warmUp: 1, allowed: ALLOWED_GROWTH });
  });
}

nativeTest("eight disks of three domains on one Worker: some come and go while the others verify", async () => {
  await using xen = await NativeXen.start();
  await using backend = new BackendProcess(xen, ["serve", "--workers", "1"]);
  const steady: GuestDisk[] = [];
  const moving: { guest: GuestProcess; disk: GuestDisk; device: DeviceAddress }[] = [];
  await using guests = new AsyncDisposableStack();
  for (const [domid, count] of [[3, 3], [4, 3], [5, 2]] as const) {
    await xen.createDomain(domid);
    const guest = guests.use(new GuestProcess(xen, domid));
    for (let i = 0; i < count; i++) {
      const { disk, device } = await newDisk(xen, guest, `${domid}-${i}.img`, { sizeBytes: 2 ** 26 });
      await disk.connect(domid * 10 + i);
      if (i === 0) moving.push({ guest, disk, device });
      else steady.push(disk);
    }
  }
  assertEquals(steady.length + moving.length, 8);
  for (const disk of steady) await disk.startLoad(UNTIL_STOPPED);
  for (const { disk } of moving) {
    assertClean(received(await disk.load({ ...LOAD, requests: 100 })), "before it reconnects");
    await disk.disconnect();
    await disk.reconnect();
    assertClean(received(await disk.load({ ...LOAD, seed: 2, requests: 100 })), "after it reconnected");
  }
  for (const { device } of moving) await detach(xen, device);
  const late = await newDisk(xen, moving[0]!.guest, "late.img", { sizeBytes: 2 ** 26 });
  await late.disk.connect();
  assertClean(received(await late.disk.load({ ...LOAD, requests: 100 })), "the disk attached last");
  for (const disk of steady) assertClean(received(await disk.stopLoad()), backend.messages);
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest(
  "a second serve leaves the devices of the first alone, and takes them over when the first is killed",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    const { disk, device, image } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 26 });
    await using first = new BackendProcess(xen, ["serve"]);
    await disk.connect();
    await disk.startLoad(UNTIL_STOPPED);
    await using second = new BackendProcess(xen, ["serve"]);
    await second.says(/another process serves it/);
    await first.stop("SIGKILL");
    await second.says(/connected:/);
    assertClean(received(await disk.stopLoad()), second.messages);
    assert(!/error/.test(first.messages + second.messages), first.messages + second.messages);
    await detach(xen, device);
    assertEquals((await disk.verify(image)).miscompares, 0);
    assertEquals(await second.stop(), 0, second.messages);
  },
);

for (const grants of ["copy", "persistent"]) {
  nativeTest(
    `serve restarted ${RESTARTS} times by SIGTERM under load: the guest sees a pause and no error, ${grants}`,
    async () => {
      const said = await endAgainAndAgain(grants, "SIGTERM", RESTARTS);
      assertNotMatch(said, /recovered after a crash/);
    },
  );

  for (const loading of grants === "copy" ? [POOLED, DIRECT] : [POOLED]) {
    const how = `${grants}, ${loading.args.join(" ")}`;
    nativeTest(
      `serve killed ${KILLS} times under load: each request is answered once, nothing is lost, ${how}`,
      async () => {
        const said = await endAgainAndAgain(grants, "SIGKILL", KILLS, loading);
        const recovered = [...said.matchAll(/recovered after a crash: (\d+) requests/g)];
        assert(recovered.length > KILLS / 6, `requests were in flight at only ${recovered.length} kills`);
      },
    );
  }
}

for (const keepStore of [true, false]) {
  nativeTest(`disks keep working when xenstored restarts, its store ${keepStore ? "kept" : "lost"}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve"]);
    await using guest = new GuestProcess(xen, GUEST);
    const { disk, device } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 26 });
    await disk.connect();
    await disk.startLoad(UNTIL_STOPPED);
    await xen.restartXenstored({ keepStore });
    await backend.says(/xenstore: connected again/);
    await assertProgress(disk, 1000);
    const outcome = received(await disk.stopLoad());
    assertClean(outcome, backend.messages);
    if (keepStore) {
      await guest.reopenStore();
      await detach(xen, device);
    }
    assertEquals(await backend.stop(), 0, backend.messages);
  });
}
