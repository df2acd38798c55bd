/**
 * What a mirror must not be: one to an image that its snapshots have left behind, or one that is completed though its
 * daemon has no job any more.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { checkTarget, mirrorKind, orderMirror, type Switchover } from "../../../lib/jobs/mirror.ts";
import type { DiskDaemon } from "../../../lib/storage/disk.ts";
import { takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import { EngineRig } from "../qemu/engine_rig.ts";
import { snapshotDisk } from "../qemu/overlay_rig.ts";
import { command, daemonTest } from "../qemu/rig.ts";

const DEVICE = "vbd3/5/1";
const checkUnused = (): Promise<void> => Promise.resolve();

daemonTest("no mirror goes to an image that an overlay covers", async () => {
  await using rig = new EngineRig();
  const [source, target] = ["source", "target"].map((name) => `${rig.folder}/${name}.qcow2`);
  for (const path of [source!, target!]) await command("qemu-img", "create", "-q", "-f", "qcow2", path, "64M");
  await using other = await rig.open(`qcow2:${target}`);
  await takeSnapshot([snapshotDisk(other)], { snapshot: "one" });
  await using disk = await rig.open(`qcow2:${source}`);
  const order = {
    device: DEVICE,
    daemon: disk.disk.daemon!,
    rings: 1,
    checkUnused,
    timeoutMs: 1000,
    allowImages: ["/**"],
  };
  await assertRejects(
    () => orderMirror({ ...order, params: `qcow2:${target}` }),
    XenblkError,
    `goes on with ${rig.folder}/target.one.qcow2`,
  );
});

daemonTest("a mirror that cannot begin leaves nothing in the daemon, not even its secret", async () => {
  await using rig = new EngineRig();
  const [source, target, key] = ["source.qcow2", "target.luks", "key"].map((name) => `${rig.folder}/${name}`);
  await command("qemu-img", "create", "-q", "-f", "qcow2", source!, "64M");
  Deno.writeTextFileSync(key!, "secret");
  const secret = ["--object", `secret,id=key,file=${key}`, "-o", "key-secret=key,iter-time=10"];
  await command("qemu-img", "create", "-q", "-f", "luks", ...secret, target!, "32M");
  await using disk = await rig.open(`qcow2:${source}`);
  const daemon = disk.disk.daemon!;
  const params = `format=luks,passphrase-file=${key},target=${target}`;
  for (let time = 0; time < 2; time++) {
    const order = await orderMirror({
      device: DEVICE,
      daemon,
      rings: 1,
      checkUnused,
      timeoutMs: 1000,
      allowImages: ["/**"],
      params,
    });
    await assertRejects(
      () => daemon.run((monitor) => order.begin(monitor, "d1-mirror")),
      XenblkError,
      "it has 33554432",
    );
  }
});

daemonTest("a target is as large as its image says, and not as a smaller one that it names below it", async () => {
  await using rig = new EngineRig();
  const [base, top] = ["base", "top"].map((name) => `${rig.folder}/${name}.qcow2`);
  await command("qemu-img", "create", "-q", "-f", "qcow2", base!, "32M");
  await command("qemu-img", "create", "-q", "-f", "qcow2", "-b", base!, "-F", "qcow2", top!, "64M");
  const node = (filename: string): object => ({ driver: "qcow2", file: { driver: "file", filename } });
  const params = `json:${JSON.stringify({ ...node(top!), backing: node(base!) })}`;
  const target = { device: DEVICE, rings: 1, allowImages: ["json:**"], checkUnused, params };
  await checkTarget({ ...target, needBytes: 64 * 2 ** 20 });
  await assertRejects(
    () => checkTarget({ ...target, needBytes: 65 * 2 ** 20 }),
    XenblkError,
    "it has 67108864 bytes, and the disk 68157440",
  );
});

daemonTest(
  "a guest with two rings cannot have its disk mirrored to an NBD server, which is found before it begins",
  async () => {
    await using rig = new EngineRig();
    const source = `${rig.folder}/source.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", source, "64M");
    await using disk = await rig.open(`qcow2:${source}`);
    const order = {
      device: DEVICE,
      daemon: disk.disk.daemon!,
      checkUnused,
      timeoutMs: 1000,
      allowImages: ["nbd+unix:**"],
    };
    const params = "nbd+unix:///web?socket=/run/web.sock";
    await assertRejects(
      () => orderMirror({ ...order, params, rings: 2 }),
      XenblkError,
      "one ring, and the guest has 2",
    );
    assertEquals((await orderMirror({ ...order, params, rings: 1 })).target, params);
  },
);

Deno.test("a mirror whose job is gone, as with its daemon, is not completed", async () => {
  const asked: string[] = [];
  const execute = (name: string): Promise<unknown> => {
    asked.push(name);
    return Promise.resolve([]);
  };
  const daemon = { run: (call) => call({ execute } as Parameters<typeof call>[0]) } as DiskDaemon;
  const exchange = async (_device: string, { finish }: Switchover): Promise<void> => {
    await finish(new AbortController().signal);
  };
  const kind = mirrorKind({ exchange, paramsOf: () => Promise.resolve(undefined) });
  const job = { device: DEVICE, daemon, name: "d1-mirror", details: { params: "/next", timeoutMs: 1000 } };
  await assertRejects(() => kind.ready!(job), XenblkError, "has no such job any more");
  assertEquals(asked, ["block-job-cancel", "query-jobs"]);
});
