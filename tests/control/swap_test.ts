/**
 * A disk that gets another image under a guest's verified load over two rings, by the control socket; and what is refused,
 * or fails on the way: then the guest goes on with the old image.
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DeviceNodes } from "../../lib/backend/device_nodes.ts";
import type { Exchanged } from "../../lib/backend/exchange.ts";
import { XenblkError } from "../../lib/errors.ts";
import { verifyImageFile } from "../../lib/guest/verify_image.ts";
import type { Drive } from "../../lib/testing/drive.ts";
import type { LoadOptions } from "../../lib/testing/drive_load.ts";
import type { DeviceAddress } from "../../lib/xenbus/paths.ts";
import { Rig } from "./rig.ts";

const MIB = 2 ** 20;
/** What a backend offers here. */
const MOST_QUEUES = Math.min(2, navigator.hardwareConcurrency);
const PATIENT = { timeoutMs: 50_000 };

/** Has the content of one file copied into another one in the moment in which an exchange is committed. */
function copyingAtCommit(copy: () => void): Disposable {
  const { nameImage } = DeviceNodes.prototype;
  DeviceNodes.prototype.nameImage = function (...args): boolean {
    copy();
    return nameImage.apply(this, args);
  };
  return { [Symbol.dispose]: () => void (DeviceNodes.prototype.nameImage = nameImage) };
}

/** Writes the bytes of one file into another one, which stays the same file. */
function copyInto(from: string, to: string): void {
  using file = Deno.openSync(to, { write: true });
  const bytes = Deno.readFileSync(from);
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}

/** A guest with a disk of 1 MiB, by two rings: `a.img`. */
class Stage implements AsyncDisposable {
  private constructor(readonly rig: Rig, readonly device: string, readonly image: string, readonly drive: Drive) {}

  static async open(
    more: { readonly filters?: readonly string[]; readonly cdrom?: boolean } = {},
    queues = MOST_QUEUES,
  ): Promise<Stage> {
    await using undo = new AsyncDisposableStack();
    const rig = undo.use(await Rig.start());
    using client = await rig.client();
    const guest = await rig.host.startGuest({ name: "db", drive: { queues } });
    const image = rig.image("a.img");
    const attach = { domain: "db", image, ...more };
    const { device, vdev } = await client.call("attach", attach, PATIENT);
    const stage = new Stage(rig, device, image, await guest.connect(vdev));
    undo.move();
    return stage;
  }

  get address(): DeviceAddress {
    const [, guest, vdev] = this.device.split("/").map(Number);
    return { backendDomain: 0, kind: "vbd3", frontendDomain: guest, vdev } as DeviceAddress;
  }

  node(name: string): string | undefined {
    return this.rig.host.store.read(`/local/domain/0/backend/${this.device}/${name}`);
  }

  async swap(image: string, timeoutMs = 20_000, releaseFirst = false): Promise<Exchanged> {
    using client = await this.rig.client();
    return await client.call("swap", { device: this.device, image, timeoutMs, releaseFirst }, PATIENT);
  }

  /** A load that begins before what is done meanwhile, and ends after it. Every byte that it reads is right. */
  async during<T>(options: LoadOptions, meanwhile: () => Promise<T>): Promise<T> {
    const { drive } = this;
    const requests = 20_000;
    const load = drive.load({ requests, depth: 16, flushEvery: 50, barrierEvery: 100, ...options });
    await until(() => drive.progress.requests > 200);
    const done = await meanwhile();
    assert(drive.progress.requests < requests, "the load has ended before");
    const outcome = await load;
    assertEquals([outcome.errors, outcome.miscompares], [0, 0]);
    assert(outcome.verifiedSectors > 100);
    return done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig[Symbol.asyncDispose]();
  }
}

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 1));
}

Deno.test("a disk goes from image to image under a verified load over two rings", async () => {
  await using stage = await Stage.open();
  const { rig, image, drive } = stage;
  const other = rig.image("b.img");
  let [from, to] = [image, other];
  using _copy = copyingAtCommit(() => copyInto(from, to));
  assertEquals(drive.facts.sectors, 2048);
  await stage.during({ mix: 0.5 }, async () => {
    for (let swap = 0; swap < 4; swap++) {
      const { before, now, pausedMs } = await stage.swap(to);
      assertStringIncludes(before, from);
      assertStringIncludes(now, to);
      assert(pausedMs! >= 0);
      assertEquals(stage.node("params"), `raw:${to}`);
      [from, to] = [to, from];
    }
  });
  assertEquals(stage.node("params"), `raw:${image}`);
  assertEquals(verifyImageFile(image, drive.model).miscompares, 0);
  assert(verifyImageFile(other, drive.model).miscompares > 0, "the other image has got no write since");
});

Deno.test("the same file by another name is exchanged while the rings wait: its lock admits one use at a time", async () => {
  await using stage = await Stage.open();
  const { image, drive } = stage;
  const link = `${image}.link`;
  Deno.linkSync(image, link);
  await stage.during({}, async () => {
    for (const to of [link, image, image]) assertStringIncludes((await stage.swap(to)).now, to);
  });
  assertEquals(verifyImageFile(image, drive.model).miscompares, 0);
  assertEquals(stage.node("error"), undefined);
});

Deno.test("a larger image makes the disk larger, and its guest learns that", async () => {
  await using stage = await Stage.open();
  const { rig, drive } = stage;
  const larger = rig.image("larger.img");
  Deno.truncateSync(larger, 3 * MIB);
  const { sectorsBefore, sectors } = await stage.swap(larger);
  assertEquals([sectorsBefore, sectors, drive.facts.sectors], [2048, 6144, 6144]);
  await drive.write(2 * MIB, new Uint8Array(4096).fill(7));
  assertEquals(await drive.read(2 * MIB, 4096), new Uint8Array(4096).fill(7));
});

Deno.test("an image that does not fit is refused with the reason, and the guest notices nothing", async () => {
  await using stage = await Stage.open();
  const { rig, image, drive } = stage;
  const smaller = rig.image("smaller.img");
  Deno.truncateSync(smaller, MIB / 2);
  const busy = rig.image("busy.img");
  using client = await rig.client();
  await client.call("attach", { domain: "web", image: busy }, PATIENT);
  const odd = `${image}.folder`;
  Deno.mkdirSync(odd);
  await stage.during({ mix: 0.5 }, async () => {
    for (
      const [to, reason] of [
        [smaller, "it has 512.0 KiB, and the disk has 1.0 MiB"],
        [busy, "xenblk serves it to vbd3/1/51712; end that use first"],
        [`${image}.none`, "there is no such file"],
        [odd, "it is a directory"],
        ["qcow2:/none", "this process starts no storage daemon"],
        ["what:ever", "unknown format"],
      ] as const
    ) {
      const error = await assertRejects(() => stage.swap(to), XenblkError);
      assertStringIncludes(error.line, reason);
    }
  });
  assertEquals(stage.node("params"), `raw:${image}`);
  assertEquals(verifyImageFile(image, drive.model).miscompares, 0);
});

Deno.test("an image that its owner lets go of is waited for while the present one is closed, and not for ever", async () => {
  await using stage = await Stage.open();
  const { rig, image, drive } = stage;
  const held = rig.image("held.img");
  using client = await rig.client();
  const { device: holder } = await client.call("attach", { domain: "web", image: held }, PATIENT);
  using _copy = copyingAtCommit(() => copyInto(image, held));
  await stage.during({ mix: 0.5 }, async () => {
    const error = await assertRejects(() => stage.swap(held, 1000, true), XenblkError);
    assertStringIncludes(
      error.line,
      `xenblk serves it to ${holder}, and that has not ended although the present image`,
    );
    assertEquals(stage.node("params"), `raw:${image}`);
    const before = drive.progress.requests;
    await until(() => drive.progress.requests > before + 100);
    const swapping = stage.swap(held, 20_000, true);
    await until(() => rig.service.devices.heldBy(stage.address)?.image === undefined);
    await client.call("detach", { device: holder }, PATIENT);
    assertStringIncludes((await swapping).now, held);
  });
  assertEquals(stage.node("params"), `raw:${held}`);
  assertEquals(verifyImageFile(held, drive.model).miscompares, 0);
});

Deno.test("a disk whose filter keeps writes from its image keeps that image", async () => {
  await using stage = await Stage.open({ filters: ["cow"] }, 1);
  const error = await assertRejects(() => stage.swap(stage.rig.image("b.img")), XenblkError);
  assertStringIncludes(error.line, "its filter cow belongs to the image; attach it without that filter");
});

Deno.test("an image that does not finish its requests is kept, after the time that was allowed", async () => {
  await using stage = await Stage.open({ filters: ["hang,rate=0,operations=write"] });
  const { rig, image, drive, address } = stage;
  const [hang] = rig.service.devices.filtersOf(address);
  const other = rig.image("b.img");
  hang!.set({ rate: 1, count: 1 });
  const load = drive.load({ requests: 2000, mix: 0.5 });
  await until(() => drive.progress.requests > 20);
  const error = await assertRejects(() => stage.swap(other, 200), XenblkError);
  assertEquals([error.kind, stage.node("params")], ["timeout", `raw:${image}`]);
  assertStringIncludes(error.line, "has not finished what is in flight in time");
  const before = drive.progress.requests;
  await until(() => drive.progress.requests > before + 50); // both rings are served again
  hang!.set({ rate: 0 });
  const outcome = await load;
  assertEquals([outcome.errors, outcome.miscompares], [0, 0]);
  assertEquals(verifyImageFile(image, drive.model).miscompares, 0);
});

Deno.test("what fails at the commit leads back to the old image under load", async () => {
  await using stage = await Stage.open();
  const { rig, image, drive } = stage;
  const other = rig.image("b.img");
  const { nameImage } = DeviceNodes.prototype;
  try {
    await stage.during({}, async () => {
      DeviceNodes.prototype.nameImage = (): boolean => false;
      const changed = await assertRejects(() => stage.swap(other), XenblkError);
      assertStringIncludes(changed.line, "the disk's nodes have changed meanwhile");
      DeviceNodes.prototype.nameImage = (): boolean => {
        throw new XenblkError("Cannot write to xenstore: no space");
      };
      const failed = await assertRejects(() => stage.swap(other), XenblkError);
      assertStringIncludes(failed.line, "no space");
    });
  } finally {
    DeviceNodes.prototype.nameImage = nameImage;
  }
  assertEquals([stage.node("params"), stage.node("error")], [`raw:${image}`, undefined]);
  assertEquals(verifyImageFile(image, drive.model).miscompares, 0);
  assertEquals(verifyImageFile(other, drive.model).verifiedSectors, 0);
});

Deno.test("a disc is changed for another one, whatever is on it", async () => {
  await using stage = await Stage.open({ cdrom: true });
  const { rig, drive } = stage;
  const small = rig.image("small.iso");
  Deno.writeFileSync(small, new Uint8Array(MIB / 4).fill(9));
  const { now, pausedMs } = await stage.swap(small);
  assertEquals([now.includes(small), pausedMs], [true, undefined]);
  await until(() => drive.facts.sectors === 512);
  assertEquals(await drive.read(0, 512), new Uint8Array(512).fill(9));
  await assertRejects(() => stage.swap(`${small}.none`), XenblkError, "there is no such file");
  assertEquals(stage.node("params"), `raw:${small}`);
});
