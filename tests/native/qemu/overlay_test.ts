/**
 * Snapshots of disks that a storage daemon serves, under a writer: what the base and the overlay hold, what a process or
 * a daemon that dies at any step leaves, and what an overlay without room does to the guest.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { endJob } from "../../../lib/backup/steps.ts";
import { XenblkError } from "../../../lib/errors.ts";
import type { ChainDaemon, DaemonMonitor } from "../../../lib/storage/disk.ts";
import { activeImage } from "../../../lib/storage/image/overlay_note.ts";
import { planMerge } from "../../../lib/storage/qemu/overlay_commit.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { planReversal } from "../../../lib/storage/qemu/overlay_revert.ts";
import { EngineRig } from "./engine_rig.ts";
import {
  casesOf,
  type DeathCase,
  faultsOn,
  merge,
  removeAgain,
  snapshotDisk,
  workUntil,
  Writer,
} from "./overlay_rig.ts";
import { command, daemonTest } from "./rig.ts";

/** A new image in the rig's folder. */
async function newImage(rig: EngineRig, name = "web.qcow2", format = "qcow2"): Promise<string> {
  const path = `${rig.folder}/${name}`;
  await command("qemu-img", "create", "-q", "-f", format, path, "64M");
  return path;
}

/** A daemon that was killed may leave clusters that nothing refers to. */
async function checkImage(path: string): Promise<void> {
  const { code, stdout } = await new Deno.Command("qemu-img", { args: ["check", path], stderr: "null" }).output();
  const [clean, leaks] = [0, 3];
  assert(code === clean || code === leaks, `${path}: ${new TextDecoder().decode(stdout)}`);
}

/** The image that has the disk's writes, checked with all images below it. */
async function checkChain(base: string): Promise<string> {
  const { target } = await activeImage({ format: "qcow2", target: base }, true);
  const chain = JSON.parse(await command("qemu-img", "info", "--backing-chain", "--output=json", target));
  for (const { filename, format } of chain) if (format === "qcow2") await checkImage(filename);
  return target;
}

daemonTest("a snapshot holds one instant, and is merged while the guest writes; nothing is lost", async () => {
  await using rig = new EngineRig();
  const base = await newImage(rig);
  let atSnapshot = 0;
  {
    await using disk = await rig.open(`qcow2:${base}`);
    await using writer = new Writer(disk);
    writer.start();
    await writer.more(100);
    const { disks } = await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
    assertEquals(disks, [{ base, image: `qcow2:${rig.folder}/web.one.qcow2`, count: 1 }]);
    assertEquals(disk.disk.named, disks[0]!.image);
    await writer.more(300);
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" });
    await writer.more(300);
    const done = await merge(disk, { snapshot: "one" });
    assertEquals(done.image, `qcow2:${base}`);
    assertEquals(done.removed, ["two", "one"].map((name) => `${rig.folder}/web.${name}.qcow2`));
    await writer.more(100);
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" }); // its name is free again
    await writer.stop();
    atSnapshot = writer.count;
    assertEquals(await faultsOn(disk, atSnapshot), []);
  }
  assertEquals(await checkChain(base), `${rig.folder}/web.two.qcow2`);
  await using disk = await rig.open(`qcow2:${base}`, {}, 1);
  assertEquals(await faultsOn(disk, atSnapshot), []);
});

daemonTest("a merge that was ended leaves the disk, and no snapshot that shows a part of it", async () => {
  await using rig = new EngineRig();
  const base = await newImage(rig);
  await using disk = await rig.open(`qcow2:${base}`);
  await disk.write(0, new Uint8Array(16 << 20).fill(1));
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
  await disk.write(0, new Uint8Array(16 << 20).fill(2));
  const stop = new AbortController();
  const onProgress = (done: number): void => {
    if (done > 0) stop.abort(new Error("enough"));
  };
  await assertRejects(() => merge(disk, { bytesPerSecond: 4 << 20, signal: stop.signal, onProgress }), Error, "enough");
  assertEquals(await disk.read(0, 4096), new Uint8Array(4096).fill(2));
  const planned = (): Promise<unknown> => planReversal(base, "one");
  await assertRejects(planned, XenblkError, "merged in part");
  await assertRejects(() => activeImage({ format: "qcow2", target: base }, false), XenblkError, "merged in part");
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" });
  assertEquals((await planReversal(base, "two")).base, `${rig.folder}/web.one.qcow2`);
  await merge(disk, { snapshot: "one" });
  assertEquals(await activeImage({ format: "qcow2", target: base }, false), { format: "qcow2", target: base });
});

daemonTest("a backup that ends just after a snapshot leads the guest to the overlay", async () => {
  await using rig = new EngineRig();
  await using disk = await rig.open(`qcow2:${await newImage(rig)}`);
  const { daemon } = snapshotDisk(disk);
  const { prefix, top } = daemon;
  const [scratch, filter] = [`${prefix}b-old`, `${prefix}backup-filter`];
  await using writer = new Writer(disk);
  writer.start();
  await daemon.run(async ({ execute, reroute }) => {
    await execute("blockdev-add", { driver: "null-co", "node-name": scratch, size: 64 << 20 });
    await reroute(async () => {
      await execute("blockdev-add", { driver: "copy-before-write", "node-name": filter, file: top, target: scratch });
      return filter;
    });
  });
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
  await daemon.run((monitor) => endJob(monitor, daemon, { nodes: [scratch], objects: [] }));
  const [exported] = await daemon.run(({ execute }) => execute("query-block-exports")) as { "node-name": string }[];
  assertEquals(exported!["node-name"], snapshotDisk(disk).daemon.top);
  await writer.more(100);
  await writer.stop();
  const lost = rig.warnings.filter((line) => line.includes("its requests wait"));
  assertEquals([lost, await faultsOn(disk, writer.count)], [[], []]);
});

daemonTest("of two snapshots at once one is refused, and nothing that is written later is lost", async () => {
  await using rig = new EngineRig();
  const base = await newImage(rig);
  let written = 0;
  {
    await using disk = await rig.open(`qcow2:${base}`);
    await using writer = new Writer(disk);
    writer.start();
    await writer.more(100);
    const second = (): Promise<unknown> => takeSnapshot([snapshotDisk(disk)], { snapshot: "two" });
    // Until the note is written, the overlay is one that a killed process could have left.
    const at = async (step: string): Promise<void> => {
      if (step === "note") await assertRejects(second, XenblkError, "another one is being taken");
    };
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "one", at });
    const path = `${rig.folder}/web.two.qcow2`;
    const mounts = Deno.readTextFileSync(`/proc/${rig.daemon}/mountinfo`);
    assertEquals([mounts.includes(base), mounts.includes(path)], [true, false], "what the daemon can reach");
    await writer.more(100);
    await writer.stop();
    written = writer.count;
  }
  const overlays = [...Deno.readDirSync(rig.folder)].filter(({ name }) => /^web\..*\.qcow2$/.test(name));
  assertEquals(overlays.length, 1, "that of the refused one is gone");
  await using disk = await rig.open(`qcow2:${base}`, {}, 1);
  assertEquals(await faultsOn(disk, written), []);
});

daemonTest(
  "the daemon dies after it has switched a merge over, before it says so: the image below is the disk",
  async () => {
    await using rig = new EngineRig();
    const base = await newImage(rig);
    let written = 0;
    {
      await using disk = await rig.open(`qcow2:${base}`);
      await using writer = new Writer(disk);
      writer.start();
      await writer.more(100);
      await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
      await writer.more(100);
      const { daemon } = snapshotDisk(disk);
      /** The answer is lost; what the guest writes after the switch is in the image below alone. */
      const dying = async (monitor: DaemonMonitor): Promise<unknown> => {
        const jobs = (): Promise<unknown> => monitor.execute("query-jobs");
        while (!JSON.stringify(await jobs()).includes("concluded")) await new Promise((done) => setTimeout(done, 1));
        await writer.more(20);
        await rig.killDaemon();
        return await jobs();
      };
      const run: ChainDaemon["run"] = (call) =>
        daemon.run((monitor) =>
          call({
            ...monitor,
            execute: async (command, ...rest) => {
              const answer = await monitor.execute(command, ...rest);
              return command === "job-finalize" ? await dying(monitor) : answer;
            },
          })
        );
      const merge = await planMerge({ daemon: { ...daemon, run }, name: "xvda" }, {});
      await run((monitor) => merge.begin(monitor));
      await assertRejects(() => merge.follow(), XenblkError, "Cannot reach the storage daemon");
      await writer.more(100);
      await writer.stop();
      written = writer.count;
      assertEquals(await faultsOn(disk, written), []);
    }
    assertEquals(await checkChain(base), base);
    await using disk = await rig.open(`qcow2:${base}`, {}, 1);
    assertEquals(await faultsOn(disk, written), []);
  },
);

daemonTest("what was prepared for a disk is refused once its device has another image", async () => {
  await using rig = new EngineRig();
  await using _other = await rig.open(`qcow2:${await newImage(rig, "other.qcow2")}`); // keeps the daemon
  const [before, after] = [await newImage(rig), await newImage(rig, "next.qcow2")];
  let daemon: ChainDaemon;
  {
    await using disk = await rig.open(`qcow2:${before}`, {}, 7);
    daemon = snapshotDisk(disk).daemon;
  }
  await using disk = await rig.open(`qcow2:${after}`, {}, 7);
  assertEquals(disk.disk.daemon!.top, daemon.top, "the nodes' names are the same");
  await assertRejects(
    () => takeSnapshot([{ daemon, name: "xvda" }], { snapshot: "late" }),
    XenblkError,
    "its device has another image",
  );
  assertEquals(disk.disk.named, undefined);
});

daemonTest(
  "two disks at one instant: no write is in the one that came after a write which the other lacks",
  async () => {
    await using rig = new EngineRig();
    const bases = [await newImage(rig, "a.qcow2"), await newImage(rig, "b.img", "raw")];
    const [one, other] = [await rig.open(`qcow2:${bases[0]}`), await rig.open(bases[1]!, { engine: "qemu" })];
    let ends = false;
    let count = 0;
    const counting = (async () => {
      for (; !ends; count++) await (count % 2 === 0 ? one : other).write(0, numbered(count));
    })();
    const reached = async (wanted: number): Promise<void> => {
      while (count < wanted) await new Promise((done) => setTimeout(done, 1));
    };
    for (const snapshot of ["first", "second", "third"]) {
      await reached(count + 50);
      await takeSnapshot([one, other].map(snapshotDisk), { snapshot });
    }
    ends = true;
    await counting;
    for (const disk of [one, other]) await disk[Symbol.asyncDispose]();
    for (
      const name of [["a.qcow2", "b.img"], ["a.first.qcow2", "b.first.qcow2"], ["a.second.qcow2", "b.second.qcow2"]]
    ) {
      const [first, second] = await Promise.all(name.map((file) => numberIn(`${rig.folder}/${file}`)));
      assert(Math.abs(first! - second!) === 1, `${name}: ${first} and ${second}`);
    }
  },
);

daemonTest(
  "an overlay without room fails the guest's writes as a full disk does, and what was answered is there",
  async () => {
    const mount = Deno.makeTempDirSync({ prefix: "xenblk-full-" });
    await command("mount", "-t", "tmpfs", "-o", "size=6m", "xenblk-test", mount);
    try {
      await using rig = new EngineRig();
      const base = `${mount}/web.qcow2`;
      await command("qemu-img", "create", "-q", "-f", "qcow2", base, "64M");
      await using disk = await rig.open(`qcow2:${base}`);
      await using writer = new Writer(disk);
      for (let writes = 0; writes < 100; writes++) await writer.write();
      await takeSnapshot([snapshotDisk(disk)], { snapshot: "one" });
      const far = 32 << 20;
      let failed = 0;
      for (let piece = 0; piece < 16 && failed === 0; piece++) {
        failed = await disk.tryWrite(far + (piece << 20), new Uint8Array(1 << 20).fill(piece + 1));
      }
      assert(failed < 0, "the disk became full");
      assertEquals(await faultsOn(disk, writer.count), []);
    } finally {
      await command("umount", mount);
      Deno.removeSync(mount);
    }
  },
);

/** A block that holds the number. */
function numbered(number: number): Uint8Array {
  return new Uint8Array(new Uint32Array(1024).fill(number).buffer);
}

/** The number in an image's first block. */
async function numberIn(path: string): Promise<number> {
  const format = path.endsWith(".img") ? "raw" : "qcow2";
  const raw = `${path}.raw`;
  await command("qemu-img", "dd", "-f", format, "-O", "raw", "bs=4096", "count=1", `if=${path}`, `of=${raw}`);
  return new Uint32Array(Deno.readFileSync(raw).buffer)[0]!;
}

/** In the short form: where something is known to one side only. `deno task snapshot-deaths` has all. */
const SHORT: readonly string[] = [
  "create daemon transaction",
  "create both end",
  "commit process record",
  "commit both note",
  "delete daemon finalize",
  "delete both end",
];
const ALL = Deno.env.get("XENBLK_ALL_DEATHS") === "1";

for (const death of (["daemon", "process", "both"] as const).flatMap(casesOf)) {
  const { work, step, victim } = death;
  if (!ALL && !SHORT.includes(`${work} ${victim} ${step}`)) continue;
  const who = { daemon: "the daemon dies", process: "the process dies", both: "both die" }[victim];
  daemonTest(`${who} at step ${step} of ${work}: all that was answered is there`, async () => {
    await (victim === "daemon" ? goOn(death) : dieAndLook(death));
  });
}

/** The daemon dies, and the process goes on with the next one. */
async function goOn(death: DeathCase): Promise<void> {
  await using rig = new EngineRig();
  const base = await newImage(rig);
  let count = 0;
  {
    await using disk = await rig.open(`qcow2:${base}`);
    await using writer = new Writer(disk);
    writer.start();
    await writer.more(100);
    await workUntil(death, disk, async () => void await rig.killDaemon()).catch(() => {}); // it may be told
    await writer.more(100);
    await removeAgain(death, disk, base);
    await writer.stop();
    count = writer.count;
    assertEquals(await faultsOn(disk, count), []);
  }
  await checkChain(base);
  await using disk = await rig.open(`qcow2:${base}`, {}, 1);
  assertEquals(await faultsOn(disk, count), []);
}

/** A process dies, perhaps with the daemon, and the next one opens the image by the name that it has in a configuration. */
async function dieAndLook(death: DeathCase): Promise<void> {
  await using rig = new EngineRig();
  const base = await newImage(rig);
  const child = new URL("overlay_child.ts", import.meta.url).pathname;
  const args = ["run", "-A", "--no-check", child, rig.folder, `qcow2:${base}`, JSON.stringify(death)];
  const { signal, stderr } = await new Deno.Command(Deno.execPath(), { args, stderr: "piped" }).output();
  assertEquals(signal, "SIGKILL", new TextDecoder().decode(stderr));
  const count = new Uint32Array(Deno.readFileSync(`${rig.folder}/answered`).buffer)[0]!;
  assert(count > 0);
  for (let round = 0; round < 2; round++) {
    await using disk = await rig.open(`qcow2:${base}`, {}, 1);
    assertEquals(await faultsOn(disk, count, true), [], rig.warnings.join("\n"));
    await removeAgain(death, disk, base);
  }
  await checkChain(base);
}
