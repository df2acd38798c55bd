/**
 * A thread of the serving process dies: the attached disk reports it, and is left Connected for the next process. The
 * death is simulated; tests/dataplane/worker_test.ts has a Worker that really dies.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { DEFAULT_KIND } from "../../lib/xenbus/paths.ts";
import { ServedDisk } from "../../lib/attached_disk.ts";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import { DeviceClaim, DeviceClaimedError } from "../../lib/backend/claim.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { SILENT } from "../../lib/log.ts";
import { startService } from "../../lib/service.ts";
import { attachDevice, waitForConnected } from "../../lib/toolstack/attach.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { GUEST, PATIENCE_MS, SimulatedHost } from "./host.ts";

Deno.test("a disk reports that its process has lost a thread; disposing it leaves it Connected, and claimed", async () => {
  using host = new SimulatedHost();
  const { platform } = host;
  using store = platform.openXenstore();
  const claim = new DeviceClaim(platform.journals);
  const params = "memory:1M";
  const request = {
    domain: GUEST,
    backendDomain: 0 as DomId,
    kind: DEFAULT_KIND,
    params,
    readOnly: false,
    cdrom: false,
  };
  const address = attachDevice(store, request, (device) => claim.take(device));
  const journals = claim.journals;
  const real = await startService({
    platform,
    kind: DEFAULT_KIND,
    only: address,
    journals,
    workers: 1,
    logger: SILENT,
  });
  const timeoutMs = PATIENCE_MS;
  await Promise.all([host.guest("xvda").connect(), waitForConnected(store, address, { timeoutMs })]);
  const death = Promise.withResolvers<never>();
  const service = { ...real, failed: death.promise };
  const [guest, clock] = [{ domain: GUEST }, SYSTEM_CLOCK];
  const disk = new ServedDisk({ platform, service, claim, address, guest, params, timeoutMs, clock });

  const error = new XenblkError("Cannot go on serving: the reactor's Worker failed");
  death.reject(error);
  assertEquals(await disk.ended, { reason: "failed", error });
  await disk[Symbol.asyncDispose]();
  await disk.detach();
  assertEquals(store.read(`${backendPath(address)}/state`), "4");
  assertThrows(() => new DeviceClaim(platform.journals).take(address), DeviceClaimedError);
  claim[Symbol.dispose]();
});
