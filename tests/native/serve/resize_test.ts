/**
 * `xenblk resize` next to `xenblk serve`: a disk grows while its guest uses it, with every engine, and the guest uses
 * the added space.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, DiskFolder, GUEST, LOAD, newDisk, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const MIB = 2 ** 20;
const SECTORS_PER_MIB = MIB / 512;

for (const engine of ["uring", "file"]) {
  nativeTest(`a disk grows while its guest uses it, and the guest then uses all of it, ${engine}`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using backend = new BackendProcess(xen, ["serve", "--engine", engine]);
    await using guest = new GuestProcess(xen, GUEST);
    using folder = new DiskFolder();
    const shape = { queues: 2 };
    const { disk, device, image } = await newDisk(xen, guest, "disk.img", {
      sizeBytes: 16 * MIB,
      folder: folder.path,
      shape,
    });
    const resize = (): Promise<string> =>
      xen.run(Deno.execPath(), ["run", "-A", "--no-check", CLI, "resize", String(GUEST), "xvda"]);
    await disk.connect();
    const added = { firstSector: 16 * SECTORS_PER_MIB, sectors: 16 * SECTORS_PER_MIB };
    const beyond = { ...LOAD, area: added, requests: 100, flushEvery: 0, barrierEvery: 0 };
    const early = received(await disk.loadAs(32 * SECTORS_PER_MIB, beyond));
    assertEquals([early.errors, early.reads, early.writes, early.unanswered], [100, 0, 0, 0]);

    await disk.startLoad(UNTIL_STOPPED);
    Deno.truncateSync(image, 32 * MIB);
    await resize();
    assertClean(received(await disk.stopLoad()), backend.messages);
    const sectors = await xen.run("xenstore-read", [`${backendPath(device)}/sectors`]);
    assertEquals(Number(sectors), 32 * SECTORS_PER_MIB);
    await backend.says(/grown from 16\.0 MiB to 32\.0 MiB/);
    const late = received(await disk.loadAs(32 * SECTORS_PER_MIB, { ...LOAD, area: added, requests: 500 }));
    assertClean(late, backend.messages);
    assert(late.writes > 0 && late.verifiedSectors > 0);

    Deno.truncateSync(image, 16 * MIB);
    const error = await assertRejects(resize, Error);
    assertMatch(
      error.message,
      /Cannot resize xvda of domain 7: Cannot shrink image .*; make the image as large as before/,
    );
    Deno.truncateSync(image, 32 * MIB);
    await detach(xen, device);
    assertEquals(await backend.stop(), 0, backend.messages);
  });
}
