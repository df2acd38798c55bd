/**
 * A drive of the testing kit replays a trace: two disks are alike afterwards, and the drive can be used as before.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { SILENT } from "../../lib/log.ts";
import { XenblkError } from "../../mod.ts";
import { testHost } from "../../testing.ts";
import { readAll, record, recorded, traceBytes } from "../trace/traces.ts";

const MIB = 2 ** 20;
/** The operation of a record; the backend makes flushes of its own. */
const FLUSH = 2;

Deno.test("a drive replays what the filter log has recorded of another one", async () => {
  const directory = await Deno.makeTempDir();
  using _directory = { [Symbol.dispose]: () => Deno.removeSync(directory, { recursive: true }) };
  const trace = `${directory}/a.trace`;
  await using host = await testHost();
  const guest = await host.startGuest();
  {
    await using disk = await host.attach({ domain: guest.domid, image: "memory:1M", filters: [`log,file=${trace}`] });
    await using drive = await guest.connect(disk.vdev);
    await drive.load({ requests: 300, flushEvery: 25 });
  }
  const contents: Uint8Array[] = [];
  for (const speed of ["max", "recorded"] as const) {
    await using disk = await host.attach({ domain: guest.domid, image: "memory:1M" });
    await using drive = await guest.connect(disk.vdev);
    const { operations, skipped, faults, latencies } = await drive.replay(trace, { speed, depth: 8 });
    const requests = operations.reduce((total, { requests }) => total + requests, 0);
    assertEquals([requests >= 300, skipped, faults.first], [true, [], undefined]);
    assert(latencies.write.count > 50 && latencies.write.p50Ns > 0);
    contents.push(await drive.read(0, MIB));
    assertEquals((await drive.load({ requests: 50 })).miscompares, 0);
  }
  assertEquals(contents[0], contents[1]);
  assert(contents[0]!.some((byte) => byte !== 0));
});

Deno.test("the service that takes over after a kill continues the trace", async () => {
  const directory = await Deno.makeTempDir();
  using _directory = { [Symbol.dispose]: () => Deno.removeSync(directory, { recursive: true }) };
  const [image, trace] = [`${directory}/disk.img`, `${directory}/a.trace`];
  Deno.writeFileSync(image, new Uint8Array(MIB));
  const options = { logger: SILENT, workers: 1, settings: { filters: [`log,file=${trace}`] } };
  await using host = await testHost();
  const guest = await host.startGuest();
  const killed = await host.serve(options);
  const { vdev } = guest.addDisk({ image });
  await using drive = await guest.connect(vdev);
  await drive.load({ requests: 100 });
  await recorded(trace, 100);
  await killed.kill();
  const next = await host.serve(options);
  const { errors, unanswered } = await drive.load({ requests: 100 });
  await drive.disconnect();
  await next.close();
  const { sessions, records, faults } = readAll(Deno.readFileSync(trace));
  assertEquals([errors, unanswered, faults.first, sessions.length], [0, 0, undefined, 2]);
  assertEquals(records.filter(({ operation }) => operation !== FLUSH).length, 200);
});

Deno.test("a replay that waits for a time ends when its drive does", async () => {
  const directory = await Deno.makeTempDir();
  using _directory = { [Symbol.dispose]: () => Deno.removeSync(directory, { recursive: true }) };
  const trace = `${directory}/a.trace`;
  Deno.writeFileSync(trace, traceBytes([record(), record({ timeUs: 2 ** 46 })]));
  await using host = await testHost();
  const guest = await host.startGuest();
  await using disk = await host.attach({ domain: guest.domid, image: "memory:1M" });
  await using drive = await guest.connect(disk.vdev);
  await assertRejects(() => drive.replay(`${directory}/none`), XenblkError, "there is no such file");
  for (const speed of [0, -1, NaN]) {
    await assertRejects(() => drive.replay(trace, { speed }), XenblkError, `at speed ${speed}`);
  }
  const replaying = drive.replay(trace, { speed: "recorded" });
  await drive.disconnect();
  const { operations } = await replaying;
  assertEquals(operations[1]!.requests, 0);
});
