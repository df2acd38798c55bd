/**
 * Raw disks that io_uring serves, in a real `serve` with a real storage daemon: they enter a daemon for a backup, an
 * export, a mirror or a snapshot, and leave it again, under a guest's verified load over two rings; the job, the process,
 * the daemon or the image go meanwhile.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { EnterStage, SLOW } from "./enter_stage.ts";
import { VerbProcess } from "./living/verb_process.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
/** Where the process ends, with or without its daemon: at which exchange, the first one or that of leaving. */
const ENDS = [
  ["held", 1, "serve"],
  ["committed", 1, "daemon"],
  ["held", 2, "daemon"],
  ["committed", 2, "serve"],
  ...(FULL
    ? [
      ["opened", 1, "daemon"],
      ["releasing", 1, "serve"],
      ["released", 1, "daemon"],
      ["held", 1, "daemon"],
      ["committed", 1, "serve"],
      ["started", 1, "daemon"],
      ["releasing", 2, "daemon"],
      ["released", 2, "serve"],
      ["opened", 2, "serve"],
      ["held", 2, "serve"],
      ["committed", 2, "daemon"],
      ["started", 2, "serve"],
    ] as const
    : []),
] as const;

nativeTest("a raw disk enters its daemon for each kind of work and leaves it afterwards, with its limits", async () => {
  await using stage = await EnterStage.open();
  const { disk, folder, image } = stage;
  const backend = stage.serve();
  await disk.connect();
  await stage.call(backend, "limit", { limits: { iops: 100_000 } });
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 200);

  const { entered } = await stage.call(backend, "backup", { target: `${folder}/full.qcow2` });
  assert(entered!.pausedMs > 0, backend.messages);
  assertEquals((await stage.jobOver(backend)).state, "completed", backend.messages);
  const visit = await stage.visit(backend);
  assertEquals([visit.visits, visit.trouble], [false, undefined], backend.messages);
  assert(visit.left!.pausedMs > 0);
  await stage.outside(backend);
  await assertProgress(disk, 200);

  const exporting = stage.call(backend, "export", { stays: true, scratchDirectory: folder });
  while (await stage.node("in-daemon") === "") await new Promise((resolve) => setTimeout(resolve, 5));
  const early = stage.call(backend, "swap", { image: `raw:${image}` }); // it has entered, and its export begins
  await assertRejects(() => early, XenblkError, "its storage daemon is asked to export");
  const exported = await exporting;
  assert(exported.entered !== undefined, "it has entered anew");
  assertMatch(await stage.node("in-daemon"), /^\d+:\d+$/);
  await assertProgress(disk, 200);
  await stage.call(backend, "endExport", {});
  assert((await stage.visit(backend)).left !== undefined, backend.messages);
  await stage.outside(backend);

  const target = `raw:${folder}/moved.raw`;
  await qemuImg("create", "-q", "-f", "raw", `${folder}/moved.raw`, "64M");
  const { job } = await stage.call(backend, "mirror", { image: target, bytesPerSecond: SLOW });
  const swapping = stage.call(backend, "swap", { image: target });
  const taking = stage.snapshot(backend, "one");
  await Promise.all([
    assertRejects(() => swapping, XenblkError, "its mirror is running"),
    assertRejects(() => taking, XenblkError, "it is being mirrored"),
  ]);
  await stage.cancel(backend, job.id);
  await stage.outside(backend);
  await stage.call(backend, "mirror", { image: target });
  assertEquals((await stage.jobOver(backend, "mirror")).state, "completed", backend.messages);
  assertEquals(await stage.node("params"), target);
  await stage.outside(backend);
  await assertProgress(disk, 200);

  await stage.call(backend, "swap", { image: `raw:${folder}/moved.raw` });
  assertEquals((await stage.call(backend, "limit", {})).limits.iops, 100_000);
  assertClean(received(await disk.stopLoad()), backend.messages);
  await stage.finish(backend, `${folder}/moved.raw`);
  assert(image !== target);
});

nativeTest("a raw disk stays in its daemon for its snapshots, and leaves when the last one is merged", async () => {
  await using stage = await EnterStage.open();
  const { disk } = stage;
  let backend = stage.serve();
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 200);
  const misnamed = stage.snapshot(backend, "a name");
  await assertRejects(() => misnamed, XenblkError, "Cannot name a snapshot");
  const occupied = stage.call(backend, "backup", { target: stage.image });
  await assertRejects(() => occupied, XenblkError, "it exists");
  for (const [target, why] of await wrongTargets(stage)) {
    await assertRejects(() => stage.call(backend, "mirror", { image: target }), XenblkError, why);
  }
  assert(!/has entered/.test(backend.messages), "the guest has not waited for these");
  const taken = await stage.snapshot(backend, "one");
  assert(taken.disks[0]!.entered!.pausedMs > 0);
  await assertProgress(disk, 200);
  assertEquals((await stage.snapshot(backend, "two")).disks[0]!.entered, undefined, "it is there already");
  assertMatch(await stage.node("params"), /^qcow2:.*two\.qcow2$/);
  assertEquals((await stage.visit(backend)).visits, false, "it has to stay");
  await stage.call(backend, "snapshotCommit", { snapshot: "one" });
  assertEquals((await stage.jobOver(backend, "commit")).state, "completed", backend.messages);
  await stage.outside(backend);
  assertEquals((await stage.call(backend, "snapshots", {})).snapshots, []);
  assertEquals(await stage.node("params"), `raw:${stage.image}`);
  await assertProgress(disk, 200);
  assertEquals(await backend.stop(), 0, backend.messages);

  backend = stage.serve("--engine", "qemu");
  await backend.says(/connected:/);
  assertEquals((await stage.snapshot(backend, "three")).disks[0]!.entered, undefined, "it is there for good");
  await stage.call(backend, "snapshotCommit", {});
  assertEquals((await stage.jobOver(backend, "commit")).state, "completed", backend.messages);
  assertEquals([await stage.visit(backend), await stage.node("in-daemon")], [{ visits: false }, ""]);
  assertMatch(await stage.served(backend), /engine qemu/);
  await stage.snapshot(backend, "four");
  await assertProgress(disk, 200);
  assertEquals(await backend.stop(), 0, backend.messages);

  backend = stage.serve();
  await backend.says(/connected:/);
  await using verb = new VerbProcess(stage.stage.xen);
  await verb.run(["snapshot", "delete", "7", "xvda", "four"]); // the only one
  const { status, stderr } = await verb.ended();
  assertEquals(status, 0, stderr);
  assertMatch(stderr, /xvda has left its storage daemon; its requests waited/);
  await stage.outside(backend); // its name is that of a raw file now
  await assertProgress(disk, 200);
  assertClean(received(await disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

/** What a raw disk of 64 MiB cannot be mirrored to, and why. */
async function wrongTargets({ folder, image }: EnterStage): Promise<(readonly [string, string])[]> {
  await qemuImg("create", "-q", "-f", "raw", `${folder}/small.raw`, "32M");
  await qemuImg("create", "-q", "-f", "qcow2", `${folder}/small.qcow2`, "32M");
  Deno.writeTextFileSync(`${folder}/empty.raw`, "");
  return [
    [`raw:${folder}/none.raw`, "there is no such file"],
    [`raw:${folder}/empty.raw`, "it has 0 bytes, and the disk 67108864"],
    [`raw:${folder}/small.raw`, "it has 33554432 bytes, and the disk 67108864"],
    [`qcow2:${folder}/small.qcow2`, "it has 33554432 bytes, and the disk 67108864"],
    [`vmdk:${folder}/small.qcow2`, "vmdk"],
    [`raw:${image}`, "xenblk serves it to vbd3/7/51712"],
    ["nbd+unix:///disk?socket=/none", "which is not allowed"],
  ];
}

nativeTest("the last of those who need the daemon lets the disk leave; whoever dies meanwhile", async () => {
  await using stage = await EnterStage.open();
  const { disk, folder } = stage;
  let backend = stage.serve();
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 2000);
  await stage.call(backend, "backup", { target: `${folder}/one.qcow2`, bytesPerSecond: SLOW });
  const exporting = stage.call(backend, "export", { stays: true, scratchDirectory: folder });
  await assertRejects(() => exporting, XenblkError, "other work on the disk");
  assertEquals((await stage.visit(backend)).visits, true, "the backup needs it");
  await stage.killDaemon();
  assertMatch((await stage.jobOver(backend)).error!, /died/);
  await stage.outside(backend);
  await assertProgress(disk, 200);

  const { job } = await stage.call(backend, "backup", { target: `${folder}/two.qcow2`, bytesPerSecond: SLOW });
  await backend.stop("SIGKILL");
  backend = stage.serve();
  await backend.says(/connected:/);
  // QEMU 7.2 may end by an assertion of its own when a client dies with requests in flight.
  const hasDied = /vhost_user_server_ref: Assertion/.test(backend.messages);
  const { state } = (await stage.call(backend, "jobs", {})).jobs[0]!;
  assertEquals(state, hasDied ? "failed" : "running", backend.messages);
  if (!hasDied) {
    assertMatch(await stage.served(backend), /engine qemu/);
    await stage.cancel(backend, job.id);
  }
  await stage.outside(backend);

  await stage.call(backend, "backup", { target: `${folder}/three.qcow2`, bytesPerSecond: SLOW });
  await stage.killDaemon();
  await backend.stop("SIGKILL");
  backend = stage.serve();
  await backend.says(/connected:/);
  assertEquals((await stage.jobOver(backend)).state, "failed", backend.messages);
  await stage.outside(backend);
  await assertProgress(disk, 200);
  assertClean(received(await disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest("a disk that visits its daemon stays there if the next process has it there for good", async () => {
  await using stage = await EnterStage.open();
  const { disk, folder } = stage;
  let backend = stage.serve();
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 2000);
  const { job } = await stage.call(backend, "backup", { target: `${folder}/one.qcow2`, bytesPerSecond: SLOW });
  await backend.stop("SIGKILL");
  backend = stage.serve("--engine", "qemu");
  await backend.says(/connected:/);
  // QEMU 7.2 may end by an assertion of its own when a client dies with requests in flight; the job ends with it.
  await stage.cancel(backend, job.id).catch((error) => assertMatch(error.message, /it has failed/));
  assertEquals(await stage.visit(backend), { visits: false });
  assertMatch(await stage.served(backend), /engine qemu/);
  await assertProgress(disk, 200);
  assert(!/has left|no longer/.test(backend.messages), backend.messages);
  assertEquals(await backend.stop(), 0, backend.messages);
  backend = stage.serve();
  await backend.says(/connected:/);
  await stage.outside(backend);
  assertClean(received(await disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest(
  `a process is killed at ${ENDS.length} steps of entering and leaving: the next one has the disk right`,
  async () => {
    await using stage = await EnterStage.open();
    const { disk, folder } = stage;
    let connected = false;
    for (const [at, [step, turn, killed]] of ENDS.entries()) {
      const dying = stage.dyingServe(step, turn, killed);
      if (!connected) {
        await disk.connect();
        await disk.startLoad(UNTIL_STOPPED);
      } else {
        await dying.says(/connected:/);
      }
      connected = true;
      await assertProgress(disk, 100);
      await stage.call(dying, "backup", { target: `${folder}/${at}.qcow2` }).catch(() => {});
      await dying.exited();
      const isInside = (step === "committed" || step === "started") === (turn === 1);
      assertEquals(await stage.node("in-daemon") !== "", isInside, `${step} ${turn}: ${dying.messages}`);
      const backend = stage.serve();
      await backend.says(/connected:/);
      await stage.outside(backend);
      await assertProgress(disk, 100);
      assertEquals(await backend.stop(), 0, backend.messages);
    }
    const backend = stage.serve();
    await backend.says(/connected:/);
    await assertProgress(disk, 100);
    assertClean(received(await disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  },
);

nativeTest("a disk that cannot enter or leave its daemon goes on where it is", async () => {
  await using stage = await EnterStage.open();
  const { disk, folder, image } = stage;
  const without = stage.serveIn(["env", "XENBLK_QEMU_STORAGE_DAEMON=/none"]);
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 200);
  const starting = stage.call(without, "backup", { target: `${folder}/none.qcow2` });
  await assertRejects(() => starting, XenblkError, "cannot take it over: Cannot find qemu-storage-daemon");
  assert(!/requests waited|no longer/.test(without.messages), without.messages);
  await stage.outside(without);
  assertEquals(await without.stop(), 0, without.messages);

  const backend = stage.serve();
  await backend.says(/connected:/);
  const replace = async (): Promise<void> => {
    await Deno.rename(image, `${image}.own`);
    await Deno.copyFile(`${image}.own`, image);
  };
  await replace();
  const replaced = stage.call(backend, "backup", { target: `${folder}/none.qcow2` });
  await assertRejects(() => replaced, XenblkError, "another file has taken the place of the disk's image");
  await stage.outside(backend);
  await assertProgress(disk, 200);
  await Deno.rename(`${image}.own`, image);
  const { job } = await stage.call(backend, "backup", { target: `${folder}/one.qcow2`, bytesPerSecond: SLOW });
  await replace();
  await stage.cancel(backend, job.id);
  assertMatch((await stage.visit(backend)).trouble!, /another file has taken the place/);
  await assertProgress(disk, 200);
  assertMatch(await stage.served(backend), /engine qemu/);
  await Deno.rename(`${image}.own`, image);
  await stage.outside(backend);
  await stage.call(backend, "backup", { target: `${folder}/two.qcow2`, bytesPerSecond: SLOW });
  assertClean(received(await disk.stopLoad()), backend.messages);
  await stage.finish(backend); // it is detached while it visits
});
