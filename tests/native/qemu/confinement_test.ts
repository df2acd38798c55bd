/**
 * What a real storage daemon can reach: its own disks' files and QEMU's program, with one capability and no new
 * privileges; what it cannot: everything else of the host.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { type BlockGraph, graphOf } from "../../../lib/storage/qemu/graph.ts";
import type { BlockTree } from "../../../lib/storage/qemu/tree.ts";
import { command, DaemonRig, daemonTest, statusOf } from "./rig.ts";

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

daemonTest("a daemon with a user of its own has no capability, and opens what that user can", async () => {
  await using rig = new DaemonRig();
  const [own, other] = [await rig.image("own.qcow2"), await rig.image("other.qcow2")];
  for (const path of [own, other]) Deno.chmodSync(path, 0o600);
  Deno.chownSync(own, 65534, 65534);
  const daemons = rig.daemons({ user: "nobody" });
  await using _disk = await daemons.open(rig.request(own));
  const { pid } = rig.record().process;
  for (const set of ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"]) {
    assertEquals(statusOf(pid, set), "0".repeat(16), set);
  }
  assertEquals([statusOf(pid, "Uid"), statusOf(pid, "Gid")], Array(2).fill(Array(4).fill("65534").join("\t")));
  assertEquals(rig.record().rooted, true);
  const error = await assertRejects(() => daemons.open(rig.request(other, 51728)), XenblkError);
  assertMatch(error.line, /other\.qcow2.*Permission denied; let the daemon's user \(--daemon-user, else root\) read/);
  // A signal of its own: root's processes are not its.
  const as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "kill", "-0", `${Deno.pid}`] as const;
  await assertRejects(() => command(...as), Error, "Operation not permitted");
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

daemonTest(
  "a daemon cannot write to its root, where links could lead those who place files to the host's",
  async () => {
    await using rig = new DaemonRig();
    const daemons = rig.daemons();
    await using _one = await daemons.open(rig.request(await rig.image("one.qcow2"), 51712));
    const { pid } = rig.record().process;
    const link = async (): Promise<void> => {
      const inRoot = ["nsenter", "--target", `${pid}`, "--mount", "--root", "ln", "-s", "/etc", "/link"] as const;
      await assertRejects(() => command(...inRoot), Error, "Read-only file system");
    };
    await link();
    await using _two = await daemons.open(rig.request(await rig.image("two.qcow2"), 51728)); // its file is placed later
    await link();
  },
);

daemonTest("the host sees none of a daemon's mounts", async () => {
  await using rig = new DaemonRig();
  await using _disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2")));
  assertEquals(Deno.readTextFileSync("/proc/self/mountinfo").includes(rig.folder), false);
});

daemonTest("a daemon opens a block device, a backing file, and an image that belongs to another user", async () => {
  await using rig = new DaemonRig();
  const base = await rig.image("base.qcow2");
  const overlay = await rig.image("overlay.qcow2", "64M", "-b", base, "-F", "qcow2");
  Deno.chmodSync(overlay, 0o600);
  Deno.chownSync(overlay, 65534, 65534);
  const disk = `${rig.images}/disk`;
  Deno.writeFileSync(disk, new Uint8Array(1 << 20));
  const device = (await command("losetup", "--find", "--show", disk)).trim();
  await using _undo = { [Symbol.asyncDispose]: async () => void await command("losetup", "--detach", device) };
  const daemons = rig.daemons();
  const opened = async (tree: BlockTree, vdev: number): Promise<AsyncDisposable> => {
    const graph = graphOf(tree, { prefix: `d${vdev}`, label: "image", readOnly: false });
    return await daemons.open(rig.request("image", vdev, { graph }));
  };
  const file = (filename: string, driver = "file"): BlockTree => ({ driver, filename });
  await using _device = await opened({ driver: "raw", file: file(device, "host_device") }, 51712);
  const backing = { driver: "qcow2", file: file(base) };
  await using _overlay = await opened({ driver: "qcow2", file: file(overlay), backing }, 51728);
  const mounts = Deno.readTextFileSync(`/proc/${rig.record().process.pid}/mountinfo`).split("\n");
  const access = (path: string): string => mounts.find((line) => line.split(" ")[4]!.endsWith(path))!.split(" ")[5]!;
  assertMatch(access(base), /^ro/);
  assertMatch(access(overlay), /^rw/);
});
