/**
 * `xenblk attach` of images that a storage daemon serves: overlays that are kept, its ends by SIGINT and by kill -9, an
 * attach beside `serve`, encrypted images. Afterwards no daemon and no file of one is left.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach } from "./backend.ts";
import { qemuImg } from "../qemu_img.ts";
import { daemonsOf, leftovers, untilNothingIsLeft } from "./format_stage.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const VDEV = 51728;

/** A guest on a host of its own. */
class Scene implements AsyncDisposable {
  private constructor(readonly xen: NativeXen, readonly guest: GuestProcess) {}

  static async start(): Promise<Scene> {
    const xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    return new Scene(xen, new GuestProcess(xen, GUEST));
  }

  async image(name = "disk.qcow2", ...more: string[]): Promise<string> {
    const path = `${this.xen.directory}/${name}`;
    await qemuImg("create", "-q", "-f", "qcow2", ...more, path, "64M");
    return path;
  }

  /** Attaches xvdb; its guest has connected. */
  async attach(...args: string[]): Promise<{ readonly process: BackendProcess; readonly disk: GuestDisk }> {
    const process = new BackendProcess(this.xen, ["attach", `${GUEST}`, ...args]);
    await process.says(/offering/);
    const disk = await this.guest.disk(frontendPath({ frontendDomain: GUEST as never, vdev: VDEV }));
    await disk.connect();
    await process.says(/ is xvdb of guest-7/);
    return { process, disk };
  }

  /** The image holds what the guest has written. */
  async verify(disk: GuestDisk, image: string): Promise<void> {
    await qemuImg("convert", "-f", "qcow2", "-O", "raw", image, `${image}.raw`);
    assertEquals((await disk.verify(`${image}.raw`)).miscompares, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of await daemonsOf(this.xen)) Deno.kill(pid, "SIGKILL");
    await this.guest[Symbol.asyncDispose]();
    await this.xen[Symbol.asyncDispose]();
  }

  isClear(): Promise<void> {
    return untilNothingIsLeft(this.xen);
  }
}

nativeTest("an overlay that is kept has what the guest wrote, and its base nothing of it", async () => {
  await using scene = await Scene.start();
  const base = await scene.image("base.qcow2");
  const before = Deno.readFileSync(base);
  const kept = `${scene.xen.directory}/kept.qcow2`;
  const { process, disk } = await scene.attach("xvdb", "--overlay", `qcow2:${base}`, "--keep-overlay", kept);
  await using _process = process;
  assertClean(received(await disk.load({ ...LOAD, requests: 300 })), process.messages);
  const ended = process.stop();
  await disk.disconnect();
  assertEquals(await ended, 0, process.messages);
  assertEquals(Deno.readFileSync(base), before);
  await qemuImg("check", "-q", kept);
  await scene.verify(disk, kept);
  await scene.isClear();
});

nativeTest("SIGINT ends attach, its daemon and the disk, and the image has everything", async () => {
  await using scene = await Scene.start();
  const image = await scene.image();
  const { process, disk } = await scene.attach(`qcow2:${image}`, "xvdb");
  await using _process = process;
  assertClean(received(await disk.load({ ...LOAD, requests: 300 })), process.messages);
  const ended = process.stop("SIGINT");
  await disk.disconnect();
  const status = await ended;
  assert(status === 0 || status === 130, `${status}: ${process.messages}`);
  await scene.isClear();
  await qemuImg("check", "-q", image);
  await scene.verify(disk, image);
});

nativeTest("attach that is ended while its image opens leaves no daemon, and says nothing of one", async () => {
  await using scene = await Scene.start();
  const image = await scene.image();
  for (const afterMs of [0, 100, 200]) {
    const process = new BackendProcess(scene.xen, ["attach", `${GUEST}`, `qcow2:${image}`, "xvdb", "-v"]);
    await using _process = process;
    await process.says(/backend InitWait: open/);
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    await process.stop();
    assertEquals([await daemonsOf(scene.xen), leftovers(scene.xen)], [[], []], process.messages);
    assert(!process.messages.includes("warning"), process.messages);
    await qemuImg("check", "-q", image);
  }
});

nativeTest(
  "attach that is ended while a server does not answer ends within seconds, and speaks of no thread",
  async () => {
    await using scene = await Scene.start();
    const socket = `${scene.xen.directory}/silent.sock`;
    using _silent = Deno.listen({ transport: "unix", path: socket });
    const name = `nbd+unix:///disk?socket=${socket}`;
    await using process = new BackendProcess(scene.xen, ["attach", `${GUEST}`, name, "xvdb"]);
    await process.says(/started QEMU/);
    const start = performance.now();
    await process.stop("SIGINT");
    assert(performance.now() - start < 8_000, process.messages);
    assertMatch(process.messages, /Cannot attach xvdb: ended by SIGINT/);
    assert(!process.messages.includes("blocked in the kernel"), process.messages);
  },
);

nativeTest("attach is killed under load: serve goes on with its daemon, and nothing is lost", async () => {
  await using scene = await Scene.start();
  const image = await scene.image();
  const { process, disk } = await scene.attach(`qcow2:${image}`, "xvdb", "--keep");
  await using _process = process;
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 100);
  const daemons = await daemonsOf(scene.xen);
  await process.stop("SIGKILL");
  await using serve = new BackendProcess(scene.xen, ["serve"]);
  await serve.says(/connected:/);
  await assertProgress(disk, 100);
  // QEMU 7.2 can abort when its client dies with requests in flight.
  if (!serve.messages.includes("Assertion `!server->wait_idle' failed")) {
    assertEquals(await daemonsOf(scene.xen), daemons, "the same daemon");
  }
  assertClean(received(await disk.stopLoad()), serve.messages);
  await detach(scene.xen, { frontendDomain: GUEST, backendDomain: 0, kind: "vbd3", vdev: VDEV } as never);
  await scene.isClear();
  await scene.verify(disk, image);
  assertEquals(await serve.stop(), 0, serve.messages);
});

nativeTest("attach beside serve: each has a daemon of its own for its disk of the guest", async () => {
  await using scene = await Scene.start();
  const [first, second] = [await scene.image("first.qcow2"), await scene.image("second.qcow2")];
  await using serve = new BackendProcess(scene.xen, ["serve"]);
  const device = await attach(scene.xen, { domain: GUEST as never, params: `qcow2:${first}` });
  const served = await scene.guest.disk(frontendPath(device));
  await served.connect();
  const { process, disk } = await scene.attach(`qcow2:${second}`, "xvdb");
  await using _process = process;
  assertEquals((await daemonsOf(scene.xen)).length, 2);
  const [one, other] = await Promise.all([served, disk].map((each) => each.load({ ...LOAD, requests: 300 })));
  assertClean(received(one!), serve.messages);
  assertClean(received(other!), process.messages);
  const ended = process.stop();
  await disk.disconnect();
  assertEquals(await ended, 0, process.messages);
  assertEquals((await daemonsOf(scene.xen)).length, 1, "the daemon of serve goes on");
  await detach(scene.xen, device);
  await scene.isClear();
  await scene.verify(served, first);
  await scene.verify(disk, second);
  assertEquals(await serve.stop(), 0, serve.messages);
});

nativeTest(
  "an encrypted image is attached with the file of its passphrase, and refused without or with another",
  async () => {
    await using scene = await Scene.start();
    const image = `${scene.xen.directory}/locked.luks`;
    const secret = `${scene.xen.directory}/secret`;
    Deno.writeTextFileSync(secret, "of one word");
    const create = ["-o", "key-secret=s,iter-time=10", "--object", `secret,id=s,file=${secret}`, image, "64M"];
    // Deriving keys fails now and then where the clock is coarse.
    for (let attempt = 1; !await qemuImg("create", "-q", "-f", "luks", ...create).then(() => true, () => false);) {
      assert(++attempt < 6, "qemu-img makes no encrypted image");
    }
    for (const [name, why] of [[`luks:${image}`, /is encrypted/], [other(scene), /[Ii]nvalid password/]] as const) {
      const process = new BackendProcess(scene.xen, ["attach", `${GUEST}`, name, "xvdb"]);
      await using _process = process;
      assert(await process.exited() !== 0);
      assertMatch(process.messages, why);
    }
    const { process, disk } = await scene.attach(`format=luks,passphrase-file=${secret},target=${image}`, "xvdb");
    await using _process = process;
    // What was never written reads as whatever the key makes of it.
    assertClean(received(await disk.load({ ...LOAD, requests: 200, readShare: 0 })), process.messages);
    const ended = process.stop();
    await disk.disconnect();
    assertEquals(await ended, 0, process.messages);
    assert(!process.messages.includes("of one word"));
    await scene.isClear();
  },
);

/** The encrypted image with the wrong passphrase. */
function other({ xen }: Scene): string {
  Deno.writeTextFileSync(`${xen.directory}/other`, "another word");
  return `format=luks,passphrase-file=${xen.directory}/other,target=${xen.directory}/locked.luks`;
}
