/**
 * Disks on NBD servers behind `xenblk serve`: servers that are killed and started again under a guest's verified load,
 * alone and together with `serve`, lose nothing that was answered, and the guest's requests wait meanwhile.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { nativeTest } from "../harness.ts";
import { detach } from "./backend.ts";
import { qemuImg } from "../qemu_img.ts";
import { FormatStage } from "./format_stage.ts";
import { NBDKIT, type NbdProgram, NbdServer, QEMU_NBD } from "./nbd_server.ts";
import { assertClean, assertProgress, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const KILLS = Deno.env.get("XENBLK_NATIVE") === "full" ? 5 : 3;
const ALLOW = ["--allow-image", "nbd+unix:**", "--allow-image", "json:**"];

/** A disk on a server, and the server. */
async function open(program: NbdProgram, format: string, params = plain): Promise<[FormatStage, NbdServer]> {
  const stage = await FormatStage.open(format, [], {}, (image) => params(`${image}.nbd`));
  // A qcow2 cannot make its server's export larger.
  if (params === qcow2) Deno.truncateSync(stage.image, 128 << 20);
  const server = new NbdServer(program, stage.image, `${stage.image}.nbd`);
  await server.start();
  return [stage, server];
}

function plain(socket: string): string {
  return `nbd+unix:///disk?socket=${socket}`;
}

/** The format is opened by the daemon, on top of the server. */
function qcow2(path: string): string {
  const file = { driver: "nbd", server: { type: "unix", path }, export: "" };
  return `json:${JSON.stringify({ driver: "qcow2", file })}`;
}

for (
  const [what, program, format, cache, params] of [
    ["qemu-nbd", QEMU_NBD, "qcow2", "writeback", plain],
    ["qemu-nbd", QEMU_NBD, "qcow2", "writethrough", plain],
    ["nbdkit without FUA", NBDKIT, "raw", "writeback", plain],
    ["nbdkit without FUA", NBDKIT, "raw", "writethrough", plain],
    ["nbdkit with a qcow2", NBDKIT, "qcow2", "writeback", qcow2],
  ] as const
) {
  nativeTest(`${what} is killed ${KILLS} times under load: nothing that was answered is lost, ${cache}`, async () => {
    const [opened, opening] = await open(program, format, params);
    await using server = opening;
    await using stage = opened;
    const backend = stage.serve(...ALLOW, "--cache", cache);
    const facts = await stage.disk.connect();
    assertEquals(facts.flush, cache === "writeback");
    await stage.disk.startLoad(UNTIL_STOPPED);
    for (let kill = 1; kill <= KILLS; kill++) {
      await assertProgress(stage.disk, 200);
      await server.end();
      await backend.says(new RegExp(`(nbd server may have been lost[^]*){${kill}}`));
      await server.start();
      await backend.says(new RegExp(`(served again after[^]*){${kill}}`));
    }
    await assertProgress(stage.disk, 200);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await detach(stage.xen, stage.device);
    await server.end("SIGTERM");
    await stage.verify();
    assertEquals(await backend.stop(), 0, backend.messages);
    assertEquals(await stage.daemons(), []);
  });
}

nativeTest(`an idle disk notices that its server was restarted, before it reads what the server has lost`, async () => {
  const [opened, opening] = await open(QEMU_NBD, "qcow2");
  await using server = opening;
  await using stage = opened;
  const backend = stage.serve(...ALLOW);
  await stage.disk.connect();
  assertMatch(backend.messages, /cache writeback/);
  const unflushed = { ...LOAD, requests: 400, flushEvery: 0, barrierEvery: 0 };
  for (let round = 0; round < KILLS; round++) {
    assertClean(received(await stage.disk.load(unflushed)), backend.messages);
    await server.end();
    await server.start();
  }
  assertClean(received(await stage.disk.load(unflushed)), backend.messages);
  assertMatch(backend.messages, /wrote \d+ operations/);
  await detach(stage.xen, stage.device);
  await server.end("SIGTERM");
  await stage.verify();
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest(`serve and its server are killed ${KILLS} times together: nothing that was answered is lost`, async () => {
  const [opened, opening] = await open(QEMU_NBD, "qcow2");
  await using server = opening;
  await using stage = opened;
  let backend = stage.serve(...ALLOW);
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  for (let kill = 1; kill <= KILLS; kill++) {
    await assertProgress(stage.disk, 200);
    await Promise.all([backend.stop("SIGKILL"), server.end()]);
    await server.start();
    backend = stage.serve(...ALLOW);
    await backend.says(/connected:/);
  }
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await detach(stage.xen, stage.device);
  await server.end("SIGTERM");
  await stage.verify();
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest("an error of the server itself reaches the guest, and the disk goes on", async () => {
  const failing: NbdProgram = (image, socket) => [
    "nbdkit",
    "--foreground",
    ...["--unix", socket, "--filter=error", "file", image, "error-pread=EIO", "error-pread-rate=100%"],
    `error-pread-file=${image}.fail`,
  ];
  const [opened, opening] = await open(failing, "raw");
  await using server = opening;
  await using stage = opened;
  const backend = stage.serve(...ALLOW);
  await stage.disk.connect();
  Deno.writeTextFileSync(`${stage.image}.fail`, "");
  const one = { ...LOAD, requests: 1, readShare: 1, flushEvery: 0, barrierEvery: 0 };
  const outcome = received(await stage.disk.load(one));
  assertEquals([outcome.errors, outcome.unanswered], [1, 0], backend.messages);
  Deno.removeSync(`${stage.image}.fail`);
  assertClean(received(await stage.disk.load({ ...LOAD, requests: 200 })), backend.messages);
  assert(backend.messages.includes("served again after"));
  await detach(stage.xen, stage.device);
  await server.end("SIGTERM");
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest("a base on a server that is started again, with another socket, is read again by itself", async () => {
  await using stage = await FormatStage.open("qcow2");
  const base = `${stage.folder}/base.raw`;
  await qemuImg("create", "-q", "-f", "raw", base, "64M");
  const program: NbdProgram = (image, socket) => [
    "qemu-nbd",
    ...["--persistent", "--read-only", "-f", "raw", "-k", socket, "-x", "disk", image],
  ];
  const socket = `${stage.folder}/base.sock`;
  await using server = new NbdServer(program, base, socket);
  await server.start();
  await qemuImg("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", plain(socket), stage.image);
  const backend = stage.serve(...ALLOW);
  await stage.disk.connect();
  const reads = { ...LOAD, requests: 50, readShare: 1, flushEvery: 0, barrierEvery: 0, discardEvery: 0 };
  assertClean(received(await stage.disk.load(reads)), backend.messages);
  await server.end();
  await server.start();
  assertClean(received(await stage.disk.load(reads)), backend.messages);
  await stage.finish(backend, async () => {
    await server.end("SIGTERM");
    await qemuImg("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", base, stage.image);
  });
});
