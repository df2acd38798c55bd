/**
 * The testing kit, as a program uses it: a host, a guest, an attached disk and its drive; reads, writes, flushes and
 * loads reach the real data plane and the image.
 */

import { assertEquals } from "@std/assert";
import { testHost } from "../../testing.ts";

const MIB = 2 ** 20;

/** Bytes that differ from place to place. */
function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 9) * 7 + seed) & 0xFF);
}

Deno.test("a drive writes, flushes and reads a file, in one request and in many", async () => {
  const image = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(image) };
  Deno.truncateSync(image, 4 * MIB);
  await using host = await testHost();
  const guest = await host.startGuest({ abi: "x86_32" });
  await using disk = await host.attach({ domain: guest.domid, image });
  await using drive = await guest.connect(disk.vdev);
  const [small, large] = [pattern(512, 1), pattern(MIB + 1536, 2)];
  await Promise.all([drive.write(512, small), drive.write(MIB, large)]);
  await drive.flush();
  assertEquals(await drive.read(512, 512), small);
  assertEquals(await drive.read(MIB, large.length), large);
  const stored = Deno.readFileSync(image);
  assertEquals(stored.subarray(MIB, MIB + large.length), large);
  assertEquals([drive.sizeBytes, drive.sectorBytes, drive.inFlight, drive.protocolErrors], [4 * MIB, 512, 0, []]);
  const { errors, miscompares, verifiedSectors } = await guest.load({ requests: 500, flushEvery: 50 });
  assertEquals([errors, miscompares, verifiedSectors > 0], [0, 0, true]);
});
