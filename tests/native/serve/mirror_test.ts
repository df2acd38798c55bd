/**
 * `mirror` in a real `serve` with a real storage daemon: a disk moves to other images under a guest's verified load; what
 * is refused and cancelled; and the process, or both, are killed on the way: the disk is right, and the job's end is told
 * truthfully.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { isActive, type JobReport } from "../../../lib/jobs/job.ts";
import { deviceLabel } from "../../../lib/backend/journals.ts";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { BackendProcess, detach, nodeValue } from "./backend.ts";
import { assertSound, FormatStage, untilNothingIsLeft } from "./format_stage.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";
import { clientOf, SWAPPING_SERVE } from "./swap_stage.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const JOB = { timeoutMs: 60_000 };
/** Bytes in a second of a mirror that is not ready soon. */
const SLOW = 2 ** 20;

/** A guest with a qcow2 disk of two rings, and its mirrors. */
class Mirrors {
  constructor(readonly stage: FormatStage) {}

  get device(): string {
    return deviceLabel(this.stage.device);
  }

  /** An empty image as large as the disk. */
  async target(format: string, name: string, size = "64M"): Promise<string> {
    await qemuImg("create", "-q", "-f", format, `${this.stage.folder}/${name}`, size);
    return `${format}:${this.stage.folder}/${name}`;
  }

  async start(backend: BackendProcess, image: string, bytesPerSecond = 2 ** 40): Promise<JobReport> {
    using client = await clientOf(this.stage.xen, backend);
    return (await client.call("mirror", { device: this.device, image, bytesPerSecond }, JOB)).job;
  }

  /** The job once it is over. */
  async over(backend: BackendProcess): Promise<JobReport> {
    using client = await clientOf(this.stage.xen, backend);
    for (const end = performance.now() + 60_000;;) {
      const [job] = (await client.call("jobs", { device: this.device }, JOB)).jobs;
      if (job !== undefined && !isActive(job)) return job;
      if (performance.now() > end) throw new Error(`the job does not end: ${JSON.stringify(job)}; ${backend.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  params(): Promise<string> {
    return nodeValue(this.stage.xen, `${backendPath(this.stage.device)}/params`);
  }

  /** Detaches the disk; then the image is right, and nothing is left but the record of the job. */
  async finish(backend: BackendProcess, image: string): Promise<void> {
    const { stage } = this;
    await detach(stage.xen, stage.device);
    const [format, path] = [image.slice(0, image.indexOf(":")), image.slice(image.indexOf(":") + 1)];
    if (format !== "raw") await assertSound(format, path);
    await qemuImg("convert", "-f", format, "-O", "raw", path, `${stage.folder}/verified.raw`);
    assertEquals((await stage.disk.verify(`${stage.folder}/verified.raw`)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
    await Deno.remove(`${stage.xen.directory}/journals/jobs`, { recursive: true });
    await untilNothingIsLeft(stage.xen);
  }
}

nativeTest("a disk moves to another qcow2, then to a raw file, and back under a verified load", async () => {
  await using stage = await FormatStage.open("qcow2", [], { queues: 2 });
  const mirrors = new Mirrors(stage);
  const backend = stage.serve("--queues", "2");
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  const targets = [await mirrors.target("qcow2", "two.qcow2"), await mirrors.target("raw", "three.raw")];
  for (const target of targets) {
    const { id, kind, state } = await mirrors.start(backend, target);
    assertEquals([id, kind, state], [`${mirrors.device.replaceAll("/", "-")}-mirror`, "mirror", "running"]);
    const job = await mirrors.over(backend);
    assertEquals([job.state, job.error, await mirrors.params()], ["completed", undefined, target], backend.messages);
    await assertProgress(stage.disk, 200);
  }
  assertEquals(await stage.daemons(), []);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  // From raw it goes through a daemon, too.
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  await mirrors.start(backend, targets[0]!);
  const { state, error } = await mirrors.over(backend);
  assertEquals([state, error, await mirrors.params()], ["completed", undefined, targets[0]], backend.messages);
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await mirrors.finish(backend, targets[0]!);
});

nativeTest(
  "a mirror that cannot be is refused, one that is cancelled leaves the disk, and no swap comes between",
  async () => {
    await using stage = await FormatStage.open("qcow2");
    const mirrors = new Mirrors(stage);
    const backend = stage.serve();
    await stage.disk.connect();
    await stage.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(stage.disk, 200);
    const small = await mirrors.target("qcow2", "small.qcow2", "32M");
    await assertRejects(
      () => mirrors.start(backend, small),
      XenblkError,
      "it has 33554432 bytes, and the disk 67108864",
    );
    await assertRejects(() => mirrors.start(backend, `qcow2:${stage.image}`), XenblkError, "(qemu-storage-da) uses it");
    await assertProgress(stage.disk, 2000);
    const { id } = await mirrors.start(backend, await mirrors.target("qcow2", "slow.qcow2"), SLOW);
    using client = await clientOf(stage.xen, backend);
    const image = await mirrors.target("raw", "other.raw");
    const swapping = client.call("swap", { device: mirrors.device, image }, JOB);
    await assertRejects(() => swapping, XenblkError, "its mirror is running");
    await client.call("jobCancel", { id }, JOB);
    assertEquals((await mirrors.over(backend)).state, "cancelled");
    await assertProgress(stage.disk, 200);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    assertEquals(await mirrors.params(), `qcow2:${stage.image}`);
    await mirrors.finish(backend, `qcow2:${stage.image}`);
  },
);

nativeTest(
  "serve is killed while a mirror copies: the next one completes it; its daemon is: it has failed",
  async () => {
    await using stage = await FormatStage.open("qcow2");
    const mirrors = new Mirrors(stage);
    const first = stage.serve();
    await stage.disk.connect();
    await stage.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(stage.disk, 2000);
    const target = await mirrors.target("qcow2", "two.qcow2");
    await mirrors.start(first, target, SLOW);
    await stage.killDaemon();
    const failed = await mirrors.over(first);
    assertEquals([failed.state, await mirrors.params()], ["failed", `qcow2:${stage.image}`]);
    assertMatch(failed.error!, /died/);
    await first.says(/served again after/);
    await assertProgress(stage.disk, 200);
    await mirrors.start(first, target, 8 * SLOW);
    await first.stop("SIGKILL");
    const backend = stage.serve();
    await backend.says(/connected:/);
    const job = await mirrors.over(backend);
    assertEquals([job.state, job.error, await mirrors.params()], ["completed", undefined, target], backend.messages);
    await assertProgress(stage.disk, 200);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await mirrors.finish(backend, target);
  },
);

for (
  const [step, killed, state] of [
    ["held", "serve", "failed"],
    ["committed", "serve", "completed"],
    ["committed", "daemon", "completed"],
    ["held", "daemon", "failed"],
  ] as const
) {
  // One of each in the short form.
  if (!FULL && (step === "committed") === (killed === "daemon")) continue;
  const who = killed === "serve" ? "serve is" : "serve and its daemon are";
  nativeTest(`${who} killed at the switch-over, ${step}: the mirror has ${state}`, async () => {
    await using stage = await FormatStage.open("qcow2", [], { queues: 2 });
    const mirrors = new Mirrors(stage);
    const environment = ["env", `DIE_AT=${step}`, `DIE_WITH=${killed}`];
    const args = ["serve", "--queues", "2"];
    await using first = new BackendProcess(stage.xen, args, environment, 0, SWAPPING_SERVE);
    await stage.disk.connect();
    await stage.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(stage.disk, 200);
    const target = await mirrors.target("qcow2", "two.qcow2");
    await mirrors.start(first, target);
    await first.exited();
    const image = state === "completed" ? target : `qcow2:${stage.image}`;
    assertEquals(await mirrors.params(), image);
    const backend = stage.serve("--queues", "2");
    await backend.says(/connected:/);
    const job = await mirrors.over(backend);
    assertEquals(job.state, state, `${job.error}: ${backend.messages}`);
    await assertProgress(stage.disk, 200);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await mirrors.finish(backend, image);
  });
}
