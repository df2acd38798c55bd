/**
 * `xenblk backup` of a guest's disk under verified load, by the processes that do it on a host: what `serve` finds of it
 * after a kill, and what a detach in the middle leaves.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { JobReport } from "../../../lib/jobs/job.ts";
import { nativeTest } from "../harness.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const JOB = `vbd3-${GUEST}-51712-backup`;

function xenblk(stage: FormatStage, ...args: string[]): Promise<string> {
  return stage.xen.run(Deno.execPath(), ["run", "-A", "--no-check", CLI, ...args]);
}

async function backup(stage: FormatStage, target: string, ...options: string[]): Promise<JobReport> {
  const args = [`${GUEST}`, "xvda", `${stage.folder}/${target}`, "--json", ...options];
  return JSON.parse(await xenblk(stage, "backup", ...args));
}

/** The last backup, once `wanted` is true of it. */
async function job(stage: FormatStage, wanted: (job: JobReport) => boolean): Promise<JobReport> {
  for (const end = performance.now() + 30_000;;) {
    const text = await xenblk(stage, "list", "--jobs", "--json");
    const found: JobReport | undefined = JSON.parse(text)[0];
    if (found !== undefined && wanted(found)) return found;
    if (performance.now() > end) throw new Error(`the job is not as expected: ${text}`);
  }
}

nativeTest("backups of a loaded disk outlive the kill of serve, can be cancelled, and end with a detach", async () => {
  await using stage = await FormatStage.open("qcow2");
  const first = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  assertEquals((await backup(stage, "full.qcow2")).state, "completed");
  const slow = ["--incremental", "--background", "--rate"];
  assertEquals((await backup(stage, "next.qcow2", ...slow, "8M")).note, `based on ${stage.folder}/full.qcow2`);
  await first.stop("SIGKILL");
  const second = stage.serve();
  await second.says(/connected:/);
  assertEquals((await job(stage, ({ state }) => state !== "running")).state, "completed");
  assertMatch(await xenblk(stage, "backup", "verify", `${stage.folder}/next.qcow2`), /incremental .*\n.* full /);
  await backup(stage, "never.qcow2", ...slow, "4K");
  await xenblk(stage, "job", "cancel", JOB);
  const { state, error } = await job(stage, () => true);
  assertEquals([state, error], ["cancelled", "Operation canceled"]);
  await assertRejects(() => xenblk(stage, "job", "wait", JOB), Error, "Operation canceled");
  await backup(stage, "never.qcow2", ...slow, "4K");
  await assertProgress(stage.disk, 100);
  assertClean(received(await stage.disk.stopLoad()), second.messages);
  await stage.finish(second);
  assertMatch(second.messages, /backup to .*never\.qcow2 cancelled: its disk was closed/);
  const left = [...Deno.readDirSync(stage.folder)].map(({ name }) => name);
  assertEquals(left.filter((name) => /never|partial|scratch/.test(name)), []);
});
