/**
 * A CI test of an image of one's own, without Xen: a simulated guest boots from it, so to speak. The real backend serves
 * the image over simulated rings.
 *
 *     deno test -A examples/ci_test.ts
 */

import { assertClean, assertImageEquals, assertIoError, assertNoLeak, testHost } from "xenblk/testing";

const MIB = 2 ** 20;

Deno.test("a guest reads what the image holds, and what it writes is in the image", async () => {
  // In your test: the image that your build has made.
  const image = await Deno.makeTempFile({ suffix: ".img" });
  await Deno.writeFile(image, new TextEncoder().encode("hello".padEnd(512, ".")));
  await Deno.truncate(image, 8 * MIB);

  await using host = await testHost();
  const guest = await host.startGuest({ abi: "x86_64" });
  {
    await using disk = await host.attach({ domain: guest.domid, image });
    await using drive = await guest.connect(disk.vdev);
    const start = new TextDecoder().decode(await drive.read(0, 512));
    if (!start.startsWith("hello")) throw new Error(`the image begins with ${start}`);

    // Random requests over the rest of the disk; every byte that is read is compared with what was written.
    const load = await guest.load({ seconds: 1, depth: 32, mix: 0.5, area: { offset: MIB, length: 7 * MIB } });
    assertClean(load);
    assertImageEquals(image, drive.model);
    await assertIoError(drive.read(8 * MIB, 512)); // beyond the end
  }
  await assertNoLeak(host);
  await Deno.remove(image);
});

Deno.test("a guest cannot write to a disk that is attached read-only", async () => {
  await using host = await testHost();
  const guest = await host.startGuest();
  await using _disk = await host.attach({ domain: guest.domid, image: "memory:1M", readOnly: true });
  await using drive = await guest.connect();
  await assertIoError(drive.write(0, new Uint8Array(512)));
});
