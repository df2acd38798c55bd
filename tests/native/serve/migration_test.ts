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
import { type Host, MigrationStage } from "./migration_stage.ts";
import { mirrorBegins, mirrored, mirrorEnds } from "./mirroring.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";
import { clientOf } from "./swap_stage.ts";

/** Bytes in a second of a mirror that is not ready soon. */
const SLOW = 2 ** 20;

/** The guest stops on host A and goes on on host B, in the order of `xl migrate`: host A's disk is open until the end. */
async function moves({ from, to, server, folder }: MigrationStage, onA: BackendProcess): Promise<BackendProcess> {
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

/** Every byte in host B's image is what the guest has written, and nothing is left on either host. */
async function finish(
  { from, to, server, folder }: MigrationStage,
  onA: BackendProcess,
  onB: BackendProcess,
): Promise<void> {
  assertClean(received(await to.disk.stopLoad()), onB.messages);
  await detach(to.xen, to.device);
  await server.ended();
  const { format, image } = server;
  if (format !== "raw") await assertSound(format, image);
  await qemuImg("convert", "-f", format, "-O", "raw", image, `${folder}/verified.raw`);
  assertEquals((await to.disk.verify(`${folder}/verified.raw`)).miscompares, 0);
  for (const [host, backend] of [[from, onA], [to, onB]] as const) {
    assertEquals(await backend.stop(), 0, backend.messages);
    await Deno.remove(`${host.xen.directory}/journals/jobs`, { recursive: true }).catch(() => {});
    await untilNothingIsLeft(host.xen);
  }
}

const PATIENT = { timeoutMs: 60_000 };

async function swapped(host: Host, by: BackendProcess, image: string, timeoutMs = 10_000): Promise<Exchanged> {
  using client = await clientOf(host.xen, by);
  return await client.call("swap", { device: deviceLabel(host.device), image, timeoutMs, releaseFirst: true }, PATIENT);
}

for (const format of ["qcow2", "raw"]) {
  nativeTest(`a guest moves to another host with its disk, which becomes a local ${format} there`, async () => {
    await using stage = await MigrationStage.open(format);
    const { from, to, server } = stage;
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
    await finish(stage, onA, onB);
  });
}

nativeTest(
  "host A keeps its image until all is copied, whoever dies; after that the server may start again",
  async () => {
    await using stage = await MigrationStage.open("qcow2");
    const { from, server, image, folder } = stage;
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
    assertEquals([lost.state, lost.error], ["failed", "Input/output error"]);
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
    assertClean(received(await from.disk.stopLoad()), onA.messages);
    await server.isLast();
    await detach(from.xen, from.device);
    await server.ended();
    await qemuImg("convert", "-f", "qcow2", "-O", "raw", server.image, `${folder}/verified.raw`);
    assertEquals((await from.disk.verify(`${folder}/verified.raw`)).miscompares, 0);
    assertEquals(await onA.stop(), 0, onA.messages);
  },
);

nativeTest(
  "host B goes on over NBD if the image does not come, and with the server started again after a kill",
  async () => {
    await using stage = await MigrationStage.open("qcow2");
    const { from, to, server, folder } = stage;
    const onA = from.serve();
    await from.disk.connect();
    await from.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(from.disk, 200);
    await server.start();
    await mirrored(from, onA, server.name);
    const first = await moves(stage, onA);
    const keepsServer = async (): Promise<void> => {
      assertEquals(await to.params(), server.name);
      await assertProgress(to.disk, 200);
    };
    const [small, image] = [`${folder}/b/small.qcow2`, `qcow2:${server.image}`];
    await qemuImg("create", "-q", "-f", "qcow2", small, "32M");
    await assertRejects(
      () => swapped(to, first, `qcow2:${small}`),
      XenblkError,
      "it has 32.0 MiB, and the disk has 64.0 MiB",
    );
    await keepsServer();
    {
      using _other = await Deno.connect({ transport: "unix", path: `${server.folder}/socket` });
      await assertRejects(
        () => swapped(to, first, image, 2000),
        XenblkError,
        "has not ended although the present image",
      );
      await keepsServer();
    }
    await first.stop("SIGKILL");
    const second = to.serveUntil("held");
    await second.says(/connected:/);
    await server.isLast();
    await assertRejects(() => swapped(to, second, image));
    await second.exited();
    await server.ended();
    const onB = to.serve();
    await server.start();
    await onB.says(/connected:/);
    await keepsServer();
    await server.isLast();
    await swapped(to, onB, image);
    assertEquals(await to.params(), image);
    await assertProgress(to.disk, 200);
    await finish(stage, onA, onB);
  },
);
