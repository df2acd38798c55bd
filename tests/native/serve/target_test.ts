/**
 * A mirror, a backup and a snapshot of a guest's disk under verified load, whose target is full, goes away, or is slower
 * than the guest writes: the guest sees no error, the disk keeps its image, and the job says why it has failed.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deviceLabel } from "../../../lib/backend/journals.ts";
import type { ControlClient } from "../../../lib/control/client.ts";
import type { LoadSpec } from "../../../lib/guest/load_types.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { isActive, type JobReport } from "../../../lib/jobs/job.ts";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { missingFuse } from "../hanging_fs.ts";
import { missingProgram, nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { until } from "../qemu/rig.ts";
import { type BackendProcess, nodeValue } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { NbdServer, QEMU_NBD } from "./nbd_server.ts";
import { assertClean, assertProgress, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";
import { SmallFileSystem } from "./small_fs.ts";
import { clientOf } from "./swap_stage.ts";

const CALL = { timeoutMs: 60_000 };
/** Bytes in a second of work that is not over soon. */
const SLOW = 2 ** 20;

/** A guest with a disk under load, and the jobs of it. */
class Loaded implements AsyncDisposable {
  private constructor(readonly stage: FormatStage, readonly backend: BackendProcess, readonly client: ControlClient) {}

  /** `before`: done with the folder before the disk is served. */
  static async open(
    args: string[] = [],
    before?: (folder: string) => Promise<void>,
    load: LoadSpec = UNTIL_STOPPED,
  ): Promise<Loaded> {
    await using undo = new AsyncDisposableStack();
    const stage = undo.use(
      await FormatStage.open("qcow2", [], {}, async (image) => {
        await before?.(image.slice(0, image.lastIndexOf("/")));
        return `qcow2:${image}`;
      }),
    );
    const backend = stage.serve(...args);
    await stage.disk.connect();
    await stage.disk.startLoad(load);
    await assertProgress(stage.disk, 2000);
    undo.move();
    return new Loaded(stage, backend, await clientOf(stage.xen, backend));
  }

  get device(): string {
    return deviceLabel(this.stage.device);
  }

  async mirror(image: string, more: { bytesPerSecond?: number; timeoutMs?: number } = {}): Promise<void> {
    await this.client.call("mirror", { device: this.device, image, ...more }, CALL);
  }

  async backup(target: string, bytesPerSecond?: number): Promise<void> {
    const rate = bytesPerSecond === undefined ? {} : { bytesPerSecond };
    await this.client.call("backup", { device: this.device, target, ...rate }, CALL);
  }

  /** An image as large as the disk. */
  async target(format: string, path: string): Promise<string> {
    await qemuImg("create", "-q", "-f", format, path, "64M");
    return `${format}:${path}`;
  }

  /** The job of that kind, once it has failed; the guest goes on with its image. */
  async failure(kind: string): Promise<JobReport> {
    for (const end = performance.now() + 50_000;;) {
      const { jobs } = await this.client.call("jobs", { device: this.device }, CALL);
      const job = jobs.find((report) => report.kind === kind)!;
      if (!isActive(job)) {
        assertEquals(job.state, "failed", `${job.error}; ${this.backend.messages}`);
        await assertProgress(this.stage.disk, 200);
        const params = await nodeValue(this.stage.xen, `${backendPath(this.stage.device)}/params`);
        assertEquals(params, `qcow2:${this.stage.image}`);
        return job;
      }
      assert(performance.now() < end, `the job does not end: ${JSON.stringify(job)}; ${this.backend.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** No request of the guest has failed, its disk is right, and nothing is left. */
  async finish(): Promise<void> {
    assertClean(received(await this.stage.disk.stopLoad()), this.backend.messages);
    await this.stage.finish(this.backend);
    const names = [...Deno.readDirSync(this.stage.folder)].map(({ name }) => name);
    assertEquals(names.filter((name) => /partial|scratch|xenblk-/.test(name)), []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client[Symbol.dispose]();
    await this.stage[Symbol.asyncDispose]();
  }
}

nativeTest("a full target fails a mirror and a backup, and nothing else", async () => {
  const mounted = Promise.withResolvers<SmallFileSystem>();
  // A daemon sees what was mounted before it began, unless the host shares its mounts.
  await using it = await Loaded.open([], async (folder) => {
    mounted.resolve(await SmallFileSystem.mount(`${folder}/small`, "6m"));
  });
  await using _small = await mounted.promise;
  const folder = `${it.stage.folder}/small`;
  await it.backup(`${folder}/backup.qcow2`);
  assertMatch((await it.failure("backup")).error!, /No space left on device/);
  assertEquals([...Deno.readDirSync(folder)], []);
  await it.mirror(await it.target("qcow2", `${folder}/mirror.qcow2`));
  assertMatch((await it.failure("mirror")).error!, /No space left on device/);
  await it.finish();
}, missingFuse());

nativeTest("a target that goes away fails a mirror and a backup, and nothing else", async () => {
  await using it = await Loaded.open(["--allow-image", "nbd+unix:**"]);
  const { folder } = it.stage;
  const image = `${folder}/remote.qcow2`;
  const socket = `${folder}/nbd.sock`;
  await it.target("qcow2", image);
  await using server = new NbdServer(QEMU_NBD, image, socket);
  await server.start();
  const name = `nbd+unix:///disk?socket=${socket}`;
  await it.mirror(name, { bytesPerSecond: SLOW });
  await server.end();
  assertMatch((await it.failure("mirror")).error!, /./);
  await server.start();
  await it.backup(name, SLOW);
  await server.end();
  assertMatch((await it.failure("backup")).error!, /incomplete/);

  const file = await it.target("qcow2", `${folder}/file.qcow2`);
  await it.mirror(file, { bytesPerSecond: 64 * SLOW });
  Deno.removeSync(`${folder}/file.qcow2`);
  assertMatch((await it.failure("mirror")).error!, /file\.qcow2.*(no such file|exist)/i);
  await it.backup(`${folder}/gone.qcow2`, 64 * SLOW);
  Deno.removeSync(`${folder}/gone.qcow2.partial`);
  assertMatch((await it.failure("backup")).error!, /gone\.qcow2/);
  await it.finish();
});

nativeTest("a target that is slower than the guest writes fails a mirror when its time is over", async () => {
  // There is little to copy, and each write takes longer than the switch-over may.
  const area = { firstSector: 0, sectors: 256 };
  const load = { ...UNTIL_STOPPED, area };
  await using it = await Loaded.open(["--allow-image", "nbd+unix:**"], undefined, load);
  const { folder } = it.stage;
  const image = `${folder}/remote.raw`;
  await it.target("raw", image);
  const slow = (path: string, socket: string): [string, ...string[]] => {
    return ["nbdkit", "--foreground", "--unix", socket, "--filter=delay", "file", path, "wdelay=600ms"];
  };
  await using server = new NbdServer(slow, image, `${folder}/nbd.sock`);
  await server.start();
  await it.mirror(`nbd+unix:///?socket=${folder}/nbd.sock`, { timeoutMs: 200 });
  assertMatch((await it.failure("mirror")).error!, /has not finished/);
  await it.finish();
}, missingProgram("nbdkit", "nbdkit"));

nativeTest("a full file system refuses a snapshot, and the disk goes on without", async () => {
  const small = Promise.withResolvers<SmallFileSystem>();
  await using stage = await FormatStage.open("qcow2", [], {}, async (image) => {
    const folder = `${image}.small`;
    small.resolve(await SmallFileSystem.mount(folder, "24m"));
    Deno.copyFileSync(image, `${folder}/disk.qcow2`);
    Deno.removeSync(image);
    Deno.symlinkSync(`${folder}/disk.qcow2`, image);
    return `qcow2:${folder}/disk.qcow2`;
  });
  await using file_system = await small.promise;
  const backend = stage.serve();
  await stage.disk.connect();
  const load = { ...LOAD, requests: 400, area: { firstSector: 0, sectors: 8192 }, blockBytes: [32768] };
  assertClean(received(await stage.disk.load({ ...load, readShare: 0, pattern: "sequential" })), backend.messages);
  file_system.fill();
  using client = await clientOf(stage.xen, backend);
  const device = deviceLabel(stage.device);
  const taking = (): Promise<unknown> => client.call("snapshotCreate", { devices: [device], snapshot: "one" }, CALL);
  const refused = await assertRejects(taking, XenblkError);
  assertMatch(refused.message, /Cannot take a snapshot of xvda.*No space left on device/);
  assertEquals((await client.call("snapshots", { device }, CALL)).snapshots, []);
  const names = [...Deno.readDirSync(`${stage.image}.small`)].map(({ name }) => name);
  assertEquals(names.toSorted(), ["disk.qcow2", "filler"]);
  assertClean(received(await stage.disk.load({ ...load, seed: 2 })), backend.messages);
  file_system.makeRoom();
  await taking();
  assertClean(received(await stage.disk.load({ ...load, seed: 3 })), backend.messages);
  await client.call("snapshotCommit", { device }, CALL);
  const merged = async (): Promise<boolean> =>
    (await client.call("snapshots", { device }, CALL)).snapshots.length === 0;
  await until("the snapshot is merged", merged);
  client[Symbol.dispose]();
  await stage.finish(backend);
}, missingFuse());
