/**
 * What a real storage daemon can reach: its own disks' files and QEMU's program, with one capability and no new
 * privileges; what it cannot: everything else of the host.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { BlockGraph } from "../../../lib/storage/qemu/graph.ts";
import { DaemonRig, daemonTest, statusOf } from "./rig.ts";

/** CAP_DAC_OVERRIDE of linux/capability.h. */
const DAC_OVERRIDE = "0000000000000002";

daemonTest("a daemon has a session of its own, one capability, and no new privileges", async () => {
  await using rig = new DaemonRig();
  await using _disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  const { pid } = rig.record().process;
  assertEquals(rig.record().rooted, true);
  for (const set of ["CapPrm", "CapEff", "CapBnd"]) assertEquals(statusOf(pid, set), DAC_OVERRIDE, set);
  for (const set of ["CapInh", "CapAmb"]) assertEquals(statusOf(pid, set), "0".repeat(16), set);
  assertEquals(statusOf(pid, "NoNewPrivs"), "1");
  const [, , , session] = Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) /, "").split(" ");
  assertEquals(session, `${pid}`);
});

daemonTest("a daemon sees its disks' files, those of a later disk too, and no other", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const [one, two, other] = [
    await rig.image("one.qcow2"),
    await rig.image("two.qcow2"),
    await rig.image("other.qcow2"),
  ];
  await using _one = await daemons.open(rig.request(one, 51712));
  const second = await daemons.open(rig.request(two, 51728));
  const { pid } = rig.record().process;
  const root = `/proc/${pid}/root`;
  const seen = (): string[] => [...Deno.readDirSync(`${root}${rig.images}`)].map(({ name }) => name).sort();
  assertEquals(seen(), ["one.qcow2", "two.qcow2"]);
  assertEquals([...Deno.readDirSync(`${root}/etc`)].some(({ name }) => name === "shadow"), false);
  assertEquals([...Deno.readDirSync(root)].some(({ name }) => name === "proc" || name === "home"), false);
  // Its graph cannot name another file either: here as a guest's image would, by a backing file.
  const request = rig.request(other, 51744);
  const graph: BlockGraph = { ...request.graph, files: [] };
  const error = await assertRejects(() => daemons.open({ ...request, graph }), XenblkError);
  assertMatch(error.message, /Could not open '.*other\.qcow2': No such file or directory/);
  await second[Symbol.asyncDispose]();
  assertEquals(await Deno.stat(`${root}${two}`).then(({ size }) => size), 0, "the file is taken out of its root");
});

daemonTest("a daemon can read a read-only image, and its root does not let it write to it", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons();
  const path = await rig.image("one.qcow2");
  await using _disk = await daemons.open(rig.request(path, 51712, { readOnly: true }));
  const mounts = Deno.readTextFileSync(`/proc/${rig.record().process.pid}/mountinfo`).split("\n");
  assertMatch(mounts.find((line) => line.includes(path))!.split(" ")[5]!, /^ro/);
});

daemonTest("the host's own mounts are as before", async () => {
  await using rig = new DaemonRig();
  const before = Deno.readTextFileSync("/proc/self/mountinfo");
  await using _disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  assertEquals(Deno.readTextFileSync("/proc/self/mountinfo"), before);
});
