/**
 * Work on a disk beside its guest's, by the storage daemon that serves it: requests in turn with opening and closing, and
 * what they meet when the daemon dies.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { QmpError } from "../../../lib/storage/qemu/qmp.ts";
import { command, DaemonRig, daemonTest } from "./rig.ts";

daemonTest("the daemon of an open disk carries out requests, and reaches files that it is allowed", async () => {
  await using rig = new DaemonRig();
  await using disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  const target = await rig.image("target.qcow2");
  const { top, prefix, run } = disk.daemon!;
  assertEquals(top.startsWith(prefix), true);
  const { pid } = rig.record().process;
  const file = { driver: "file", "node-name": `${prefix}target`, filename: target };
  await run(async ({ name, version, execute, allow, ...monitor }) => {
    assertEquals(monitor.pid, pid);
    assertMatch(name, new RegExp(`^the storage daemon of domain 5 \\(process ${pid}\\)$`));
    assertMatch(version, /^\d+\./);
    await allow([{ path: target, writable: true }]);
    await execute("blockdev-add", file);
    await execute("blockdev-del", { "node-name": file["node-name"] });
    await assertRejects(() => execute("blockdev-del", { "node-name": "none" }), QmpError);
  });
});

daemonTest("a disk is not closed while requests are carried out; without a daemon they are refused", async () => {
  await using rig = new DaemonRig();
  const disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  const order: string[] = [];
  const { run } = disk.daemon!;
  const gate = Promise.withResolvers<void>();
  const work = run(async ({ execute }) => {
    await gate.promise;
    await execute("query-version");
    order.push("worked");
  });
  const closed = disk[Symbol.asyncDispose]().then(() => order.push("closed"));
  gate.resolve();
  await Promise.all([work, closed]);
  assertEquals(order, ["worked", "closed"]);
  await assertRejects(() => run(() => Promise.resolve()), XenblkError, "no storage daemon has it open at present");
});

daemonTest("after the death of a daemon requests fail, and go to the next daemon once it has the disk", async () => {
  await using rig = new DaemonRig();
  await using disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  const { pid } = rig.record().process;
  const pidOf = (): Promise<number> =>
    disk.daemon!.run(async ({ execute, pid }) => {
      await execute("query-version");
      return pid;
    });
  await command("kill", "-KILL", `${pid}`);
  await disk.lost;
  await assertRejects(pidOf, XenblkError);
  await disk.recover(() => Promise.resolve());
  assertEquals(await pidOf(), rig.record().process.pid);
});
