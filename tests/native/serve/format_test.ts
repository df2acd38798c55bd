/**
 * Images of other formats behind `xenblk serve`, opened by QEMU's storage daemon: a guest's verified load, the death of the
 * daemon, of `serve` and of both under that load, and what stays behind.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { nativeTest } from "../harness.ts";
import { detach, nodeValue } from "./backend.ts";
import { FormatStage, untilNothingIsLeft } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const REQUESTS = FULL ? 20_000 : 2000;
const KILLS = FULL ? 6 : 2;

for (const format of ["qcow2", "vmdk", "vdi", "vhdx", "qed", "vpc"]) {
  const options = format === "vpc" ? ["-o", "force_size=on"] : [];
  nativeTest(`${REQUESTS} requests verify on a ${format} image`, async () => {
    await using stage = await FormatStage.open(format, options);
    const backend = stage.serve();
    await stage.disk.connect();
    const outcome = received(await stage.disk.load({ ...LOAD, requests: REQUESTS, discardEvery: 50 }));
    assertClean(outcome, backend.messages);
    assertMatch(backend.messages, new RegExp(`${format}:.*engine qemu \\d`));
    await stage.finish(backend);
  });
}

nativeTest("a write log takes memory for the rings that there are, and gives it back", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  const file = `${stage.xen.directory}/journals/vbd3-${GUEST}-${stage.device.vdev}-writes`;
  const kibibytes = (): number => Deno.statSync(file).blocks! / 2;
  await stage.disk.connect();
  assertClean(received(await stage.disk.load({ ...LOAD, requests: 200 })), backend.messages);
  assertEquals(kibibytes(), 4 + 4 * 64 + 4096);
  await stage.finish(backend);
});

nativeTest(`the daemon dies ${KILLS} times under load: nothing that was answered is lost`, async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  for (let kill = 1; kill <= KILLS; kill++) {
    await assertProgress(stage.disk, 200);
    await stage.killDaemon();
    await backend.says(new RegExp(`(served again after[^]*){${kill}}`));
  }
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

for (const cache of ["none", "unsafe"]) {
  nativeTest(`with cache ${cache} the daemon dies under load: nothing that was answered is lost`, async () => {
    await using stage = await FormatStage.open("qcow2");
    const backend = stage.serve("--cache", cache);
    await stage.disk.connect();
    await stage.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(stage.disk, 500);
    await stage.killDaemon();
    await backend.says(/wrote \d+ operations[^]*served again after/);
    await assertProgress(stage.disk, 200);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  });
}

nativeTest("a daemon with a user of its own dies under load: nothing that was answered is lost", async () => {
  await using stage = await FormatStage.open("qcow2");
  Deno.chownSync(stage.image, 65534, 65534);
  Deno.chmodSync(stage.image, 0o600);
  const backend = stage.serve("--daemon-user", "nobody");
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  const [pid] = await stage.daemons();
  assertMatch(Deno.readTextFileSync(`/proc/${pid}/status`), /^Uid:\t65534\t65534/m);
  await stage.killDaemon();
  await backend.says(/wrote \d+ operations[^]*served again after/);
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest("with writethrough a daemon that dies has nothing to lose, and there is no log", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve("--cache", "writethrough");
  const facts = await stage.disk.connect();
  assertEquals(facts.flush, false);
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  await stage.killDaemon();
  await backend.says(/served again after/);
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  const kept = [...Deno.readDirSync(`${stage.xen.directory}/journals`)].map(({ name }) => name);
  assertEquals(kept.filter((name) => name.endsWith("-writes")), []);
  await stage.finish(backend);
});

nativeTest(`serve dies ${KILLS} times under load, its daemon lives: the next one goes on with it`, async () => {
  await using stage = await FormatStage.open("qcow2");
  let backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  let [pid] = await stage.daemons();
  let lived = 0;
  for (let kill = 1; kill <= KILLS; kill++) {
    await backend.stop("SIGKILL");
    backend = stage.serve();
    await backend.says(/connected:/);
    await assertProgress(stage.disk, 200);
    const [now, ...more] = await stage.daemons();
    assertEquals(more, [], backend.messages);
    // QEMU 7.2 can abort when its client dies with requests in flight.
    if (now === pid) lived++;
    else assertMatch(backend.messages, /Assertion `!server->wait_idle' failed[^]*were written again/);
    pid = now;
  }
  assert(lived > 0, backend.messages);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest(`serve and its daemon die ${KILLS} times together: nothing that was answered is lost`, async () => {
  await using stage = await FormatStage.open("qcow2");
  let backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  for (let kill = 1; kill <= KILLS; kill++) {
    await assertProgress(stage.disk, 200);
    await Promise.all([backend.stop("SIGKILL"), stage.killDaemon()]);
    backend = stage.serve();
    await backend.says(/connected:/);
  }
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest("a daemon that hangs is said to, and the disk goes on when it answers again", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  await stage.killDaemon("SIGSTOP");
  await backend.says(/Cannot complete \d+ requests? of the guest .*no answer within 10 s/);
  await stage.killDaemon("SIGCONT");
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest("serve ends in bounded time while a daemon hangs, and the next one goes on with it", async () => {
  await using stage = await FormatStage.open("qcow2");
  let backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  await stage.killDaemon("SIGSTOP");
  const began = performance.now();
  await backend.stop("SIGTERM");
  assert(performance.now() - began < 30_000, backend.messages);
  assertMatch(backend.messages, /ending: SIGTERM/);
  backend = stage.serve();
  await stage.killDaemon("SIGCONT");
  await backend.says(/connected:/);
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

nativeTest("the daemon of a disk that is removed while no serve runs is ended by the next serve", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  await stage.disk.connect();
  assertClean(received(await stage.disk.load({ ...LOAD, requests: 200 })), backend.messages);
  await backend.stop("SIGKILL");
  assertEquals((await stage.daemons()).length, 1);
  await stage.xen.run("xenstore-rm", [`/local/domain/0/backend/vbd3/${GUEST}`]);
  const next = stage.serve();
  await next.says(/what xvd\w of .*, which is gone, was answered is in it: closed|domain 7: .*ended process \d+/);
  await untilNothingIsLeft(stage.xen);
  await stage.verify();
  assertEquals(await next.stop(), 0, next.messages);
});

nativeTest("without a write log the death of the daemon fails the disk, and says so", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve("--no-write-log");
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  await stage.killDaemon();
  await backend.says(/Cannot use it: .*writes that it had answered may be lost/);
  const outcome = received(await stage.disk.stopLoad());
  assert(outcome.errors > 0, "the guest gets errors");
  const error = await nodeValue(stage.xen, `/local/domain/0/backend/vbd3/${GUEST}/${stage.device.vdev}/error`);
  assertMatch(error, /Cannot use it: the storage daemon .*: attach it anew/);
  await detach(stage.xen, stage.device);
  assertEquals(await backend.stop(), 0, backend.messages);
});
