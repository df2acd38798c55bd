/**
 * Work on a disk beside its guest's, by the storage daemon that serves it: requests in turn with opening and closing, and
 * what they meet when the daemon dies.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { DaemonMonitor } from "../../../lib/storage/disk.ts";
import { QmpError } from "../../../lib/storage/qemu/qmp.ts";
import { EngineRig } from "./engine_rig.ts";
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
    // Another file of that name is reached after the first one is gone, too.
    for (let time = 0; time < 2; time++) {
      await execute("blockdev-add", file);
      await execute("blockdev-del", { "node-name": file["node-name"] });
      Deno.removeSync(target);
      await rig.image("target.qcow2");
      await allow([{ path: target, writable: true }]);
    }
    await execute("blockdev-add", file);
    await monitor.disallow([target]);
    await execute("blockdev-del", { "node-name": file["node-name"] });
    assertEquals(Deno.statSync(`/proc/${pid}/root${target}`).size, 0, "an empty place");
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

daemonTest(
  "the guest's requests are led to another node and back while it writes, and stay where they were if that fails",
  async () => {
    await using rig = new EngineRig();
    const path = `${rig.folder}/one.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", path, "16M");
    await using disk = await rig.open(`qcow2:${path}`);
    const { top, prefix, run } = disk.disk.daemon!;
    const filter = `${prefix}filter`;
    const exported = (): Promise<unknown> =>
      run(async ({ execute }) => {
        const [only] = await execute("query-block-exports") as { "node-name": string }[];
        return only!["node-name"];
      });
    const data = (round: number): Uint8Array => new Uint8Array(1 << 20).fill(round);
    let round = 0;
    const rounds = async (whileThis: Promise<unknown>): Promise<void> => {
      let isOver = false;
      void whileThis.then(() => isOver = true, () => isOver = true);
      do await disk.write((round % 16) << 20, data(++round & 0xff)); while (!isOver);
      await whileThis;
    };
    const reroute = (change: (execute: DaemonMonitor["execute"]) => Promise<string>): Promise<void> =>
      run((monitor) => monitor.reroute(() => change(monitor.execute)));
    for (let time = 0; time < 3; time++) {
      await rounds(reroute(async (execute) => {
        await execute("blockdev-add", { driver: "raw", "node-name": filter, file: top });
        return filter;
      }));
      assertEquals(await exported(), filter);
      await rounds(reroute(async (execute) => {
        await execute("blockdev-del", { "node-name": filter });
        return top;
      }));
      assertEquals(await exported(), top);
    }
    const refused = reroute(() => Promise.reject(new XenblkError("Cannot change: a reason")));
    await assertRejects(() => rounds(refused), XenblkError, "Cannot change: a reason");
    assertEquals(await exported(), top);
    for (let last = round; last > Math.max(0, round - 16); last--) {
      assertEquals(await disk.read(((last - 1) % 16) << 20, 1 << 20), data(last & 0xff));
    }
    assertEquals(rig.warnings, []);
  },
);

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
