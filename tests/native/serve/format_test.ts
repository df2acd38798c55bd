/**
 * Images of other formats behind `xenblk serve`, opened by QEMU's storage daemon: a guest's verified load, the death of the
 * daemon, of `serve` and of both under that load, and what stays behind.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, nodeValue } from "./backend.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { assertClean, assertProgress, DiskFolder, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const REQUESTS = FULL ? 20_000 : 2000;
const KILLS = FULL ? 20 : 3;
const SIZE = "64M";

/** Runs qemu-img. */
async function qemuImg(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("qemu-img", { args }).output();
  const text = new TextDecoder();
  assert(success, `qemu-img ${args.join(" ")}: ${text.decode(stderr)}`);
  return text.decode(stdout);
}

/** A daemon that was killed may leave clusters that nothing refers to, but nothing wrong. */
async function assertSound(format: string, image: string): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command("qemu-img", {
    args: ["check", "--output=json", "-f", format, image],
  }).output();
  const text = new TextDecoder();
  const said = text.decode(stdout) + text.decode(stderr);
  assert(code === 0 || code === 3, said);
  const { corruptions = 0, "check-errors": errors = 0 } = JSON.parse(text.decode(stdout));
  assertEquals([corruptions, errors], [0, 0], said);
}

/** A guest with one disk of a format. */
class Stage implements AsyncDisposable {
  readonly #owned: AsyncDisposableStack;

  private constructor(
    readonly xen: NativeXen,
    readonly folder: string,
    readonly image: string,
    readonly format: string,
    readonly device: DeviceAddress,
    readonly disk: GuestDisk,
    owned: AsyncDisposableStack,
  ) {
    this.#owned = owned;
  }

  static async open(format: string, options: readonly string[] = []): Promise<Stage> {
    await using undo = new AsyncDisposableStack();
    const xen = undo.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = undo.use(new GuestProcess(xen, GUEST));
    const folder = undo.use(new DiskFolder());
    const image = `${folder.path}/disk.${format}`;
    await qemuImg("create", "-q", "-f", format, ...options, image, SIZE);
    const device = await attach(xen, { domain: GUEST as DomId, params: `${format}:${image}`, readOnly: false });
    const disk = await guest.disk(frontendPath(device));
    return new Stage(xen, folder.path, image, format, device, disk, undo.move());
  }

  serve(...args: string[]): BackendProcess {
    return this.#owned.use(new BackendProcess(this.xen, ["serve", ...args]));
  }

  /** The storage daemons that run for this test, by process number. */
  async daemons(): Promise<number[]> {
    const found: number[] = [];
    for await (const { name } of Deno.readDir("/proc")) {
      if (!/^\d+$/.test(name)) continue;
      const line = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
      if (/^[^\0]*qemu-storage-daemon\0/.test(line) && line.includes(this.xen.directory)) found.push(Number(name));
    }
    return found;
  }

  async killDaemon(): Promise<void> {
    const [pid] = await this.daemons();
    assert(pid !== undefined, "no daemon runs");
    Deno.kill(pid, "SIGKILL");
  }

  /** Detaches the disk; then every byte in the image is what the guest has written. */
  async finish(backend: BackendProcess): Promise<void> {
    await detach(this.xen, this.device);
    const raw = `${this.folder}/disk.raw`;
    if (this.format !== "vpc") await assertSound(this.format, this.image);
    await qemuImg("convert", "-f", this.format, "-O", "raw", this.image, raw);
    assertEquals((await this.disk.verify(raw)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
    assertEquals(await this.daemons(), [], "the daemon has ended");
    const left = [...Deno.readDirSync(`${this.xen.directory}/journals`)].map(({ name }) => name);
    assertEquals(left.filter((name) => name !== "daemons"), [], "nothing is kept");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of await this.daemons()) Deno.kill(pid, "SIGKILL");
    await this.#owned.disposeAsync();
  }
}

for (const format of ["qcow2", "vmdk", "vdi", "vhdx", "qed", "vpc"]) {
  const options = format === "vpc" ? ["-o", "force_size=on"] : [];
  nativeTest(`${REQUESTS} requests verify on a ${format} image`, async () => {
    await using stage = await Stage.open(format, options);
    const backend = stage.serve();
    await stage.disk.connect();
    const outcome = received(await stage.disk.load({ ...LOAD, requests: REQUESTS, discardEvery: 50 }));
    assertClean(outcome, backend.messages);
    assertMatch(backend.messages, new RegExp(`${format}:.*engine qemu \\d`));
    await stage.finish(backend);
  });
}

nativeTest(`the daemon dies ${KILLS} times under load: nothing that was answered is lost`, async () => {
  await using stage = await Stage.open("qcow2");
  const backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  for (let kill = 1; kill <= KILLS; kill++) {
    await assertProgress(stage.disk, 200);
    await stage.killDaemon();
    await backend.says(new RegExp(`(served again after[^]*){${kill}}`));
  }
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest(`serve dies ${KILLS} times under load, its daemon lives: the next one goes on with it`, async () => {
  await using stage = await Stage.open("qcow2");
  let backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  const [pid] = await stage.daemons();
  for (let kill = 1; kill <= KILLS; kill++) {
    await backend.stop("SIGKILL");
    backend = stage.serve();
    await backend.says(/connected:/);
    await assertProgress(stage.disk, 200);
    assertEquals(await stage.daemons(), [pid]);
  }
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest(`serve and its daemon die ${KILLS} times together: nothing that was answered is lost`, async () => {
  await using stage = await Stage.open("qcow2");
  let backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  for (let kill = 1; kill <= KILLS; kill++) {
    await assertProgress(stage.disk, 200);
    await Promise.all([backend.stop("SIGKILL"), stage.killDaemon()]);
    backend = stage.serve();
    await backend.says(/connected:/);
  }
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest("without a write log the death of the daemon fails the disk, and says so", async () => {
  await using stage = await Stage.open("qcow2");
  const backend = stage.serve("--no-write-log");
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  await stage.killDaemon();
  await backend.says(/Cannot use it: .*writes that it had answered may be lost/);
  const outcome = received(await stage.disk.stopLoad());
  assert(outcome.errors > 0, "the guest gets errors");
  const error = await nodeValue(stage.xen, `/local/domain/0/backend/vbd3/${GUEST}/${stage.device.vdev}/error`);
  assertMatch(error, /Cannot use it: the storage daemon .*: attach it anew/);
  await detach(stage.xen, stage.device);
  assertEquals(await backend.stop(), 0, backend.messages);
});
