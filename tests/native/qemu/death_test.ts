/**
 * Storage daemons that die or hang: noticed at once, reported with their last words, and of no consequence to others.
 */

import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { HangingFileSystem } from "../hanging_fs.ts";
import { LostForGoodError, type OrphanedDisk, type QemuRequest } from "../../../lib/storage/qemu/types.ts";
import { DaemonRig, daemonTest, qcow2Graph, runs, until } from "./rig.ts";

daemonTest("a killed daemon is noticed, and its disks know that answered writes may be lost", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  await using one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
  await using two = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728, { readOnly: true }));
  const { pid } = rig.record().process;
  Deno.writeTextFileSync(`${rig.directory}/5/stderr.log`, "its last words\n");
  Deno.kill(pid, "SIGKILL");
  const loss = await one.lost;
  assertEquals(
    loss.reason,
    `the storage daemon of domain 5 (process ${pid}) died: it was ended with SIGKILL by hand, or by the kernel for lack ` +
      "of memory (see `dmesg`): its last words",
  );
  assertEquals([loss.writesLost, (await two.lost).writesLost], [true, false]);
  await rig.log.line(/^error storage daemon of domain 5: .*its last words/);
});

daemonTest(
  "the last words of a daemon that died unseen are logged by the process that starts the next one",
  async () => {
    await using rig = new DaemonRig();
    const request = rig.request(await rig.image("one.qcow2"));
    const first = rig.daemons();
    await first.open(request);
    await rig.end(first);
    Deno.writeTextFileSync(`${rig.directory}/5/stderr.log`, "its last words\n");
    Deno.kill(rig.record().process.pid, "SIGKILL");
    await using _disk = await rig.daemons().open(request);
    await rig.log.line(/^warning storage daemon of domain 5: its last words/);
  },
);

daemonTest("a daemon that was asked to end by its signal has lost nothing", async () => {
  await using rig = new DaemonRig();
  await using disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  Deno.kill(rig.record().process.pid, "SIGTERM");
  assertEquals((await disk.lost).writesLost, false);
});

daemonTest("lost disks recover in one new daemon, each after its replay", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  await using one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
  await using two = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728));
  const { pid } = rig.record().process;
  Deno.kill(pid, "SIGKILL");
  await Promise.all([one.lost, two.lost]);
  const replayed: string[] = [];
  await Promise.all([one, two].map((disk, i) => disk.recover(() => Promise.resolve(void replayed.push(`${i}`)))));
  assertEquals(replayed.sort(), ["0", "1"]);
  const { process, disks, lost } = rig.record();
  assertEquals([Object.keys(disks).length, lost], [2, {}]);
  assertEquals([process.pid === pid, runs(process.pid)], [false, true]);
  Deno.kill(process.pid, "SIGKILL");
  assertStringIncludes((await one.lost).reason, `process ${process.pid}`);
});

daemonTest(
  "a daemon that died while nobody watched is reported to the one who opens its disk next, until it is seen to",
  async () => {
    await using rig = new DaemonRig();
    const path = await rig.image("one.qcow2");
    const first = rig.daemons();
    await first.open(rig.request(path));
    const { pid } = rig.record().process;
    await rig.end(first);
    Deno.kill(pid, "SIGKILL");
    await until("it ends", () => !runs(pid));
    const second = rig.daemons();
    // An attempt that fails for another reason must not use the news up.
    Deno.renameSync(path, `${path}.away`);
    await assertRejects(() => second.open(rig.request(path)), XenblkError, "No such file");
    Deno.renameSync(`${path}.away`, path);
    const disk = await second.open(rig.request(path));
    assertEquals(disk.lostBefore, `the storage daemon of domain 5 (process ${pid}) ended while it was not watched`);
    // Nor must the end of the process that heard it.
    await rig.end(second);
    const again = await rig.daemons().open(rig.request(path));
    assertMatch(again.lostBefore!, /ended while it was not watched/);
    // Nor must the end of an attempt that could not see to it.
    await again[Symbol.asyncDispose]();
    const last = await rig.daemons().open(rig.request(path));
    assertMatch(last.lostBefore!, /ended while it was not watched/);
    await last.closeSettled();
    assertEquals(rig.directories(), []);
    await using after = await rig.daemons().open(rig.request(path));
    assertEquals(after.lostBefore, undefined);
  },
);

daemonTest("a disk that is closed after its daemon died stays lost, until somebody has seen to it", async () => {
  await using rig = new DaemonRig();
  const path = await rig.image("one.qcow2");
  const tag = "0123456789abcdef0123456789abcdef";
  const disk = await rig.daemons().open(rig.request(path, 51712, { tag }));
  Deno.kill(rig.record().process.pid, "SIGKILL");
  await disk.lost;
  await disk[Symbol.asyncDispose]();
  const next = await rig.daemons().open(rig.request(path, 51712, { tag: "another" }));
  assertMatch(next.lostBefore!, /died: it was ended with SIGKILL/);
  assertEquals(next.tag, tag);
  await next.closeSettled();
});

daemonTest("a daemon that dies after the connection to it was lost has lost writes, too", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  await using disk = await daemons.open(rig.request(await rig.image("one.qcow2")));
  const { pid } = rig.record().process;
  rig.cut(daemons);
  assertEquals((await disk.lost).writesLost, false);
  Deno.kill(pid, "SIGKILL");
  await until("it ends", () => !runs(pid));
  let replays = 0;
  await disk.recover(() => Promise.resolve(void replays++));
  assertEquals(replays, 1);
  rig.cut(daemons);
  await disk.lost;
  await disk.recover(() => Promise.resolve(void replays++));
  assertEquals(replays, 1, "its daemon lives");
});

daemonTest("a lost disk is known by its files, however they are opened, and by no other file", async () => {
  await using rig = new DaemonRig();
  const [path, other] = [await rig.image("one.qcow2"), await rig.image("other.qcow2")];
  const tag = "0123456789abcdef0123456789abcdef";
  const first = rig.daemons();
  await first.open(rig.request(path, 51712, { tag }));
  await rig.end(first);
  const { pid } = rig.record().process;
  Deno.kill(pid, "SIGKILL");
  await until("it ends", () => !runs(pid));
  const openNext = async (request: QemuRequest): Promise<readonly [string | undefined, string | undefined]> => {
    await using disk = await rig.daemons().open({ ...request, tag: "another" });
    return [disk.lostBefore, disk.tag];
  };
  const withoutCache = { cache: "none", graph: qcow2Graph(path, "d51712", false, "none") } as const;
  assertEquals((await openNext(rig.request(path, 51712, withoutCache)))[1], tag);
  assertEquals(await openNext(rig.request(other)), [undefined, "another"]);
  // As from a backup.
  Deno.renameSync(other, path);
  const [lostBefore, newTag] = await openNext(rig.request(path));
  assertMatch(lostBefore!, /ended while it was not watched, and its image file was replaced since/);
  assertEquals(newTag, undefined);
});

daemonTest("a disk does not go on with an image file that took the place of its own", async () => {
  await using rig = new DaemonRig();
  const [path, other] = [await rig.image("one.qcow2"), await rig.image("other.qcow2")];
  const tag = "0123456789abcdef0123456789abcdef";
  await using disk = await rig.daemons().open(rig.request(path, 51712, { tag }));
  Deno.kill(rig.record().process.pid, "SIGKILL");
  await disk.lost;
  Deno.renameSync(other, path);
  const replay = (): Promise<void> => Promise.reject(new Error("it replays"));
  await assertRejects(() => disk.recover(replay), LostForGoodError, "its image file was replaced since");
});

daemonTest("a stopped daemon costs its own guest an error in time, and another guest nothing", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons({ requestMs: 2_000 });
  const one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
  const { pid } = rig.record().process;
  Deno.kill(pid, "SIGSTOP");
  const second = rig.request(await rig.image("two.qcow2"), 51728);
  const other = { guest: 6, device: "vbd3/6/51712" };
  const third = rig.request(await rig.image("three.qcow2"), 51744, { owner: other });
  const [failed, opened] = await Promise.allSettled([daemons.open(second), daemons.open(third)]);
  assertEquals(opened.status, "fulfilled");
  assertMatch(
    (failed as PromiseRejectedResult).reason.line,
    new RegExp(`^Cannot reach the storage daemon of domain 5 \\(process ${pid}\\): it has not answered .*kill -CONT`),
  );
  // What cannot be closed stays in the record; it is neither killed nor doubled.
  await one[Symbol.asyncDispose]();
  await rig.log.line(/one\.qcow2: it stays open in its daemon/);
  assertEquals(runs(pid), true);
  Deno.kill(pid, "SIGCONT");
  await using _again = await daemons.open(rig.request(`${rig.images}/one.qcow2`, 51712));
  assertEquals(rig.record().process.pid, pid);
});

daemonTest("many disks of a stopped daemon hold up the end of their process as little as one", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const disks = [];
  for (let i = 0; i < 8; i++) {
    disks.push(await daemons.open(rig.request(await rig.image(`${i}.qcow2`), 51712 + 16 * i)));
  }
  const { pid } = rig.record().process;
  Deno.kill(pid, "SIGSTOP");
  const start = performance.now();
  await Promise.all(disks.map((disk) => disk[Symbol.asyncDispose]()));
  const tookMs = performance.now() - start;
  assertEquals(tookMs < 6_000, true, `it took ${tookMs} ms`);
  assertEquals([runs(pid), Object.keys(rig.record().disks).length], [true, 8]);
});

daemonTest(
  "a stopped daemon of a guest that is gone is ended by force, and what it may have lost is known",
  async () => {
    await using rig = new DaemonRig();
    const first = rig.daemons();
    const [one, two] = [await rig.image("one.qcow2"), await rig.image("two.qcow2")];
    const request = rig.request(one, 51712, { tag: "0123456789abcdef0123456789abcdef" });
    await first.open(request);
    await first.open(rig.request(two, 51728, { readOnly: true }));
    const { pid } = rig.record().process;
    await rig.end(first);
    Deno.kill(pid, "SIGSTOP");
    const daemons = rig.daemons({ requestMs: 100 });
    const [live] = await daemons.orphans(() => true);
    assertEquals([live!.served, live!.tag, live!.request!.tag], [true, request.tag, undefined]);
    await daemons.sweep(() => true);
    assertEquals([runs(pid), rig.directories()], [false, ["5"]]);
    const [{ owner, request: again }, ...others] = await daemons.orphans(() => true) as [OrphanedDisk];
    assertEquals([again, others], [request, []]);
    assertEquals(await daemons.orphans((device) => device !== owner.device), []);
    await daemons.forget(owner);
    assertEquals([await daemons.orphans(() => true), rig.directories()], [[], []]);
  },
);

daemonTest(
  "an image with writes of a device that is gone is opened by no other device before they are in it",
  async () => {
    await using rig = new DaemonRig();
    const path = await rig.image("one.qcow2");
    const first = rig.daemons();
    await first.open(rig.request(path));
    const { pid } = rig.record().process;
    await rig.end(first);
    Deno.kill(pid, "SIGKILL");
    await until("it ends", () => !runs(pid));
    const daemons = rig.daemons();
    const [orphan] = await daemons.orphans((device) => device === "vbd3/5/51712");
    const other = rig.request(path, 51712, { owner: { guest: 6, device: "vbd3/6/51712" } });
    const error = await assertRejects(() => daemons.open(other), XenblkError);
    assertMatch(
      error.line,
      /^Cannot open image .*: what vbd3\/5\/51712, which is gone, has written to it is not there yet;/,
    );
    await using unrelated = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728));
    const disk = await daemons.open(orphan!.request!);
    assertMatch(disk.lostBefore!, /ended while it was not watched/);
    await disk.closeSettled();
    await using opened = await daemons.open(other);
    assertEquals([unrelated, opened].map(({ lostBefore }) => lostBefore), [undefined, undefined]);
    assertEquals(await daemons.orphans(() => true), []);
  },
);

daemonTest("a daemon that keeps dying is started again after longer and longer waits", async () => {
  await using rig = new DaemonRig();
  const waits: number[] = [];
  const sleep = (ms: number): Promise<void> => Promise.resolve(void waits.push(ms));
  await using disk = await rig.daemons({ clock: { now: () => 0, sleep } }).open(
    rig.request(await rig.image("one.qcow2")),
  );
  for (let round = 0; round < 3; round++) {
    Deno.kill(rig.record().process.pid, "SIGKILL");
    await disk.lost;
    await disk.recover(() => Promise.resolve());
  }
  assertEquals(waits, [100, 200, 400]);
});

daemonTest(
  "an image whose storage does not answer is refused in time, and its daemon serves the guest's other disk",
  async () => {
    await using rig = new DaemonRig();
    await using fuse = await HangingFileSystem.mount();
    const hung = await rig.image("hung.qcow2");
    Deno.copyFileSync(hung, `${fuse.backing}/hung.qcow2`);
    const daemons = rig.daemons({ requestMs: 3_000 });
    await fuse.hang("getattr");
    const opening = daemons.open(rig.request(`${fuse.path}/hung.qcow2`, 51712));
    const error = await assertRejects(() => opening, XenblkError);
    assertMatch(
      error.line,
      /^Cannot open image .*hung\.qcow2: its files cannot be given to .*: it has not ended for 3 s; check that their storage/,
    );
    await using other = await daemons.open(rig.request(await rig.image("one.qcow2"), 51728));
    await fuse.resume();
    await using again = await daemons.open(rig.request(`${fuse.path}/hung.qcow2`, 51712));
    assertEquals(Object.keys(rig.record().disks).length, 2);
    assertEquals([other, again].every(({ lostBefore }) => lostBefore === undefined), true);
  },
);
