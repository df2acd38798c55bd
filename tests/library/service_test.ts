/**
 * A service, as a program that imports the library uses it: it serves what a toolstack attaches, and leaves nothing
 * behind when it is closed, or ended before its threads have started.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { attachDevice, detachDevice, type DomId, SILENT, startService, type Xenstore } from "../../mod.ts";
import { hasJournals } from "../../lib/backend/journals.ts";
import type { HostPlatform } from "../../lib/host_platform.ts";
import { GUEST, SimulatedHost } from "./host.ts";

/** The platform, which notes in the list when xenstore is opened and when a reactor is started. */
function noting(platform: HostPlatform, steps: string[]): HostPlatform {
  const connect = platform.openXenstore.bind(platform);
  const create = platform.createWakeToken.bind(platform); // a reactor needs a token to be woken by
  const openXenstore = (): Xenstore => (steps.push("xenstore"), connect());
  const createWakeToken = (): ReturnType<typeof create> => (steps.push("reactor"), create());
  return Object.assign(platform, { openXenstore, createWakeToken });
}

Deno.test("a service serves what a toolstack attaches, and says what it serves", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const { platform } = host;
  const service = await startService({
    platform,
    kind: "qdisk",
    settings: { grants: "map" },
    workers: 1,
    logger: SILENT,
  });
  using toolstack = platform.openXenstore();
  const request = { domain: GUEST, backendDomain: 0 as DomId, kind: "qdisk", readOnly: false, cdrom: false };
  const device = attachDevice(toolstack, { ...request, params: "memory:1M" });
  const guest = host.guest("xvda");
  await guest.connect();
  const load = await guest.load({});
  const [status, ...others] = service.devices.status();
  assert(status !== undefined && others.length === 0);
  assertEquals([status.label, status.connected, status.totals.reads], ["qdisk/5/51712", true, load.reads]);
  await detachDevice(toolstack, device, { timeoutMs: 60_000 });
  assertEquals(await service.close({ leave: "connected", timeoutMs: 0 }), { finished: true, stuck: [] });
  assertEquals(host.holdings(), before);
});

Deno.test("a service that is ended while its threads start serves nothing, and leaves nothing behind", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const end = new AbortController();
  const openXenstore = (): never => {
    throw new Error("it must not connect");
  };
  const platform = Object.assign(host.platform, { openXenstore });
  const starting = startService({ platform, kind: "vbd3", workers: 1, logger: SILENT, signal: end.signal });
  end.abort();
  await assertRejects(() => starting, DOMException);
  assertEquals(host.holdings(), before);
});

Deno.test("a service that is ended once it has connected leaves its devices to the next one, and no thread", async () => {
  using host = new SimulatedHost();
  const { platform } = host;
  using toolstack = platform.openXenstore();
  const request = { domain: GUEST, backendDomain: 0 as DomId, kind: "vbd3", readOnly: false, cdrom: false };
  attachDevice(toolstack, { ...request, params: "memory:1M" });
  const end = new AbortController();
  const connect = platform.openXenstore.bind(platform);
  const openXenstore = (): Xenstore => {
    queueMicrotask(() => end.abort());
    return connect();
  };
  const service = { platform: Object.assign(platform, { openXenstore }), kind: "vbd3", workers: 1, logger: SILENT };
  await assertRejects(() => startService({ ...service, signal: end.signal }), DOMException);
  const next = await startService(service);
  await host.guest("xvda").connect();
  assertEquals(next.devices.status().map(({ connected }) => connected), [true]);
  assertEquals(await next.close({ leave: "connected", timeoutMs: 0 }), { finished: true, stuck: [] });
});

Deno.test("a disk that a toolstack wrote is in InitWait before any thread is started", async () => {
  using host = new SimulatedHost();
  const { platform } = host;
  using toolstack = platform.openXenstore();
  const request = { domain: GUEST, backendDomain: 0 as DomId, kind: "vbd3", readOnly: false, cdrom: false };
  const device = attachDevice(toolstack, { ...request, params: "memory:1M" });
  const states: (string | undefined)[] = [];
  const create = platform.createWakeToken.bind(platform);
  const createWakeToken = (): ReturnType<typeof create> => {
    states.push(toolstack.read(`/local/domain/0/backend/vbd3/${GUEST}/${device.vdev}/state`));
    return create();
  };
  const watched = Object.assign(platform, { createWakeToken });
  const service = await startService({ platform: watched, kind: "vbd3", workers: 1, logger: SILENT });
  assertEquals(states, ["2"], "a reactor needs a token to be woken by");
  await service.close({ leave: "connected", timeoutMs: 0 });
});

Deno.test("a process that takes over rings starts its reactor first, since their guests wait", async () => {
  using host = new SimulatedHost();
  const { platform } = host;
  using toolstack = platform.openXenstore();
  const request = { domain: GUEST, backendDomain: 0 as DomId, kind: "vbd3", readOnly: false, cdrom: false };
  const device = attachDevice(toolstack, { ...request, params: "memory:1M" });
  const first = await startService({ platform, kind: "vbd3", workers: 1, logger: SILENT });
  const guest = host.guest("xvda");
  await guest.connect();
  await first.close({ leave: "connected", timeoutMs: 0 });
  const { journals } = platform;
  const served = ["vbd3", device, "vbd", "qdisk", { ...device, vdev: device.vdev + 16 }] as const;
  assertEquals(served.map((each) => hasJournals(journals, each)), [true, true, false, false, false]);
  const steps: string[] = [];
  const next = await startService({ platform: noting(platform, steps), kind: "vbd3", workers: 1, logger: SILENT });
  assertEquals(steps, ["reactor", "xenstore"]);
  assertEquals((await guest.load({})).errors, 0);
  await next.close({ leave: "connected", timeoutMs: 0 });
});

Deno.test("without xenstore a process that would take over rings fails as any other, and leaves no thread", async () => {
  using host = new SimulatedHost();
  const { platform } = host;
  platform.journals.open(`vbd3-${GUEST}-51712-0`, 4096)[Symbol.dispose]();
  const openXenstore = (): never => {
    throw new Error("no xenstored");
  };
  const service = { platform: Object.assign(platform, { openXenstore }), kind: "vbd3", workers: 1, logger: SILENT };
  await assertRejects(() => startService(service), Error, "no xenstored");
});
