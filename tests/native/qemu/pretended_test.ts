/**
 * Daemons that misbehave in ways that the real one cannot be made to, pretended by a program.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { PROGRAM_VARIABLE } from "../../../lib/storage/qemu/program.ts";
import type { StorageDaemonsOptions } from "../../../lib/storage/qemu/daemons.ts";
import type { QemuRequest } from "../../../lib/storage/qemu/types.ts";
import { DaemonRig, daemonTest } from "./rig.ts";

/** Where the Deno that runs it is out of sight, it does not run: so it has no root of its own. */
function pretended(rig: DaemonRig, behaviour: string): Partial<StorageDaemonsOptions> {
  const script = new URL("pretended_daemon.ts", import.meta.url).pathname;
  const path = `${rig.folder}/pretended`;
  const version = `[ "$1" = --version ] && { [ -e ${Deno.execPath()} ] && echo version 9.9.9; exit; }`;
  const run = `exec ${Deno.execPath()} run -A --no-check ${script} ${behaviour} "$@"`;
  Deno.writeTextFileSync(path, `#!/bin/sh\n${version}\n${run}\n`, { mode: 0o755 });
  return { variable: (name) => name === PROGRAM_VARIABLE ? path : undefined };
}

daemonTest("a daemon that does not speak QMP is not used, and not left", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons(pretended(rig, "garbage"));
  const error = await assertRejects(() => daemons.open(rig.request(`${rig.images}/any`)), XenblkError);
  assertMatch(
    error.message,
    /^Cannot reach the storage daemon of domain 5 .* it sent something else than QMP: 220 mail ready$/,
  );
});

daemonTest("a daemon that gets no io_uring opens its images by threads, and the log says so once", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons(pretended(rig, "no-io-uring"));
  await using _one = await daemons.open(rig.request(`${rig.images}/one`, 51712));
  await using _two = await daemons.open(rig.request(`${rig.images}/two`, 51728));
  const lines = rig.log.all.filter((line) => line.includes("aio=threads"));
  assertEquals(lines.length, 1);
  assertMatch(lines[0]!, /opened with aio=threads, which is slower: Unable to use io_uring: Operation not permitted$/);
});

daemonTest(
  "where files in memory do not support O_DIRECT they are opened as others, and the log says so once",
  async () => {
    await using rig = new DaemonRig();
    const daemons = rig.daemons(pretended(rig, "no-direct"));
    const native = (path: string, vdev: number): QemuRequest => {
      const request = rig.request(path, vdev);
      const nodes = request.graph.nodes.map((node) => node.driver === "file" ? { ...node, aio: "native" } : node);
      return { ...request, graph: { ...request.graph, nodes } };
    };
    await using _one = await daemons.open(native(`${rig.images}/one`, 51712));
    await using _two = await daemons.open(native(`${rig.images}/two`, 51728));
    const lines = rig.log.all.filter((line) => line.includes("opened with"));
    assertEquals(lines.length, 1);
    assertMatch(lines[0]!, /opened with aio=io_uring, which is slower: Could not open 'x': .* O_DIRECT$/);
  },
);

daemonTest("a daemon that is slow serves its disks all the same", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons(pretended(rig, "slow"));
  await using _disk = await daemons.open(rig.request(`${rig.images}/one`));
  assertEquals(Object.keys(rig.record().disks), ["vbd3/5/51712"]);
});

daemonTest("a daemon that did not answer once, and is slow, serves the disk at the next attempt", async () => {
  await using rig = new DaemonRig();
  const daemons = rig.daemons({ ...pretended(rig, "stalls"), requestMs: 2000 });
  const request = rig.request(`${rig.images}/one`);
  const error = await assertRejects(() => daemons.open(request), XenblkError);
  assertMatch(error.message, /it has not answered blockdev-add for 2 s/);
  await using _disk = await daemons.open(request);
  assertEquals(Object.keys(rig.record().disks), ["vbd3/5/51712"]);
});
