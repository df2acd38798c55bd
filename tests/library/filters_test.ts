/**
 * Filters in front of an attached disk on a simulated host: a guest behind them, end to end.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { attach, type AttachedDisk, XenblkError } from "../../mod.ts";
import { GUEST, type Guest, SimulatedHost } from "./host.ts";

const MIB = 2 ** 20;
const FLIPPING = new URL("../storage/filter/modules/flipping_filter.ts", import.meta.url).pathname;

/** Attaches an image and connects the guest to it. */
async function attached(
  host: SimulatedHost,
  image: string,
  options: Partial<Parameters<typeof attach>[0]> = {},
): Promise<{ readonly disk: AttachedDisk; readonly guest: Guest }> {
  const guest = host.guest(options.vdev ?? "xvda");
  const [disk] = await Promise.all([attach({ ...host.options(image), ...options }), guest.connect()]);
  return { disk, guest };
}

/** An image file until it is disposed. */
function imageFile(sizeBytes: number): Disposable & { readonly path: string } {
  const path = Deno.makeTempFileSync();
  Deno.truncateSync(path, sizeBytes);
  return { path, [Symbol.dispose]: () => Deno.removeSync(path) };
}

Deno.test("a wrong filter is refused before anything is opened, and leaves nothing behind", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const start = (): Promise<unknown> => attach({ ...host.options("/no/such.img"), filters: ["readonly,x=1"] });
  const error = await assertRejects(start, XenblkError, "Cannot use filter readonly: it has no option x");
  assertEquals([error.kind, host.holdings()], ["usage", before]);
});

Deno.test("a guest behind filters, one of them from outside, reads back what it wrote", async () => {
  using host = new SimulatedHost();
  using image = imageFile(MIB);
  const { disk, guest } = await attached(host, image.path, { filters: [FLIPPING, `${FLIPPING},mask=15`] });
  await using _disk = disk;
  const { errors, miscompares, verifiedSectors } = await guest.load({ requests: 400, flushEvery: 20 });
  assertEquals([errors, miscompares, verifiedSectors > 0], [0, 0, true]);
  assertEquals(disk.status().image?.endsWith(` behind ${FLIPPING}, ${FLIPPING}`), true);
});

Deno.test("behind readonly a guest cannot write, and others may read the image at the same time", async () => {
  using host = new SimulatedHost();
  using image = imageFile(MIB);
  const { disk, guest } = await attached(host, image.path, { filters: [{ name: "readonly" }] });
  await using _disk = disk;
  const { reads, writes, errors } = await guest.load({ readShare: 0 });
  assertEquals([reads, writes, errors], [200, 0, 0], "the guest knows that it must not write");
  using store = host.platform.openXenstore();
  const nodes = `/local/domain/0/backend/vbd3/${GUEST}/51712`;
  assertEquals([store.read(`${nodes}/mode`), store.read(`${nodes}/image-mode`)], ["w", "r"]);
  const second = await attached(host, image.path, { vdev: "xvdb", readOnly: true });
  await second.disk[Symbol.asyncDispose]();
});
