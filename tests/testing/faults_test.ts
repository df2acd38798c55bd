/**
 * What a test can do to a host: hostile requests, a broken ring, the death of a guest, the loss of xenstore, and faults
 * of the hypervisor. The backend answers as it should, and nothing is left behind; the kit's assertions notice when not.
 */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { SILENT } from "../../lib/log.ts";
import {
  assertClean,
  assertImageEquals,
  assertIoError,
  AssertionError,
  assertNoLeak,
  DriveError,
  HOSTILE_REQUESTS,
  type HostileRequest,
  OPERATIONS,
  SimulatedClock,
  testHost,
} from "../../testing.ts";
import { XenblkError } from "../../mod.ts";

const QUIET = { logger: SILENT, workers: 1 };
const PAGE = { first: 0, last: 7 };

Deno.test("hostile requests are answered with errors, and a neighbour's requests are not disturbed", async () => {
  await using host = await testHost();
  const [hostile, neighbour] = [await host.startGuest(), await host.startGuest()];
  await using service = await host.serve(QUIET);
  const { vdev } = hostile.addDisk({ image: "memory:1M" });
  neighbour.addDisk({ image: "memory:1M" });
  await using drive = await hostile.connect(vdev);
  const load = neighbour.load({ requests: 300 });
  for (const name of Object.keys(HOSTILE_REQUESTS) as HostileRequest[]) {
    const { status } = await drive.hostile(name);
    assert(status === -1 || status === -2, `${name}: ${status}`);
  }
  const read = { operation: OPERATIONS.read!, segments: [PAGE] };
  assertEquals((await drive.doubleId(read)).map(({ status }) => status), [0, 0]);
  await drive.breakRing();
  assertEquals(drive.connected, false);
  const error = await assertRejects(() => drive.flush(), DriveError, "Cannot FLUSH_DISKCACHE on xvda");
  assertEquals(error.status, undefined);
  assertClean(await load);
  assertEquals(service.status().filter(({ connected }) => connected).length, 1);
});

Deno.test("a drive connects again, sees a resize, and says what it cannot do", async () => {
  const image = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(image) };
  Deno.truncateSync(image, 2 ** 20);
  await using host = await testHost();
  const guest = await host.startGuest({ name: "web" });
  {
    await using disk = await host.attach({ domain: "web", image, workers: 1, logger: SILENT });
    const first = await guest.connect();
    await first.write(0, new Uint8Array(512).fill(7));
    await first.disconnect();
    await using drive = await guest.connect(disk.vdev, { ringPages: 4, queues: 2 });
    assertEquals((await drive.read(0, 512))[511], 7);
    Deno.truncateSync(image, 2 ** 21);
    await disk.resize();
    assertEquals(drive.sizeBytes, 2 ** 21);
    await drive.barrier(512, new Uint8Array(1024).fill(9));
    assertEquals((await drive.read(1024, 512))[0], 9);
    await assertIoError(drive.read(2 ** 21, 512));
    await assertIoError(drive.discard(0, 4096), -2);
    await assertRejects(() => assertIoError(drive.flush()), AssertionError, "it succeeded");
    await assertRejects(() => drive.read(1, 512), XenblkError, "1 is not a multiple of 512");
    assertThrows(() => assertImageEquals(image, drive.model), AssertionError, `nothing of ${image} was compared`);
    assertClean(await drive.load({ requests: 200, seconds: 10 }));
    assertImageEquals(image, drive.model);
    Deno.writeFileSync(image, new Uint8Array(2 ** 20).fill(1));
    Deno.truncateSync(image, 2 ** 21);
    assertThrows(() => assertImageEquals(image, drive.model), AssertionError, `of ${image} holds`);
    await assertRejects(() => assertNoLeak(host, { withinMs: 0 }), AssertionError, "; not ended: drive xvda of ");
  }
  await assertNoLeak(host);
});

Deno.test("a guest that crashes, and a xenstore that is lost under a load, leave nothing behind", async () => {
  await using host = await testHost();
  const [dying, living] = [await host.startGuest(), await host.startGuest()];
  const service = await host.serve(QUIET);
  for (const guest of [dying, living]) guest.addDisk({ image: "memory:4M" });
  const [lost, kept] = [await dying.connect(), await living.connect()];
  const last = lost.load({ seconds: 60 });
  const load = kept.load({ requests: 2000, discardEvery: 30 });
  dying.crash();
  assert((await last).unanswered >= 0);
  host.store.lose();
  assertThrows(() => host.store.read("/local/domain/0/name"), Error);
  host.store.restore();
  assertClean(await load);
  assertEquals(host.guests, [living]);
  living.crash();
  await service.close({ leave: "detached", timeoutMs: 0 });
  await assertNoLeak(host);
});

Deno.test("injected grant failures fail requests, as often as asked for, and change no other byte", async () => {
  await using host = await testHost();
  const guest = await host.startGuest({ abi: "arm" });
  await using _disk = await host.attach({ domain: guest.domid, image: "memory:4M", workers: 1, logger: SILENT });
  const drive = await guest.connect();
  using fault = host.inject("grant copy", { rate: 0.05, seed: 3, times: 20 });
  const outcome = await drive.load({ requests: 1000 });
  assertEquals([fault.struck, outcome.miscompares, outcome.unanswered], [20, 0, 0]);
  assert(outcome.errors > 0 && outcome.errors <= 20, `${outcome.errors} errors`);
  assertThrows(() => assertClean(outcome), AssertionError, "requests failed: ");
  const error = assertThrows(() => host.inject("grant copy", { rate: 2 }), XenblkError);
  assertMatch(error.message, /^Cannot inject fault grant copy: a wrong option/);
});

Deno.test("with a simulated clock, a limit of a minute passes when the test says so", async () => {
  const clock = new SimulatedClock();
  await using host = await testHost({ clock });
  const guest = await host.startGuest({ autoconnect: false });
  const attaching = host.attach({ domain: guest.domid, image: "memory:1M", workers: 1, logger: SILENT });
  const outcome = attaching.then(() => "attached", (error) => error);
  while (host.store.read("/local/domain/0/backend/vbd3/1/51712/state") !== "2") {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  // The disk is offered before its threads have started, and the wait for the guest begins after that.
  let error: unknown;
  void outcome.then((end) => error = end);
  while (error === undefined) {
    clock.advance(60_000);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert(error instanceof XenblkError);
  assertEquals(error.kind, "timeout");
});
