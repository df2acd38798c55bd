/**
 * The life of real storage daemons: shared by a guest's disks, ended with the last one, found again by the next process,
 * never doubled, and swept when their guest is gone.
 */

import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { PROGRAM_VARIABLE } from "../../../lib/storage/qemu/program.ts";
import { surveyDaemons } from "../../../lib/storage/qemu/survey.ts";
import { command, DaemonRig, daemonTest, runs, until } from "./rig.ts";

daemonTest("the disks of a guest share a daemon, which ends with the last of them", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
  const two = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728));
  const { process: { pid }, disks } = rig.record();
  assertEquals(Object.keys(disks), ["vbd3/5/51712", "vbd3/5/51728"]);
  assertStringIncludes(await command("cat", `/proc/${pid}/cmdline`), `${rig.directory}/5/`);
  assertMatch(one.description, /^qcow2:.*one\.qcow2 \(1\.0 MiB, engine qemu \d.*, process \d+, cache writeback\)$/);
  await one[Symbol.asyncDispose]();
  assertEquals([runs(pid), Object.keys(rig.record().disks)], [true, ["vbd3/5/51728"]]);
  await two[Symbol.asyncDispose]();
  assertEquals([runs(pid), rig.directories()], [false, []]);
});

daemonTest("a daemon can run before it has a disk; without one it ends when nobody keeps it", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const owner = { guest: 5, device: "vbd3/5/51712" };
  const path = await rig.image("one.qcow2");
  const kept = await daemons.prepare(owner, [{ path, writable: true }]);
  const { process: { pid }, disks } = rig.record();
  assertEquals(disks, {});
  const also = await daemons.prepare(owner, []);
  const mounts = (): string[] => Deno.readTextFileSync(`/proc/${pid}/mountinfo`).split("\n").filter(isFile);
  const isFile = (line: string): boolean => line.includes("/one.qcow2 ");
  const before = mounts();
  const disk = await daemons.open(rig.request(path, 51712));
  assertEquals([rig.record().process.pid, mounts()], [pid, before], "its file is there already");
  await kept[Symbol.asyncDispose]();
  assertEquals(mounts(), before, "it belongs to the disk");
  await disk[Symbol.asyncDispose]();
  assertEquals([runs(pid), mounts()], [true, before], "it is taken later");
  const other = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728));
  await also[Symbol.asyncDispose]();
  assertEquals([runs(pid), mounts()], [true, []]);
  await other[Symbol.asyncDispose]();
  assertEquals([runs(pid), rig.directories()], [false, []]);
  await rig.end(daemons);
  await assertRejects(() => daemons.prepare(owner, []), XenblkError, "this process ends");
});

daemonTest("an opening that is given up leaves what its device has been opened with meanwhile", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const [wanted, late] = [await rig.image("one.qcow2"), await rig.image("two.qcow2")];
  const givenUp = new AbortController();
  const { signal } = givenUp;
  // Given up before its turn, then while it is carried out; the device goes back to its image at once.
  const before = daemons.open(rig.request(wanted));
  const one = daemons.open({ ...rig.request(late), signal: AbortSignal.abort(new Error("too late")) });
  await assertRejects(() => one, Error, "too late");
  const served = await before;
  assertEquals([runs(rig.record().process.pid), Object.keys(rig.record().disks)], [true, ["vbd3/5/51712"]]);
  await served[Symbol.asyncDispose]();
  const other = daemons.open({ ...rig.request(late), signal });
  const disk = daemons.open(rig.request(wanted));
  givenUp.abort(new Error("given up"));
  await assertRejects(() => other, Error, "given up");
  await using opened = await disk;
  assertEquals(Object.keys(rig.record().disks), ["vbd3/5/51712"]);
  assertMatch(opened.description, /one\.qcow2/);
  assertEquals(runs(rig.record().process.pid), true);
});

daemonTest("with a daemon per disk, and for another guest, there is another one", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons({ perDisk: true });
  await using _one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
  await using _two = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728));
  const other = { guest: 6, device: "vbd3/6/51712" };
  await using _three = await rig.daemons().open(rig.request(await rig.image("three.qcow2"), 51744, { owner: other }));
  assertEquals(rig.directories(), ["5.vbd3-5-51712", "5.vbd3-5-51728", "6"]);
});

daemonTest("the next process finds a daemon again and opens nothing anew", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  const first = rig.daemons();
  await first.open(rig.request(path));
  const { process } = rig.record();
  await rig.end(first);
  // What a daemon has opened stays what it was, although the path names nothing now.
  Deno.renameSync(path, `${path}.moved`);
  const disk = await rig.daemons().open(rig.request(path));
  assertEquals(rig.record().process, process);
  await rig.log.line(/one\.qcow2: it was removed or replaced/);
  await disk[Symbol.asyncDispose]();
  assertEquals([runs(process.pid), rig.directories()], [false, []]);
});

daemonTest("an image that opens while its process ends is closed, and its daemon ended", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const [one, two] = [await rig.image("one.qcow2"), await rig.image("two.qcow2")];
  const opening = assertRejects(() => daemons.open(rig.request(one, 51712)), XenblkError, "this process ends");
  const waiting = assertRejects(() => daemons.open(rig.request(two, 51728)), XenblkError, "this process ends");
  await rig.log.line(/started QEMU/);
  await rig.end(daemons);
  await Promise.all([opening, waiting]);
  assertEquals(rig.directories(), []);
  await command("qemu-img", "check", "-q", one);
});

daemonTest("a disk that is to be opened differently is opened anew, in the daemon that was found", async () => {
  await using rig = new DaemonRig();
  const [one, two] = [await rig.image("one.qcow2"), await rig.image("two.qcow2")];
  const first = rig.daemons();
  await first.open(rig.request(one));
  const { process } = rig.record();
  await rig.end(first);
  await using _disk = await rig.daemons().open(rig.request(two));
  assertEquals(rig.record().process, process);
  assertEquals(rig.record().disks["vbd3/5/51712"]!.name, `image qcow2:${two}`);
  // The first image is released.
  await command("qemu-img", "check", "-q", one);
});

daemonTest("a daemon of an earlier guest with the same domid is ended, not taken", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  const first = rig.daemons();
  await first.open(rig.request(path));
  const { process } = rig.record();
  await rig.end(first);
  const owner = { guest: 5, uuid: "99999999-2222-3333-4444-555555555555", device: "vbd3/5/51712" };
  await using _disk = await rig.daemons().open(rig.request(path, 51712, { owner }));
  assertEquals(runs(process.pid), false);
  assertEquals(runs(rig.record().process.pid), true);
  await rig.log.line(/belongs to an earlier guest with this domid/);
});

daemonTest("two processes at the same time never open one guest's disk twice", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  const outcomes = await Promise.allSettled([1, 2, 3].map(() => rig.daemons().open(rig.request(path))));
  assertEquals(outcomes.filter(({ status }) => status === "fulfilled").length, 1);
  for (const outcome of outcomes) {
    if (outcome.status === "fulfilled") continue;
    assertMatch(
      outcome.reason.line,
      /another process of xenblk has it; end that process|Failed to get "write" lock; end the other/,
    );
  }
});

daemonTest("beside a process that has the guest's daemon, another one has its own", async () => {
  await using rig = new DaemonRig();
  await using _one = await rig.daemons().open(rig.request(await rig.image("one.qcow2"), 51712));
  await using _two = await rig.daemons().open(rig.request(await rig.image("two.qcow2"), 51728));
  assertEquals(rig.directories(), ["5", "5.vbd3-5-51728"]);
});

daemonTest("a daemon of a guest that is gone is swept, and others are not", async () => {
  await using rig = new DaemonRig();
  const first = rig.daemons();
  await first.open(rig.request(await rig.image("one.qcow2"), 51712));
  const other = { guest: 6, device: "vbd3/6/51712" };
  await first.open(rig.request(await rig.image("two.qcow2"), 51712, { owner: other }));
  const [gone, alive] = [rig.record("5").process.pid, rig.record("6").process.pid];
  // While a process has them, nothing is swept.
  assertEquals(await rig.daemons().sweep(() => true), []);
  await rig.end(first);
  const swept = await rig.daemons().sweep((device) => device.startsWith("vbd3/5/"));
  assertEquals(swept, [`domain 5: vbd3/5/51712 of its storage daemon: ended process ${gone}`]);
  assertEquals([runs(gone), runs(alive), rig.directories()], [false, true, ["6"]]);
});

daemonTest("of a guest that lost one device, the sweep closes that one alone", async () => {
  await using rig = new DaemonRig();
  const first = rig.daemons();
  const one = await rig.image("one.qcow2");
  await first.open(rig.request(one, 51712));
  await first.open(rig.request(await rig.image("two.qcow2"), 51728));
  await rig.end(first);
  await rig.daemons().sweep((device) => device.endsWith("51712"));
  assertEquals(Object.keys(rig.record().disks), ["vbd3/5/51728"]);
  await command("qemu-img", "check", "-q", one);
});

daemonTest("a daemon whose starter died before it wrote a record is ended", async () => {
  await using rig = new DaemonRig();
  const first = rig.daemons();
  await first.open(rig.request(await rig.image("one.qcow2")));
  const { pid } = rig.record().process;
  await rig.end(first);
  Deno.removeSync(`${rig.directory}/5/record.json`);
  await using _disk = await rig.daemons().open(rig.request(`${rig.images}/one.qcow2`));
  assertEquals(runs(pid), false);
  assertEquals(runs(rig.record().process.pid), true);
});

daemonTest(
  "a daemon that took the place of a dead one, and whose starter died before it wrote a record, is ended",
  async () => {
    await using rig = new DaemonRig();
    const first = rig.daemons();
    await first.open(rig.request(await rig.image("one.qcow2")));
    const { process } = rig.record();
    await rig.end(first);
    const dead = { ...rig.record(), process: { ...process, startTime: `${process.startTime}0` } };
    Deno.writeTextFileSync(`${rig.directory}/5/record.json`, JSON.stringify(dead));
    const disk = await rig.daemons().open(rig.request(`${rig.images}/one.qcow2`));
    assertEquals([runs(process.pid), disk.lostBefore !== undefined], [false, true]);
    await disk.closeSettled();
  },
);

daemonTest("a process with the number of a recorded daemon is not touched", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  const first = rig.daemons();
  await first.open(rig.request(path));
  const record = rig.record();
  await rig.end(first);
  Deno.kill(record.process.pid, "SIGTERM");
  await until("the daemon ends", () => !runs(record.process.pid));
  await using bystander = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const reused = { ...record, process: { ...record.process, pid: bystander.pid } };
  Deno.writeTextFileSync(`${rig.directory}/5/record.json`, JSON.stringify(reused));
  const next = rig.daemons();
  await using disk = await next.open(rig.request(path));
  assertEquals(runs(bystander.pid), true);
  // That daemon ended unseen: nobody knows what the guest had not flushed.
  assertStringIncludes(disk.lostBefore!, "ended while it was not watched");
});

daemonTest("an image in use elsewhere, or not there, is an error with a remedy, and leaves no daemon", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  await using _held = await rig.daemons().open(rig.request(path, 51712));
  const daemons = rig.daemons();
  const locked = await assertRejects(() => daemons.open(rig.request(path, 51728)), XenblkError);
  assertMatch(
    locked.line,
    /^Cannot open image qcow2:.*one\.qcow2: node d51728-[01]-[a-z0-9]+: .*lock.*; end the other use first/,
  );
  const missing = await assertRejects(() => daemons.open(rig.request(`${rig.images}/none.qcow2`, 51728)), XenblkError);
  assertMatch(
    missing.line,
    /^Cannot open image .*none\.qcow2: node d51728-1-file: Could not open .*No such file.*; check the path/,
  );
  assertEquals(rig.directories(), ["5"]);
});

daemonTest(
  "a survey tells a daemon that runs from one whose program was replaced, and from one that died",
  async () => {
    await using rig = new DaemonRig();
    const program = `${rig.folder}/bin/qemu-storage-daemon`;
    Deno.mkdirSync(`${rig.folder}/bin`);
    Deno.copyFileSync("/usr/bin/qemu-storage-daemon", program);
    Deno.chmodSync(program, 0o755);
    const daemons = rig.daemons({ variable: (name) => name === PROGRAM_VARIABLE ? program : undefined });
    await using disk = await daemons.open(rig.request(await rig.image("one.qcow2")));
    const { pid } = rig.record().process;
    const seen = async (): Promise<unknown[]> =>
      (await surveyDaemons(rig.directory)).map((
        { guest, pid, alive, upgraded, disks },
      ) => [guest, pid, alive, upgraded, disks]);
    assertEquals(await seen(), [[5, pid, true, false, ["vbd3/5/51712"]]]);
    Deno.removeSync(program);
    assertEquals(await seen(), [[5, pid, true, true, ["vbd3/5/51712"]]]);
    Deno.kill(pid, "SIGKILL");
    await disk.lost;
    assertEquals(await seen(), [[5, pid, false, false, ["vbd3/5/51712"]]]);
  },
);

daemonTest("a disk grows in its daemon, which goes on with its image open, and its loss is still noticed", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2", "64M");
  await using disk = await rig.daemons().open(rig.request(path));
  const { pid } = rig.record().process;
  await disk.grow!(96 << 20);
  await disk.grow!(128 << 20); // with QEMU 7.2 a second one can hang
  assertEquals(JSON.parse(await command("qemu-img", "info", "-U", "--output=json", path))["virtual-size"], 128 << 20);
  assertEquals(rig.record().process.pid, pid);
  const shrunk = await assertRejects(() => disk.grow!(64 << 20), XenblkError);
  assertMatch(shrunk.line, /^Cannot shrink image qcow2:.* from 128\.0 MiB to 64\.0 MiB under its guest; name a larger/);
  const error = await assertRejects(() => disk.grow!((128 << 20) + 1000), XenblkError);
  assertMatch(error.line, /^Cannot resize image .*: node d51712-0-qcow2: .* multiple of 512; name a size that is/);
  Deno.kill(pid, "SIGKILL");
  assertStringIncludes((await disk.lost).reason, `(process ${pid}) died`);
});

daemonTest("a full run directory refuses a disk, and costs the others nothing", async () => {
  await using rig = new DaemonRig();
  const filler = await rig.limitRun("64k");
  const daemons = rig.daemons();
  await using _one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
  const two = rig.request(await rig.image("two.qcow2"), 51728);
  await assertRejects(() => Deno.writeFile(filler, new Uint8Array(1 << 20)));
  const error = await assertRejects(() => daemons.open(two), XenblkError);
  assertMatch(
    error.line,
    /^Cannot keep the storage daemon's files in .*run\/daemons\/5: No space left.*; free space there/,
  );
  assertEquals(Object.keys(rig.record().disks), ["vbd3/5/51712"]);
  Deno.removeSync(filler);
  await using _two = await daemons.open(two);
  assertEquals(Object.keys(rig.record().disks).length, 2);
});

daemonTest("a daemon whose socket was removed is reported, not doubled", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  const first = rig.daemons();
  await first.open(rig.request(path));
  const { pid } = rig.record().process;
  await rig.end(first);
  Deno.renameSync(`${rig.directory}/5/io/qmp`, `${rig.directory}/5/io/away`);
  const second = rig.daemons();
  const error = await assertRejects(() => second.open(rig.request(path)), XenblkError);
  assertMatch(
    error.line,
    new RegExp(`^Cannot reach .*\\(process ${pid}\\): its socket .*/io/qmp: No such file.*; find out`),
  );
  assertEquals([runs(pid), rig.record().process.pid], [true, pid]);
  Deno.renameSync(`${rig.directory}/5/io/away`, `${rig.directory}/5/io/qmp`);
  await using _disk = await second.open(rig.request(path));
});

daemonTest("a disk that its daemon does not close, because it hangs, is closed once it answers", async () => {
  await using rig = new DaemonRig();
  const disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  const { pid } = rig.record().process;
  Deno.kill(pid, "SIGSTOP");
  await disk[Symbol.asyncDispose]();
  await rig.log.line(/one\.qcow2: it stays open in its daemon until that answers: .*has not answered query-version/);
  assertEquals(rig.directories(), ["5"]);
  Deno.kill(pid, "SIGCONT");
  await rig.log.line(/info vbd3\/5\/51712: closed in its storage daemon, which answers again/);
  assertEquals([runs(pid), rig.directories()], [false, []]);
});
