/**
 * `xenblk resize DOMAIN VDEV SIZE` for images that a storage daemon serves: a disk grows while its guest uses it, the
 * guest uses the added space, and what cannot grow says so.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest } from "../harness.ts";
import { detach } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { NBDKIT, NbdServer } from "./nbd_server.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const SECTORS_PER_MIB = 2048;
/** What is added to the 64 MiB of a stage's image. */
const ADDED = { firstSector: 64 * SECTORS_PER_MIB, sectors: 64 * SECTORS_PER_MIB };

function resize(stage: FormatStage, ...size: string[]): Promise<string> {
  return stage.xen.run(Deno.execPath(), ["run", "-A", "--no-check", CLI, "resize", String(GUEST), "xvda", ...size]);
}

/** The guest reads and writes what was added, and knows the size. */
async function assertGrown(stage: FormatStage, messages: string): Promise<void> {
  const sectors = await stage.xen.run("xenstore-read", [`${backendPath(stage.device)}/sectors`]);
  assertEquals(Number(sectors), 128 * SECTORS_PER_MIB);
  const late = received(await stage.disk.loadAs(128 * SECTORS_PER_MIB, { ...LOAD, area: ADDED, requests: 500 }));
  assertClean(late, messages);
  assert(late.writes > 0 && late.verifiedSectors > 0);
}

nativeTest("a qcow2 image grows while its guest uses it, and again in the next daemon", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  await resize(stage, "96M");
  await assertProgress(stage.disk, 100);
  await stage.killDaemon();
  await backend.says(/served again after/);
  await resize(stage, "128M");
  await assertProgress(stage.disk, 100);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  assertMatch(backend.messages, /grown from 64\.0 MiB to 96\.0 MiB[^]*grown from 96\.0 MiB to 128\.0 MiB/);
  await assertGrown(stage, backend.messages);
  const smaller = await assertRejects(() => resize(stage, "64M"), Error);
  assertMatch(smaller.message, /Cannot shrink .* from 128\.0 MiB to 64\.0 MiB under its guest; name a larger size/);
  await stage.finish(backend);
});

nativeTest("an encrypted image grows while its guest uses it", async () => {
  const passphrase = Deno.makeTempFileSync();
  using _file = { [Symbol.dispose]: (): void => Deno.removeSync(passphrase) };
  Deno.writeTextFileSync(passphrase, "correct horse");
  const secret = ["--object", `secret,id=s,file=${passphrase}`];
  await using stage = await FormatStage.open(
    "luks",
    [...secret, "-o", "key-secret=s,iter-time=10"],
    {},
    (image) => `format=luks,passphrase-file=${passphrase},target=${image}`,
  );
  const backend = stage.serve("--allow-image", passphrase);
  await stage.disk.connect();
  await resize(stage, "128M");
  // What was never written reads as anything, so this load does not compare.
  await stage.disk.startMeasure({ ...LOAD, area: ADDED, requests: 500 }, 128 * SECTORS_PER_MIB);
  const { errors, reads, writes } = await stage.disk.finishLoad();
  assertEquals(errors, 0, backend.messages);
  assert(reads > 0 && writes > 0);
  await detach(stage.xen, stage.device);
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest("a qcow2 on an NBD server does not grow while it is used, and the disk goes on", async () => {
  await using stage = await FormatStage.open("qcow2", [], {}, (image) => {
    const file = { driver: "nbd", server: { type: "unix", path: `${image}.nbd` }, export: "" };
    return `json:${JSON.stringify({ driver: "qcow2", file })}`;
  });
  Deno.truncateSync(stage.image, 256 << 20); // a qcow2 cannot make its server's export larger
  await using server = new NbdServer(NBDKIT, stage.image, `${stage.image}.nbd`);
  await server.start();
  const backend = stage.serve("--allow-image", "json:**");
  await stage.disk.connect();
  const refused = await assertRejects(() => resize(stage, "128M"), Error);
  assertMatch(refused.message, /a disk on an NBD server does not grow while it is used; detach the disk, and grow/);
  assertClean(received(await stage.disk.load({ ...LOAD, requests: 100 })), backend.messages);
  await detach(stage.xen, stage.device);
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest("a raw image in a daemon is as large as its file when a resize looks at it", async () => {
  await using stage = await FormatStage.open(
    "raw",
    [],
    {},
    (image) => `json:{"driver":"raw","file":{"driver":"file","filename":"${image}"}}`,
  );
  const backend = stage.serve("--allow-image", "json:**");
  await stage.disk.connect();
  assertMatch(backend.messages, /engine qemu/);
  Deno.truncateSync(stage.image, 128 << 20);
  await resize(stage);
  await assertGrown(stage, backend.messages);
  await stage.finish(backend);
});

for (const [format, why] of [["vmdk", "does not support resize"], ["qed", "QEMU 7.2 ends when"]] as const) {
  nativeTest(`a ${format} image cannot grow under its guest, says so, and is served as before`, async () => {
    await using stage = await FormatStage.open(format);
    const backend = stage.serve();
    await stage.disk.connect();
    const fixed = await assertRejects(() => resize(stage, "128M"), Error);
    assertMatch(fixed.message, new RegExp(`Cannot resize image ${format}:.*${why}.*; move the disk to a larger image`));
    const odd = await assertRejects(() => resize(stage, "134217729"), Error);
    assertMatch(odd.message, /Cannot use size 134217729: it is not a multiple of 512 bytes above 0/);
    assertClean(received(await stage.disk.load({ ...LOAD, requests: 200 })), backend.messages);
    await stage.finish(backend);
  });
}
