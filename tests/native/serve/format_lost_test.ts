/**
 * A disk whose storage daemon has died and gets no other, since its image is away for a while: `serve` ends, its guest
 * detaches the disk or is destroyed meanwhile. Nothing that was answered is lost.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { nativeTest } from "../harness.ts";
import type { BackendProcess } from "./backend.ts";
import { FormatStage, untilNothingIsLeft } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const UNFLUSHED = { ...LOAD, requests: 500, flushEvery: 0, barrierEvery: 0 };

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

/** Serve and, as a rule, the daemon of a disk die with writes that nobody has flushed, and the guest is destroyed. */
async function orphan(stage: FormatStage, which: "both die" | "its daemon lives" = "both die"): Promise<void> {
  const backend = stage.serve();
  await stage.disk.connect();
  assertClean(received(await stage.disk.load(UNFLUSHED)), backend.messages);
  await Promise.all([backend.stop("SIGKILL"), ...(which === "both die" ? [stage.killDaemon()] : [])]);
  await stage.xen.run("xenstore-rm", [`/local/domain/0/backend/vbd3/${GUEST}`]);
}

nativeTest("serve and a daemon are killed, and the guest is destroyed: the next serve writes the log", async () => {
  await using stage = await FormatStage.open("qcow2");
  await orphan(stage);
  const backend = stage.serve();
  await backend.says(/operations of its log were written again/);
  await untilNothingIsLeft(stage.xen);
  await stage.verify();
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest(
  "serve is killed, and the guest is destroyed: the next serve has its daemon flush, and ends it",
  async () => {
    await using stage = await FormatStage.open("qcow2");
    await orphan(stage, "its daemon lives");
    const backend = stage.serve();
    await backend.says(/image qcow2:.*: what xvd\w of .*, which is gone, was answered is in it: closed/);
    await untilNothingIsLeft(stage.xen);
    await stage.verify();
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

nativeTest(
  "the guest of a dead daemon is destroyed, and its image is away: doctor and serve say so, and it is written later",
  async () => {
    await using stage = await FormatStage.open("qcow2");
    await orphan(stage);
    const doctor = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", CLI, "doctor"],
      env: stage.xen.env(0),
    }).output();
    assertMatch(
      new TextDecoder().decode(doctor.stdout),
      /[1-9]\d* operations \(\d+ bytes\) that vbd3\/7\/\d+, removed since, was answered are not in image qcow2:.*yet/,
    );
    Deno.renameSync(stage.image, `${stage.image}.away`);
    const backend = stage.serve();
    await backend.says(/image qcow2:.*is not written yet: .*No such file or directory.*tried again/);
    await backend.stop("SIGKILL");
    const next = stage.serve("--no-write-log"); // it is about new logs
    await next.says(/is not written yet/);
    returnImage(stage);
    await next.says(/operations of its log were written again/);
    await untilNothingIsLeft(stage.xen);
    await stage.verify();
    assertEquals(await next.stop(), 0, next.messages);
  },
);

nativeTest("what a guest that is gone has written and cannot be written again is reported", async () => {
  await using stage = await FormatStage.open("qcow2");
  await orphan(stage);
  // Another file must not get what was meant for this one.
  Deno.renameSync(stage.image, `${stage.image}.away`);
  Deno.copyFileSync(`${stage.image}.away`, stage.image);
  const before = Deno.readFileSync(stage.image);
  const backend = stage.serve();
  await backend.says(/image qcow2:.*: \d+ operations \(\d+ bytes\) that xvd\w of .* are lost: .*replaced since/);
  await untilNothingIsLeft(stage.xen);
  assertEquals(Deno.readFileSync(stage.image), before);
  assertEquals(await backend.stop(), 0, backend.messages);
});

function kept({ xen }: FormatStage): string[] {
  const names = [...Deno.readDirSync(`${xen.directory}/journals`)].map(({ name }) => name);
  return names.filter((name) => name !== "daemons" && name !== "control");
}
