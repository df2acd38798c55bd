/**
 * A disk whose storage daemon has died and gets no other, since its image is away for a while: `serve` ends, its guest
 * detaches the disk or is destroyed meanwhile. Nothing that was answered is lost.
 */

import { assert, assertEquals } from "@std/assert";
import { nativeTest } from "../harness.ts";
import type { BackendProcess } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

/** The daemon is dead, and no other can open the image. */
async function loseDaemon(stage: FormatStage, backend: BackendProcess): Promise<void> {
  Deno.renameSync(stage.image, `${stage.image}.away`);
  await stage.killDaemon();
  await backend.says(/No such file or directory.*trying again/);
}

function returnImage({ image }: FormatStage): void {
  Deno.renameSync(`${image}.away`, image);
}

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  nativeTest(`serve ends by ${signal} while no daemon serves the disk: the next one writes its log`, async () => {
    await using stage = await FormatStage.open("qcow2");
    let backend = stage.serve();
    await stage.disk.connect();
    await stage.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(stage.disk, 200);
    await loseDaemon(stage, backend);
    const began = performance.now();
    await backend.stop(signal);
    assert(performance.now() - began < 30_000, backend.messages);
    backend = stage.serve();
    await backend.says(/Cannot open image .*: there is no such file/);
    returnImage(stage);
    await backend.says(/operations of its log were written again[^]*connected:/);
    await assertProgress(stage.disk, 200);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  });
}

nativeTest(
  "a guest that is destroyed while no daemon serves its disk leaves an image with all that was answered",
  async () => {
    await using stage = await FormatStage.open("qcow2");
    const backend = stage.serve();
    await stage.disk.connect();
    assertClean(
      received(await stage.disk.load({ ...LOAD, requests: 500, flushEvery: 0, barrierEvery: 0 })),
      backend.messages,
    );
    await loseDaemon(stage, backend);
    await stage.xen.run("xenstore-rm", [`/local/domain/0/backend/vbd3/${GUEST}`]);
    returnImage(stage);
    for (const end = performance.now() + 60_000; (await stage.daemons()).length > 0 || kept(stage).length > 0;) {
      assert(performance.now() < end, `${kept(stage)} are left; ${backend.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await stage.verify();
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

function kept({ xen }: FormatStage): string[] {
  const names = [...Deno.readDirSync(`${xen.directory}/journals`)].map(({ name }) => name);
  return names.filter((name) => name !== "daemons");
}
