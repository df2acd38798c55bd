/**
 * Threads that fail under a service: one that the kernel keeps does not keep other disks from being released, nor the
 * service from ending; I/O Workers that cannot be started do not keep disks that need none from being served.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { attachDevice, type DomId, type Logger, SILENT, startService } from "../../mod.ts";
import type { HostPlatform } from "../../lib/host_platform.ts";
import { waitForConnected } from "../../lib/toolstack/attach.ts";
import type { DeviceAddress } from "../../lib/xenbus/paths.ts";
import { pretendFiles } from "../storage/rig.ts";
import { GUEST, type Guest, PATIENCE_MS, SimulatedHost } from "./host.ts";
import { type FailingDescriptor, replacing } from "./modules/failing_platform.ts";

const MODULE = new URL("./modules/failing_platform.ts", import.meta.url).href;

/** The host's platform with threads that fail. */
function failing(host: SimulatedHost, fails: FailingDescriptor["fails"], held: SharedArrayBuffer): HostPlatform {
  return replacing(host.platform, { descriptor: { ...host.platform.descriptor, module: MODULE, fails, held } });
}

/** A toolstack attaches a disk, and its guest connects. */
async function attached(host: SimulatedHost, vdev: string): Promise<{ device: DeviceAddress; guest: Guest }> {
  using store = host.platform.openXenstore();
  const request = { domain: GUEST, backendDomain: 0 as DomId, kind: "vbd3", params: "memory:1M" };
  const device = attachDevice(store, { ...request, vdev, readOnly: false, cdrom: false });
  const guest = host.guest(vdev);
  await Promise.all([guest.connect(), waitForConnected(store, device, { timeoutMs: PATIENCE_MS })]);
  return { device, guest };
}

/** Another process could serve the device. */
function isFree({ platform }: SimulatedHost, { vdev }: DeviceAddress): boolean {
  using lock = platform.journals.lock(`vbd3-${GUEST}-${vdev}.lock`);
  return lock !== undefined;
}

Deno.test({
  name: "a service with a thread that the kernel keeps ends in time, releases the other disks and names the one",
  // The thread ends after the test has let it go, and nothing says when.
  sanitizeResources: false,
  async fn(): Promise<void> {
    using host = new SimulatedHost();
    const held = new Int32Array(new SharedArrayBuffer(8));
    const platform = failing(host, "a grant copy", held.buffer);
    const lines: string[] = [];
    const logger: Logger = { ...SILENT, error: (line) => lines.push(line), warning: (line) => lines.push(line) };
    const service = await startService({ platform, kind: "vbd3", workers: 2, logger });
    const stuck = await attached(host, "xvda");
    const other = await attached(host, "xvdb");
    held[0] = 1;
    const load = stuck.guest.load({ requests: 1, readShare: 1 });
    while (Atomics.load(held, 1) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const start = performance.now();
    const closing = service.close({ leave: "connected", timeoutMs: 0 });
    while (!isFree(host, other.device)) await new Promise((resolve) => setTimeout(resolve, 1));
    assert(performance.now() - start < 2_000, "the other disk does not wait for the one");
    const { finished, stuck: [first, ...more] } = await closing;
    assert(performance.now() - start < 15_000, "the bound of 20 s is for disks that make progress");
    assertEquals([finished, first?.label, more], [false, `vbd3/5/${stuck.device.vdev}`, []]);
    assertMatch(first!.reason, /^complete 1 request in flight of memory:1M/);
    assert(lines.includes(`${first!.label}: given up: cannot ${first!.reason}`), lines.join("\n"));
    assertEquals(isFree(host, stuck.device), false);
    Atomics.store(held, 0, 0);
    Atomics.notify(held, 0);
    assertEquals((await load).errors, 0);
    while (!isFree(host, stuck.device)) await new Promise((resolve) => setTimeout(resolve, 1));
  },
});

Deno.test("a service with I/O Workers that cannot be started serves the disks that need none", async () => {
  using host = new SimulatedHost();
  const files = pretendFiles(undefined, { reason: "a test says so", remedy: "none" });
  const platform = replacing(failing(host, "I/O Workers", new SharedArrayBuffer(8)), { files });
  const lines: string[] = [];
  const logger: Logger = { ...SILENT, warning: (line) => lines.push(line) };
  const service = await startService({ platform, kind: "vbd3", workers: 1, logger });
  assert(lines.some((line) => line.includes("too many open files")), lines.join("\n"));
  const { guest } = await attached(host, "xvda");
  assertEquals((await guest.load({})).errors, 0);
  assertEquals(await service.close({ leave: "connected", timeoutMs: 0 }), { finished: true, stuck: [] });
});
