/**
 * A disk at one instant over NBD, by a real daemon, while a writer changes it: what three readers that nobody here wrote
 * see of it, and how it ends.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { orderMirror } from "../../../lib/jobs/mirror.ts";
import { DiskExport, type DiskExportOptions } from "../../../lib/storage/disk_export.ts";
import { workOn } from "../../../lib/storage/qemu/instant.ts";
import { planMerge } from "../../../lib/storage/qemu/overlay_commit.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { missingProgram } from "../harness.ts";
import { type EngineDisk, EngineRig, tick } from "./engine_rig.ts";
import { snapshotDisk } from "./overlay_rig.ts";
import { command, DaemonRig, daemonTest } from "./rig.ts";

const SIZE = 64 << 20;
const CLUSTER = 64 << 10;

/** A disk of 64 MiB whose first half holds ones. */
async function openDisk(rig: EngineRig): Promise<EngineDisk> {
  const image = `${rig.folder}/disk.qcow2`;
  await command("qemu-img", "create", "-q", "-f", "qcow2", image, `${SIZE}`);
  const disk = await rig.open(`qcow2:${image}`);
  await disk.write(0, new Uint8Array(SIZE / 2).fill(1));
  return disk;
}

function optionsOf(rig: EngineRig, more: Partial<DiskExportOptions> = {}): DiskExportOptions {
  const warn = (line: string): void => void rig.warnings.push(line);
  return { disk: "xvdb", name: "xvdb", scratchDirectory: rig.folder, scratchBytes: 128 << 20, warn, ...more };
}

/** The outcome of `work`, while a guest writes here and there; how much it has written. */
async function underWrites<T>(
  disk: EngineDisk,
  work: Promise<T>,
): Promise<{ readonly value: T; readonly writes: number }> {
  let isOver = false;
  let writes = 0;
  const done = work.finally(() => isOver = true);
  done.catch(() => {});
  for (; !isOver; await tick()) {
    const at = (writes * 37 % (SIZE / CLUSTER)) * CLUSTER;
    await disk.write(at, new Uint8Array(CLUSTER).fill(2 + writes++ % 200));
  }
  return { value: await done, writes };
}

function uriOf({ socket }: DiskExport): string {
  return `nbd+unix:///xvdb?socket=${socket}`;
}

async function nodesOf(disk: EngineDisk): Promise<string[]> {
  return await disk.disk.daemon!.run(async ({ execute }) => {
    const nodes = await execute("query-named-block-nodes", { flat: true }) as { readonly "node-name": string }[];
    return nodes.map((node) => node["node-name"]).sort();
  });
}

/** Nothing but the image, and what belongs to the daemon. */
function filesOf(rig: EngineRig): string[] {
  return [...Deno.readDirSync(rig.folder)].map(({ name }) => name).filter((name) => name.includes("export"));
}

const LIBNBD = missingProgram("nbdcopy", "libnbd-bin");

daemonTest("three readers copy the same instant while the guest goes on, and nothing stays", async () => {
  if (LIBNBD !== undefined) throw new Error(LIBNBD);
  await using rig = new EngineRig();
  await using disk = await openDisk(rig);
  const before = await nodesOf(disk);
  const instant = new Uint8Array(SIZE);
  instant.fill(1, 0, SIZE / 2);
  const opened = await underWrites(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig)));
  const view = opened.value;
  assertEquals([view.sizeBytes, (await command("nbdinfo", "--size", uriOf(view))).trim()], [SIZE, `${SIZE}`]);
  assertEquals(filesOf(rig), [], "the scratch file has no name");
  const copies = ["libnbd", "qemu", "again"].map((name) => `${rig.folder}/${name}.raw`);
  const copied = await underWrites(
    disk,
    (async () => {
      await command("nbdcopy", uriOf(view), copies[0]!);
      await command("qemu-img", "convert", "-f", "raw", "-O", "raw", uriOf(view), copies[1]!);
      await command("nbdcopy", uriOf(view), copies[2]!);
      await command("qemu-img", "compare", "-f", "raw", "-F", "raw", uriOf(view), copies[0]!);
    })(),
  );
  assert(copied.writes > 20, `${copied.writes} writes`);
  const contents = copies.map((path) => Deno.readFileSync(path));
  assertEquals([differenceOf(contents[1]!, contents[0]!), differenceOf(contents[2]!, contents[0]!)], [
    undefined,
    undefined,
  ]);
  await assertMaps(view, contents[0]!);
  assertInstant(contents[0]!, instant, opened.writes);
  await underWrites(disk, view.close({ reason: "asked to", failed: false }));
  assertEquals(await view.ended, { reason: "asked to", failed: false });
  assertEquals(await nodesOf(disk), before);
  await assertRejects(() => command("nbdinfo", "--size", uriOf(view)));
  assertEquals([filesOf(rig), rig.warnings], [[], []]);
});

/** The difference between two contents, at most one. */
function differenceOf(one: Uint8Array, other: Uint8Array): string | undefined {
  if (one.length !== other.length) return `${one.length} and ${other.length} bytes`;
  const at = one.findIndex((byte, index) => byte !== other[index]);
  return at < 0 ? undefined : `byte ${at} is ${one[at]}, not ${other[at]}`;
}

/** Some number of writes, up to that one, have happened, and no later one. */
function assertInstant(found: Uint8Array, image: Uint8Array, most: number): void {
  const differs = (): boolean => {
    for (let at = 0; at < SIZE; at += CLUSTER) if (found[at] !== image[at]) return true;
    return false;
  };
  let writes = 0;
  for (; differs() && writes < most; writes++) {
    const at = (writes * 37 % (SIZE / CLUSTER)) * CLUSTER;
    image.fill(2 + writes % 200, at, at + CLUSTER);
  }
  assertEquals(differenceOf(found, image), undefined, `after ${writes} of ${most} writes`);
}

/** Both readers of the map say where the data is, and that the rest is zeroes. */
async function assertMaps(view: DiskExport, content: Uint8Array): Promise<void> {
  const byQemu = JSON.parse(await command("qemu-img", "map", "-f", "raw", "--output=json", uriOf(view))) as Extent[];
  const byLibnbd = JSON.parse(await command("nbdinfo", "--map", "--json", uriOf(view))) as LibnbdExtent[];
  const data = byQemu.filter((extent) => extent.data).map(({ start, length }) => [start, length]);
  const allocated = byLibnbd.filter(({ type }) => (type & 1) === 0).map(({ offset, length }) => [offset, length]);
  assertEquals(merged(allocated), merged(data));
  assert(data.length > 0);
  const zeroes = byLibnbd.filter(({ type }) => (type & 2) !== 0);
  for (const { offset, length } of zeroes) {
    assert(content.subarray(offset, offset + length).every((byte) => byte === 0));
  }
}

interface Extent {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
}

interface LibnbdExtent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

function merged(extents: readonly (readonly number[])[]): number[][] {
  const all: number[][] = [];
  for (const [start = 0, length = 0] of extents) {
    const last = all.at(-1);
    if (last !== undefined && last[0]! + last[1]! === start) last[1]! += length;
    else all.push([start, length]);
  }
  return all;
}

daemonTest("a bitmap is shown as it was at the instant, by its name, and two readers of it agree", async () => {
  await using rig = new EngineRig();
  await using disk = await openDisk(rig);
  const { run, top } = disk.disk.daemon!;
  await run(({ execute }) => execute("block-dirty-bitmap-add", { node: top, name: "monday", persistent: true }));
  await disk.write(CLUSTER, new Uint8Array(CLUSTER).fill(9));
  const refused = await pumped(
    disk,
    rejection(DiskExport.open(disk.disk.daemon!, optionsOf(rig, { bitmap: "sunday" }))),
  );
  assertEquals(refused, "Cannot export xvdb with bitmap sunday: the disk has no such bitmap; name one of monday");
  const view = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig, { bitmap: "monday" })));
  await disk.write(8 * CLUSTER, new Uint8Array(CLUSTER).fill(9));
  const map = ["nbdinfo", "--map=qemu:dirty-bitmap:monday", "--json", uriOf(view)] as const;
  const dirty = (JSON.parse(await command(...map)) as LibnbdExtent[]).filter(({ type }) => type === 1);
  assertEquals(dirty.map(({ offset, length }) => [offset, length]), [[CLUSTER, CLUSTER]]);
  // With this option QEMU's NBD client shows the bitmap in place of the allocation: what is dirty as if it were not there.
  const server = { type: "unix", path: view.socket };
  const node = { driver: "nbd", server, export: "xvdb", "x-dirty-bitmap": "qemu:dirty-bitmap:monday" };
  const asked = ["qemu-img", "map", "--output=json", `json:${JSON.stringify(node)}`] as const;
  const byQemu = JSON.parse(await command(...asked)) as Extent[];
  const shown = byQemu.filter((extent) => !extent.data).map(({ start, length }) => [start, length]);
  assertEquals(shown, [[CLUSTER, CLUSTER]]);
  // What a backup program does with both: it reads what is dirty, and nothing else.
  const copy = `${rig.folder}/copy.raw`;
  await command("nbdcopy", uriOf(view), copy);
  assertEquals(
    differenceOf(Deno.readFileSync(copy).slice(CLUSTER, 2 * CLUSTER), new Uint8Array(CLUSTER).fill(9)),
    undefined,
  );
  await pumped(disk, view.close({ reason: "asked to", failed: false }));
  const bitmaps = await run(async ({ execute }) =>
    JSON.stringify(await execute("query-named-block-nodes", { flat: true }))
  );
  assertMatch(bitmaps, /"name":"monday"/, "the disk keeps its own");
});

/** Its result, while the disk's channel goes on. */
async function pumped<T>(disk: EngineDisk, work: Promise<T>): Promise<T> {
  let isOver = false;
  const done = work.finally(() => isOver = true);
  done.catch(() => {});
  for (; !isOver; await tick()) await disk.read(0, 512);
  return await done;
}

/** The line of its error. */
async function rejection(work: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => work, XenblkError)).line;
}

daemonTest(
  "while a disk is exported it is neither mirrored nor merged, which is said before anything is done",
  async () => {
    await using rig = new EngineRig();
    await using disk = await openDisk(rig);
    await pumped(disk, takeSnapshot([snapshotDisk(disk)], { snapshot: "one" }));
    const daemon = disk.disk.daemon!;
    const view = await pumped(disk, DiskExport.open(daemon, optionsOf(rig)));
    assertEquals(await daemon.run(({ execute }) => workOn(execute, daemon.prefix)), "export");
    const merge = await planMerge(snapshotDisk(disk), {});
    assertEquals(
      await rejection(daemon.run((monitor) => merge.begin(monitor))),
      "Cannot merge snapshots of xvda: the disk is exported, and the export has to see the guest's writes first; end it " +
        "(`xenblk export DOMAIN VDEV --end`), or wait for its end",
    );
    const to = `${rig.folder}/to.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", to, `${SIZE}`);
    const order = {
      rings: 1,
      checkUnused: () => Promise.resolve(),
      device: "vbd3/5/1",
      daemon,
      params: `qcow2:${to}`,
      timeoutMs: 1000,
      allowImages: [],
    };
    const { begin } = await orderMirror(order);
    assertMatch(
      await rejection(daemon.run((monitor) => begin(monitor, "job"))),
      /^Cannot mirror to .*: the disk is exported/,
    );
    await pumped(disk, view.close({ reason: "asked to", failed: false }));
    assertEquals(await daemon.run(({ execute }) => workOn(execute, daemon.prefix)), undefined);
  },
);

daemonTest("a scratch file that is full ends the export, and no write of the guest fails", async () => {
  await using rig = new EngineRig();
  await using disk = await openDisk(rig);
  const before = await nodesOf(disk);
  const view = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig, { scratchBytes: 4 << 20 })));
  const written = new Uint8Array(16 << 20).fill(5);
  await disk.write(0, written);
  const error = await assertRejects(() => command("nbdcopy", uriOf(view), `${rig.folder}/copy.raw`));
  assertMatch(`${error}`, /Invalid argument|Connection refused|No such file|Operation not permitted/);
  const reason = "its scratch file is full (its limit is 4.0 MiB), or failed";
  assertEquals(await pumped(disk, view.ended), { reason, failed: true });
  assertEquals(differenceOf(await disk.read(0, written.length), written), undefined);
  assertEquals(await nodesOf(disk), before);
});

daemonTest("a scratch file whose file system is full ends the export, and no write of the guest fails", async () => {
  await using rig = new EngineRig();
  const scratchDirectory = `${rig.folder}/small`;
  Deno.mkdirSync(scratchDirectory);
  await command("mount", "-t", "tmpfs", "-o", "size=2m", "xenblk-test", scratchDirectory);
  try {
    await using disk = await openDisk(rig);
    const view = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig, { scratchDirectory })));
    await disk.write(0, new Uint8Array(16 << 20).fill(5));
    assertEquals((await pumped(disk, view.ended)).failed, true);
    await disk.write(0, new Uint8Array(1 << 20).fill(6));
  } finally {
    await command("umount", scratchDirectory);
  }
});

daemonTest("the death of the daemon ends the export, and the disk goes on with its next daemon", async () => {
  await using rig = new EngineRig();
  await using disk = await openDisk(rig);
  const before = await nodesOf(disk);
  const view = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig)));
  const written = new Uint8Array(1 << 20).fill(5);
  await disk.write(0, written);
  await rig.killDaemon();
  await assertRejects(() => command("nbdcopy", uriOf(view), `${rig.folder}/copy.raw`));
  assertEquals(await pumped(disk, view.ended), { reason: "its storage daemon died", failed: true });
  assertEquals(differenceOf(await disk.read(0, written.length), written), undefined);
  assertEquals(await nodesOf(disk), before);
  const again = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig, { limitMs: 50 })));
  const over = { reason: "its time limit of 0.05 s is over", failed: true };
  assertEquals(await pumped(disk, again.ended), over);
  assertEquals(await nodesOf(disk), before);
});

daemonTest("an exported disk does not grow, says why, and grows afterwards", async () => {
  await using rig = new EngineRig();
  await using disk = await openDisk(rig);
  const view = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig)));
  const refused = await pumped(disk, rejection(disk.disk.grow!(2 * SIZE)));
  assertMatch(refused, /^Cannot resize image qcow2:.*; end what works on the disk first, such as an export/);
  await pumped(disk, view.close({ reason: "asked to", failed: false }));
  await pumped(disk, disk.disk.grow!(2 * SIZE));
  assertEquals(disk.disk.properties.sectors, 2 * SIZE / 512);
});

daemonTest(
  "a disk that is closed takes its export with it; what cannot be made is said, and nothing is left",
  async () => {
    await using rig = new EngineRig();
    const disk = await openDisk(rig);
    const nowhere = { scratchDirectory: `${rig.folder}/none` };
    const refused = await pumped(disk, rejection(DiskExport.open(disk.disk.daemon!, optionsOf(rig, nowhere))));
    assertMatch(refused, /^Cannot export xvdb: no scratch file can be made in .*none: .*; name another directory with/);
    const view = await pumped(disk, DiskExport.open(disk.disk.daemon!, optionsOf(rig)));
    await disk[Symbol.asyncDispose]();
    const { failed, reason } = await view.ended;
    assertEquals(failed, true);
    assertMatch(reason, /^its disk is not served any more: Cannot work on image .*: no storage daemon has it open/);
    assertEquals(filesOf(rig), []);
  },
);

daemonTest("the next process ends what a killed one has exported, and serves the disk itself", async () => {
  await using rig = new DaemonRig();
  const request = rig.request(await rig.image("one.qcow2"));
  const first = rig.daemons();
  const disk = await first.open(request);
  const options = {
    disk: "xvdb",
    name: "xvdb",
    scratchDirectory: rig.folder,
    scratchBytes: 8 << 20,
    warn: (): void => {},
  };
  const view = await DiskExport.open(disk.daemon!, options);
  const { pid } = rig.record().process;
  await rig.end(first);
  await command("nbdinfo", "--size", uriOf(view));
  await using again = await rig.daemons().open(request);
  assertEquals(rig.record().process.pid, pid, "the same daemon");
  await assertRejects(() => command("nbdinfo", "--size", uriOf(view)));
  const names = await again.daemon!.run(async ({ execute }) => {
    const mounted = Deno.readTextFileSync(`/proc/${pid}/mountinfo`);
    return `${JSON.stringify(await execute("x-debug-query-block-graph"))} ${mounted}`;
  });
  assert(!names.includes("export"), names);
  assertEquals((await view.ended).failed, true);
});

daemonTest(
  "work that sees the guest's writes already is not disturbed; what fails halfway leaves the guest its disk",
  async () => {
    await using rig = new EngineRig();
    await using disk = await openDisk(rig);
    const { run, top, prefix } = disk.disk.daemon!;
    const filter = `${prefix}backup-filter`;
    await pumped(
      disk,
      run(async ({ execute, reroute }) => {
        await reroute(async () => {
          await execute("blockdev-add", { driver: "raw", "node-name": filter, file: top });
          return filter;
        });
      }),
    );
    const before = await nodesOf(disk);
    const refused = await pumped(disk, rejection(DiskExport.open(disk.disk.daemon!, optionsOf(rig))));
    assertMatch(
      refused,
      /^Cannot export xvdb: other work on the disk, such as a backup, has to see .*; wait for its end/,
    );
    assertEquals(await nodesOf(disk), before);
    await pumped(
      disk,
      run(async ({ execute, reroute }) => {
        await reroute(async () => {
          await execute("blockdev-del", { "node-name": filter });
          return top;
        });
      }),
    );
    const taken = { driver: "null-co", "node-name": `${prefix}export-view`, "read-zeroes": true };
    await run(({ execute }) => execute("blockdev-add", taken));
    const halfway = await pumped(disk, rejection(DiskExport.open(disk.disk.daemon!, optionsOf(rig))));
    assertMatch(halfway, /^Cannot export xvdb: blockdev-add of d1-export-view: Duplicate nodes/);
    assertEquals(await nodesOf(disk), before.filter((name) => name !== filter));
    await disk.write(0, new Uint8Array(CLUSTER).fill(4));
    assertEquals(differenceOf(await disk.read(0, CLUSTER), new Uint8Array(CLUSTER).fill(4)), undefined);
  },
);
