/**
 * Jobs on disks of real storage daemons: how far they are, and that each one's end is told truthfully, whoever dies.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { JobEnd, JobOrder } from "../../../lib/jobs/job.ts";
import type { DaemonDisk } from "../../../lib/storage/qemu/types.ts";
import { command, DaemonRig, daemonTest, until } from "../qemu/rig.ts";
import { daemonOf, deviceOf, JobsRig } from "./rig.ts";

const DISK = deviceOf(51712);
const ID = "vbd3-5-51712-copy";
const SIZE = 64 << 20;

/** Two rigs, a disk that is open, and what the ends of its copies were called with. */
class Copies implements AsyncDisposable {
  readonly ends: JobEnd[] = [];
  readonly rig = new DaemonRig();
  readonly #undo = new AsyncDisposableStack();
  /** What becomes of a copy at its end. */
  end = (): Promise<string | undefined> => Promise.resolve(undefined);
  processes: JobsRig[] = [];

  constructor() {
    this.#undo.use(this.rig);
  }

  async disk(vdev = 51712, daemons = this.rig.daemons()): Promise<DaemonDisk> {
    const path = `${this.rig.images}/${vdev}.qcow2`;
    if (!await Deno.stat(path).then(() => true, () => false)) await this.rig.image(`${vdev}.qcow2`);
    return await daemons.open(this.rig.request(path, vdev));
  }

  /** A process of ours. */
  async process(...disks: (readonly [string, DaemonDisk])[]): Promise<JobsRig> {
    const kind = {
      end: async (end: JobEnd): Promise<string | undefined> => {
        this.ends.push(end);
        await end.daemon?.run((monitor) => monitor.execute("blockdev-del", { "node-name": nodeOf(end.device) }));
        return await this.end();
      },
    };
    const jobs = new JobsRig(this.rig.folder, { copy: () => Promise.resolve(kind) });
    for (const [device, disk] of disks) jobs.disks.set(device, disk);
    await jobs.open();
    this.processes.push(jobs);
    return jobs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const jobs of this.processes) await jobs[Symbol.asyncDispose]();
    await this.#undo.disposeAsync();
  }
}

function nodeOf(device: string): string {
  return `d${device.split("/")[2]}-copy-to`;
}

/** A copy of a whole disk into nothing; at least as long as that, at the speed. */
function copy(disk: DaemonDisk, device = DISK, bytesPerSecond = 0): JobOrder<string> {
  const daemon = daemonOf(disk);
  return {
    kind: "copy",
    device,
    daemon,
    target: "nothing",
    details: "a detail",
    begin: async ({ execute }, name) => {
      await execute("blockdev-add", { driver: "null-co", "node-name": nodeOf(device), size: SIZE });
      const sides = { device: daemon.top, target: nodeOf(device), sync: "full" };
      await execute("blockdev-backup", { "job-id": name, ...sides, speed: bytesPerSecond, "auto-dismiss": false });
    },
  };
}

daemonTest("a job tells how far it is, completes, and can be followed by the next one", async () => {
  await using copies = new Copies();
  await using disk = await copies.disk();
  const { jobs, told, directory } = await copies.process([DISK, disk]);
  for (let round = 0; round < 2; round++) {
    const begun = await jobs.start(copy(disk));
    assertEquals([begun.id, begun.state, begun.target], [ID, "running", "nothing"]);
    const { state, doneBytes, totalBytes, error } = await jobs.ended(ID);
    assertEquals([state, doneBytes, totalBytes, error], ["completed", SIZE, SIZE, undefined]);
  }
  assertEquals(copies.ends.map(({ details, error }) => [details, error]), [["a detail", undefined], [
    "a detail",
    undefined,
  ]]);
  assertEquals(told.filter(({ state }) => state === "completed").length, 2);
  assertEquals(await daemonOf(disk).run(({ execute }) => execute("query-jobs")), [], "they are dismissed");
  assertEquals([...Deno.readDirSync(directory)].map(({ name }) => name), [`${ID}.json`]);
});

daemonTest("a disk has one job; it is cancelled, and what cannot begin leaves nothing", async () => {
  await using copies = new Copies();
  await using disk = await copies.disk();
  const { jobs } = await copies.process([DISK, disk]);
  await jobs.start(copy(disk, DISK, 1 << 20));
  await assertRejects(() => jobs.start(copy(disk)), XenblkError, "the disk has a copy that is running");
  const { state, error, doneBytes } = await jobs.cancel(ID);
  assertEquals([state, error], ["cancelled", "Operation canceled"]);
  assertEquals(doneBytes < SIZE, true);
  await assertRejects(() => jobs.cancel(ID), XenblkError, "it has cancelled");
  await assertRejects(() => jobs.cancel("none"), XenblkError, "Cannot find job none");
  const refused = { ...copy(disk), begin: () => Promise.reject(new XenblkError("Cannot begin: a reason")) };
  await assertRejects(() => jobs.start(refused), XenblkError, "Cannot begin: a reason");
  assertEquals(copies.ends.at(-1)!.error, "Cannot begin: a reason");
  assertEquals(jobs.reports(), []);
});

daemonTest("one question to a daemon tells of the jobs of all its disks", async () => {
  await using copies = new Copies();
  const daemons = copies.rig.daemons();
  await using first = await copies.disk(51712, daemons);
  await using second = await copies.disk(51728, daemons);
  let asked = 0;
  const counted = (disk: DaemonDisk): DaemonDisk => {
    const daemon = daemonOf(disk);
    const run: typeof daemon.run = (call) =>
      daemon.run((monitor) =>
        call({
          ...monitor,
          execute: (command, ...rest) => {
            if (command === "query-jobs") asked++;
            return monitor.execute(command, ...rest);
          },
        })
      );
    return Object.defineProperty(Object.create(disk), "daemon", { value: { ...daemon, run } });
  };
  const disks = [[DISK, counted(first)], [deviceOf(51728), counted(second)]] as const;
  const process = await copies.process(...disks);
  const { jobs, told } = process;
  for (const [device, disk] of disks) await jobs.start(copy(disk, device, 1 << 20));
  const [askedBefore, looksBefore] = [asked, process.looks];
  told.length = 0;
  await until("both come further twice", () => told.length >= 4 ? true : undefined);
  assertEquals(asked - askedBefore <= process.looks - looksBefore + 1, true, `${asked} for ${process.looks} looks`);
  for (const { id } of jobs.reports()) await jobs.cancel(id);
});

daemonTest("the death of the daemon fails its job, and the disk's next daemon can have another", async () => {
  await using copies = new Copies();
  await using disk = await copies.disk();
  const { jobs } = await copies.process([DISK, disk]);
  await jobs.start(copy(disk, DISK, 1 << 20));
  const { pid } = copies.rig.record().process;
  await command("kill", "-KILL", `${pid}`);
  const { state, error } = await jobs.ended(ID);
  assertEquals(state, "failed");
  assertMatch(error!, new RegExp(`^its storage daemon \\(process ${pid}\\) died$`));
  assertEquals(copies.ends[0]!.daemon, undefined);
  await disk.recover(() => Promise.resolve());
  await jobs.start(copy(disk));
  assertEquals((await jobs.ended(ID)).state, "completed");
});

daemonTest("a disk that is closed ends its jobs, and takes away what they had added", async () => {
  await using copies = new Copies();
  const daemons = copies.rig.daemons();
  await using other = await copies.disk(51728, daemons); // its daemon goes on
  const disk = await copies.disk(51712, daemons);
  const { jobs, disks } = await copies.process([DISK, disk]);
  await jobs.start(copy(disk, DISK, 1 << 20));
  await disk[Symbol.asyncDispose]();
  disks.delete(DISK);
  const { state, error } = await jobs.ended(ID);
  assertEquals([state, error], ["cancelled", "its disk was closed"]);
  await daemonOf(other).run(async ({ execute }) => {
    assertEquals(await execute("query-jobs"), []);
    const nodes = await execute("query-named-block-nodes", { flat: true }) as { "node-name": string }[];
    assertEquals(nodes.map((node) => node["node-name"]).filter((name) => name.startsWith("d51712-")), []);
  });
});

daemonTest("after the kill of our process the next one follows the job to its end, and tells of it later", async () => {
  await using copies = new Copies();
  const first = copies.rig.daemons();
  const disk = await copies.disk(51712, first);
  const { jobs, kinds } = await copies.process([DISK, disk]);
  await jobs.start(copy(disk, DISK, 32 << 20));
  copies.processes.pop()!.kill();
  await copies.rig.end(first);
  await using again = await copies.disk();
  const second = await copies.process([DISK, again]);
  assertEquals(second.jobs.reports().map(({ id, state }) => [id, state]), [[ID, "running"]]);
  const { state, doneBytes } = await second.over(ID);
  assertEquals([state, doneBytes], ["completed", SIZE]);
  const third = new JobsRig(copies.rig.folder, kinds);
  assertEquals((await third.open()).reports().map(({ id, state }) => [id, state]), [[ID, "completed"]]);
});

daemonTest("what a killed process was making for a job is removed by the next one", async () => {
  await using copies = new Copies();
  const first = copies.rig.daemons();
  const disk = await copies.disk(51712, first);
  const { jobs } = await copies.process([DISK, disk]);
  const making = Promise.withResolvers<void>();
  const prepare = async (): Promise<void> => {
    making.resolve();
    await new Promise(() => {});
  };
  void jobs.start({ ...copy(disk), prepare });
  await making.promise;
  copies.processes.pop()!.kill();
  await copies.rig.end(first);
  await using again = await copies.disk();
  const second = await copies.process([DISK, again]);
  assertEquals((await second.over(ID)).state, "failed");
  assertEquals(copies.ends.map(({ device, details }) => [device, details]), [[DISK, "a detail"]]);
});

daemonTest("after the end of our process and of the daemon, the next process tells that the job failed", async () => {
  await using copies = new Copies();
  const first = copies.rig.daemons();
  const disk = await copies.disk(51712, first);
  const { jobs } = await copies.process([DISK, disk]);
  await jobs.start(copy(disk, DISK, 1 << 20));
  copies.processes.pop()!.kill();
  await copies.rig.end(first);
  const { pid } = copies.rig.record().process;
  await command("kill", "-KILL", `${pid}`);
  const second = await copies.process();
  const { state, error } = await second.over(ID);
  assertEquals([state, error], ["failed", `its storage daemon (process ${pid}) died`]);
  assertEquals(copies.ends.length >= 1, true);
});

daemonTest("after the kill of our process a job is over whose device is gone, though its daemon lives", async () => {
  await using copies = new Copies();
  const first = copies.rig.daemons();
  const [disk] = [await copies.disk(51712, first), await copies.disk(51728, first)];
  const { jobs, kinds } = await copies.process([DISK, disk]);
  await jobs.start(copy(disk, DISK, 1 << 20));
  copies.processes.pop()!.kill();
  await copies.rig.end(first);
  const { pid } = copies.rig.record().process;
  const second = copies.rig.daemons();
  await second.sweep((device) => device === DISK);
  const process = new JobsRig(copies.rig.folder, kinds);
  process.gone.add(DISK);
  copies.processes.push(process);
  await process.open();
  const { state, error } = await process.over(ID);
  assertEquals([state, error, copies.rig.record().process.pid], ["cancelled", "its disk was closed", pid]);
  await copies.disk(51728, second); // which ends with the rig
});

daemonTest("no job begins while its disk gets another image: it would end with the present one", async () => {
  await using copies = new Copies();
  await using disk = await copies.disk();
  const process = await copies.process([DISK, disk]);
  process.exchanging.add(DISK);
  const starting = (): Promise<unknown> => process.jobs.start(copy(disk));
  await assertRejects(starting, XenblkError, "Cannot start a copy: the disk gets another image now");
  process.exchanging.delete(DISK);
  await process.jobs.start(copy(disk));
  assertEquals((await process.jobs.ended(ID)).state, "completed");
});
