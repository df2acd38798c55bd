/**
 * Filters in front of an attached disk on a simulated host: a guest behind them, end to end.
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { attach, type AttachedDisk, XenblkError } from "../../mod.ts";
import { eventually } from "../storage/rig.ts";
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

Deno.test("options change while a guest uses the disk: errors come and go, and limits slow it down", async () => {
  using host = new SimulatedHost();
  const filters = ["throttle", { name: "error", rate: 0, operations: "write" }] as const;
  const { disk, guest } = await attached(host, "memory:1M", { filters: [...filters] });
  await using _disk = disk;
  const error = disk.filter("error");
  assertEquals((await guest.load({})).errors, 0);
  error.set({ rate: 1 });
  const { errorsByKind, writes } = await guest.load({ readShare: 0.5 });
  assertEquals([Object.keys(errorsByKind), writes], [["write -1"], 0]);
  error.set({ rate: 0 });
  disk.setLimits({ iops: 400, iopsBurst: 1 });
  const { errors, elapsedMs } = await guest.load({ requests: 100 });
  assertEquals(errors, 0);
  assert(elapsedMs > 240, `100 requests took ${elapsedMs} ms`);
  assertEquals(disk.filter("throttle").options["iops"], 400);
  assertThrows(
    () => disk.filter("delay"),
    XenblkError,
    "Cannot use filter delay of xvda: there is none in front of it",
  );
  assertThrows(() => disk.setLimits({ iops: -1 }), XenblkError, "iops takes a whole number");
});

Deno.test("guests share one image behind cow: each sees its own writes, and the image stays as it was", async () => {
  using host = new SimulatedHost();
  using image = imageFile(MIB);
  const before = Deno.readFileSync(image.path);
  const one = await attached(host, image.path, { filters: ["cow"] });
  await using _one = one.disk;
  const other = await attached(host, image.path, { filters: ["cow"], vdev: "xvdb" });
  await using _other = other.disk;
  const loads = await Promise.all([one, other].map(({ guest }) => guest.load({ requests: 300, discardEvery: 20 })));
  assertEquals(loads.map(({ errors, miscompares }) => [errors, miscompares]), [[0, 0], [0, 0]]);
  assertEquals(Deno.readFileSync(image.path), before);
  await assertRejects(
    () => attach({ ...host.options(image.path), vdev: "xvdc" }),
    XenblkError,
    "xenblk serves it to vbd3/5/51712",
  );
});

Deno.test("a disk whose filter hangs is detached when it is forced, and leaves nothing behind", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const { disk, guest } = await attached(host, "memory:1M", { filters: ["hang"] });
  const load = guest.load({ requests: 8 });
  await eventually(() => disk.status().totals.inFlight > 0, "requests hang");
  await disk.detach({ timeoutMs: 50, force: true });
  await load.catch(() => {}); // its ring is gone
  assertEquals(host.holdings().nodes, before.nodes);
});
