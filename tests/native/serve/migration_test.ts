/**
 * A guest moves with its disk between two hosts without shared storage, as docs/migration.md says: host A mirrors the disk
 * to an NBD server of host B and goes on with that, the guest moves, and host B goes on with the image itself. The guest's
 * load is verified from the beginning to the end. And what fails on the way.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deviceLabel } from "../../../lib/backend/journals.ts";
import type { Exchanged } from "../../../lib/backend/exchange.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { type BackendProcess, detach } from "./backend.ts";
import { assertSound, untilNothingIsLeft } from "./format_stage.ts";
import { ArrivalStage, type Host, MigrationStage } from "./migration_stage.ts";
import { mirrorBegins, mirrored, mirrorEnds } from "./mirroring.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";
import { clientOf } from "./swap_stage.ts";

/** Bytes in a second of a mirror that is not ready soon. */
const SLOW = 2 ** 20;

/** The guest stops on host A and goes on on host B, in the order of `xl migrate`: host A's disk is open until the end. */
async function moves(
  { from, arrival: { to, server, folder } }: MigrationStage,
  onA: BackendProcess,
): Promise<BackendProcess> {
  const onB = to.serve();
  await to.attach(server.name);
  await to.isOffered();
  assertClean(received(await from.disk.stopLoad()), onA.messages);
  await to.disk.continueAs(from.disk, `${folder}/model`);
  await detach(from.xen, from.device);
  await to.disk.connect();
  await to.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(to.disk, 200);
  return onB;
}

/** Every byte in host B's image is what the guest has written, and nothing is left there. */
async function finish({ to, server, folder }: ArrivalStage, onB: BackendProcess): Promise<void> {
  assertClean(received(await to.disk.stopLoad()), onB.messages);
  await detach(to.xen, to.device);
  await server.ended();
  const { format, image } = server;
  if (format !== "raw") await assertSound(format, image);
  await qemuImg("convert", "-f", format, "-O", "raw", image, `${folder}/verified.raw`);
  assertEquals((await to.disk.verify(`${folder}/verified.raw`)).miscompares, 0);
  await ends(to, onB);
}

/** Nothing is left of the disk, but the record of its mirror. */
async function ends({ xen }: Host, backend: BackendProcess): Promise<void> {
  assertEquals(await backend.stop(), 0, backend.messages);
  await Deno.remove(`${xen.directory}/journals/jobs`, { recursive: true }).catch(() => {});
  await untilNothingIsLeft(xen);
}

const PATIENT = { timeoutMs: 60_000 };

async function swapped(host: Host, by: BackendProcess, image: string, timeoutMs = 10_000): Promise<Exchanged> {
  using client = await clientOf(host.xen, by);
  return await client.call("swap", { device: deviceLabel(host.device), image, timeoutMs, releaseFirst: true }, PATIENT);
}

for (const format of ["qcow2", "raw"]) {
  nativeTest(`a guest moves to another host with its disk, which becomes a local ${format} there`, async () => {
    await using stage = await MigrationStage.open(format);
    const { from, arrival, arrival: { to, server } } = stage;
    const onA = from.serve();
    await from.disk.connect();
    await from.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(from.disk, 2000);
    await server.start();
    await mirrored(from, onA, server.name);
    await assertProgress(from.disk, 200);
    const onB = await moves(stage, onA);
    await server.isLast();
    const { before, now, pausedMs } = await swapped(to, onB, `${format}:${server.image}`);
    assertMatch(before, /^nbd\+unix:.* engine qemu/);
    assertMatch(now, format === "raw" ? /^raw:.* engine uring/ : /^qcow2:.* engine qemu/);
    assert(pausedMs! < 10_000);
    assertEquals(await to.params(), `${format}:${server.image}`);
    await assertProgress(to.disk, 200);
    await ends(from, onA);
    await finish(arrival, onB);
  });
}

nativeTest(
  "host A keeps its image until all is copied, whoever dies; after that the server may start again, and the disk come back",
  async () => {
    await using stage = await MigrationStage.open("qcow2");
    const { from, image, arrival: { server, folder } } = stage;
    let onA = from.serve();
    await from.disk.connect();
    await from.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(from.disk, 2000);
    const keepsImage = async (): Promise<void> => {
      assertEquals(await from.params(), image);
      await assertProgress(from.disk, 200);
    };
    const refused = "Cannot open image nbd+unix:///web";
    await assertRejects(() => mirrorBegins(from, onA, server.name, SLOW), XenblkError, refused);
    await keepsImage();
    await server.start();
    await mirrorBegins(from, onA, server.name, SLOW);
    await server.kill("SIGKILL");
    const lost = await mirrorEnds(from, onA);
    assertEquals([lost.state, lost.error], ["failed", "its source or target has an I/O error"]);
    await keepsImage();
    await server.listens();
    await mirrorBegins(from, onA, server.name, SLOW);
    await Promise.all([onA.stop("SIGKILL"), from.killDaemons()]);
    onA = from.serve();
    await onA.says(/connected:/);
    assertMatch((await mirrorEnds(from, onA)).error!, /died/);
    await keepsImage();
    await server.listens();
    await mirrored(from, onA, server.name);
    assertEquals(await from.params(), server.name);
    await server.kill("SIGKILL");
    await onA.says(/served again after/);
    await assertProgress(from.disk, 200);
    // The guest cannot be moved, and its disk comes back.
    const back = `${folder}/back.qcow2`;
    await qemuImg("create", "-q", "-f", "qcow2", back, "64M");
    await server.isLast();
    await mirrored(from, onA, `qcow2:${back}`);
    await server.ended();
    await assertProgress(from.disk, 200);
    assertClean(received(await from.disk.stopLoad()), onA.messages);
    await detach(from.xen, from.device);
    await qemuImg("convert", "-f", "qcow2", "-O", "raw", back, `${folder}/verified.raw`);
    assertEquals((await from.disk.verify(`${folder}/verified.raw`)).miscompares, 0);
    assertEquals(await onA.stop(), 0, onA.messages);
  },
);

/** Host B right after the move: its guest writes over NBD. */
async function arrived({ to, server }: ArrivalStage): Promise<BackendProcess> {
  await server.start();
  const backend = to.serve();
  await to.attach(server.name);
  await to.disk.connect();
  await to.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(to.disk, 200);
  return backend;
}

async function keepsServer({ to, server }: ArrivalStage): Promise<void> {
  assertEquals(await to.params(), server.name);
  await assertProgress(to.disk, 200);
}

nativeTest("host B goes on over NBD if the image does not fit, or its lock does not come in time", async () => {
  await using stage = await ArrivalStage.open("qcow2");
  const { to, server } = stage;
  const backend = await arrived(stage);
  const [small, image] = [`${server.folder}/small.qcow2`, `qcow2:${server.image}`];
  await qemuImg("create", "-q", "-f", "qcow2", small, "32M");
  const tooSmall = "it has 32.0 MiB, and the disk has 64.0 MiB";
  await assertRejects(() => swapped(to, backend, `qcow2:${small}`), XenblkError, tooSmall);
  await keepsServer(stage);
  {
    // The server does not end: it has another client.
    using _other = await Deno.connect({ transport: "unix", path: `${server.folder}/socket` });
    const locked = "has not ended although the present image";
    await assertRejects(() => swapped(to, backend, image, 2000), XenblkError, locked);
    await keepsServer(stage);
  }
  await server.isLast();
  await swapped(to, backend, image);
  assertEquals(await to.params(), image);
  await assertProgress(to.disk, 200);
  await finish(stage, backend);
});

nativeTest(
  "serve on host B is killed in the pause: the next one goes on with the server, once that runs again",
  async () => {
    await using stage = await ArrivalStage.open("qcow2");
    const { to, server } = stage;
    const first = await arrived(stage);
    await first.stop("SIGKILL");
    const second = to.serveUntil("held");
    await second.says(/connected:/);
    await server.isLast();
    const image = `qcow2:${server.image}`;
    await assertRejects(() => swapped(to, second, image));
    await second.exited();
    await server.ended();
    const backend = to.serve();
    await server.start();
    await backend.says(/connected:/);
    await keepsServer(stage);
    await server.isLast();
    await swapped(to, backend, image);
    await assertProgress(to.disk, 200);
    await finish(stage, backend);
  },
);
