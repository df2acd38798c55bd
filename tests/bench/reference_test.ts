/**
 * The C reference keeps the protocol: every byte of a verified load is right, bad requests are answered with an error and
 * change nothing, and it ends with its frontend. Otherwise it would be no limit for others.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { startReference } from "../../bench/backends.ts";
import { buildReference, type ReferenceDisk, ReferenceProcess } from "../../bench/reference.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { attach, nodeValue, sparseImage } from "../native/serve/backend.ts";
import { type GuestDisk, GuestProcess, type RingShape } from "../native/serve/guest.ts";
import { assertClean, assertProgress, DiskFolder, GUEST, received } from "../native/serve/scenes.ts";
import { MIXED_LOAD } from "../../lib/guest/load_types.ts";

const MIB = 2 ** 20;
const SIZE_BYTES = 64 * MIB;
const LOAD = { ...MIXED_LOAD, flushEvery: 100 };

/** A guest, the reference, and its disk. */
class Stage implements AsyncDisposable {
  private constructor(
    readonly xen: NativeXen,
    readonly guest: GuestProcess,
    readonly device: DeviceAddress,
    readonly image: string,
    readonly reference: ReferenceProcess,
    readonly stack: AsyncDisposableStack,
  ) {}

  static async start({ direct = false, onDisk = direct }: { direct?: boolean; onDisk?: boolean } = {}): Promise<Stage> {
    await using stack = new AsyncDisposableStack();
    const xen = stack.use(await NativeXen.start());
    const folder = stack.use(new DiskFolder());
    await xen.createDomain(GUEST);
    const guest = stack.use(new GuestProcess(xen, GUEST));
    const image = sparseImage(onDisk ? folder.path : xen.directory, "disk.img", SIZE_BYTES);
    const device = await attach(xen, { domain: GUEST as DomId, kind: "vbdc", params: `aio:${image}` });
    const served: ReferenceDisk = { directory: backendPath(device), image, direct };
    const reference = stack.use(new ReferenceProcess(xen, await buildReference(xen.directory), served));
    return new Stage(xen, guest, device, image, reference, stack.move());
  }

  async connect(shape: RingShape = {}, override: Record<string, string> = {}): Promise<GuestDisk> {
    const disk = await this.guest.disk(frontendPath(this.device), "x86_64-abi", override, shape);
    await disk.connect();
    return disk;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack[Symbol.asyncDispose]();
  }
}

async function assertVerified(disk: GuestDisk, image: string): Promise<void> {
  const { verifiedSectors, uncheckedSectors, miscompares } = await disk.verify(image);
  assertEquals([verifiedSectors, uncheckedSectors, miscompares], [SIZE_BYTES / 512, 0, 0]);
}

const PLACES = {
  "in memory": {},
  "through the page cache": { onDisk: true },
  "with O_DIRECT": { direct: true },
} as const;

for (const [name, place] of Object.entries(PLACES)) {
  nativeTest(`every byte is right ${name}, and the reference ends with its frontend`, async () => {
    await using stage = await Stage.start(place);
    const disk = await stage.connect();
    const outcome = received(await disk.load({ ...LOAD, requests: 5000 }));
    assertClean(outcome, name);
    assert(outcome.verifiedSectors > 0 && outcome.flushes > 0);
    await assertVerified(disk, stage.image);
    await disk.disconnect();
    assertEquals(await stage.reference.ended(), { code: 0, messages: "" });
    await nodeValue(stage.xen, `${backendPath(stage.device)}/state`, "6");
  });
}

nativeTest("large requests are indirect, and rings have several pages", async () => {
  await using stage = await Stage.start({ onDisk: true });
  const disk = await stage.connect({ ringPages: 16, segments: 32 });
  const outcome = received(
    await disk.load({ ...LOAD, blockBytes: { min: 512, max: 128 * 1024 }, depth: 400, requests: 5000 }),
  );
  assertClean(outcome, "indirect");
  await assertVerified(disk, stage.image);
});

nativeTest("it ends when a toolstack asks for that, with every answered write in the image", async () => {
  await using stage = await Stage.start();
  const disk = await stage.connect();
  await disk.startLoad(LOAD);
  await assertProgress(disk, 200);
  await stage.xen.run("xenstore-write", [`${backendPath(stage.device)}/state`, "5"]);
  assertClean(received(await disk.finishLoad()), "a load that the end of the disk ends");
  assertEquals(await stage.reference.ended(), { code: 0, messages: "" });
  await assertVerified(disk, stage.image);
});

nativeTest("bad requests are answered with an error, change nothing, and the disk goes on", async () => {
  await using stage = await Stage.start();
  const disk = await stage.connect();
  const beyond = { firstSector: SIZE_BYTES / 512, sectors: 2048 };
  const outside = received(
    await disk.loadAs(2 * SIZE_BYTES / 512, { ...LOAD, area: beyond, flushEvery: 0, requests: 100 }),
  );
  assertEquals([outside.errors, outside.reads, outside.writes, outside.unanswered], [100, 0, 0, 0]);
  assertEquals(Object.keys(outside.errorsByKind).sort(), ["read -1", "write -1"]);
  assertEquals(Deno.statSync(stage.image).size, SIZE_BYTES);
  assertClean(received(await disk.load({ ...LOAD, requests: 1000 })), "afterwards");
  await assertVerified(disk, stage.image);
});

nativeTest("a truncated image is an error, never zeroes", async () => {
  await using stage = await Stage.start();
  const disk = await stage.connect();
  Deno.truncateSync(stage.image, SIZE_BYTES / 2);
  const area = { firstSector: SIZE_BYTES / 512 / 2, sectors: SIZE_BYTES / 512 / 2 };
  const reads = received(await disk.load({ ...LOAD, readShare: 1, area, flushEvery: 0, requests: 100 }));
  assertEquals([reads.errors, reads.reads], [100, 0]);
});

nativeTest("what it cannot serve ends it with one line", async () => {
  await using stage = await Stage.start();
  void stage.connect({}, { "event-channel": "999" }).catch(() => {});
  const { code, messages } = await stage.reference.ended();
  assertEquals(code, 1);
  assertMatch(messages, /^reference: Cannot bind the event channel: .*[^.\n]$/);
});

nativeTest(
  "in the bench, a reference that ends before the guest has its disk is an error with its message",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    const disk = { key: "1", pages: 1, params: "aio:/nowhere/disk.img", directPath: undefined, shared: false };
    await assertRejects(
      () => startReference({ xen, guest }, [disk]),
      XenblkError,
      "Cannot measure the C reference: it ended with exit status 1: reference: Cannot open /nowhere/disk.img: No such file",
    );
  },
);
