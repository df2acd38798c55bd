/**
 * An attached disk over a service that a test answers for: what closing reports and releases when the service does not
 * finish, nodes cannot be removed, or the disk goes away while it is closed.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { openDisks, ServedDisk } from "../../lib/attached_disk.ts";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import type { CloseOptions } from "../../lib/backend/close_options.ts";
import { DeviceClaim } from "../../lib/backend/claim.ts";
import type { DeviceStatus } from "../../lib/backend/status.ts";
import { createStats, durationsIn, readStats, STAT } from "../../lib/dataplane/stats.ts";
import { latencyOf } from "../../lib/figures/latency.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { HostPlatform } from "../../lib/host_platform.ts";
import type { DomId, Xenstore } from "../../lib/hypervisor.ts";
import type { CloseResult, Service } from "../../lib/service.ts";
import { GUEST, SimulatedHost } from "./host.ts";

const ADDRESS = { backendDomain: 0 as DomId, kind: "vbd3", frontendDomain: GUEST, vdev: 51712 };

/** A disk of which only the service is made up. */
class Rig implements Disposable {
  readonly host = new SimulatedHost();
  readonly retired = Promise.withResolvers<void>();
  readonly failed = Promise.withResolvers<never>();
  readonly closes: CloseOptions[] = [];
  readonly counters = createStats();
  /** What closing the service does, and whether it finished. */
  closing: () => boolean = () => true;
  isThere = true;
  readonly disk: ServedDisk;

  constructor(platform: Partial<HostPlatform> = {}) {
    const status = (): DeviceStatus[] => this.isThere ? [this.#counted() as unknown as DeviceStatus] : [];
    const devices = { status, retired: this.retired.promise, guestGone: new Promise<void>(() => {}) };
    const close = (how: CloseOptions): Promise<CloseResult> => {
      this.closes.push(how);
      const finished = this.closing();
      const reason = "complete 3 requests in flight of image /a.img: no answer for 20 s";
      return Promise.resolve({ finished, stuck: finished ? [] : [{ label: "vbd3/5/51712", reason }] });
    };
    const service = { devices, failed: this.failed.promise, close } as unknown as Service;
    const claim = new DeviceClaim(this.host.platform.journals);
    claim.take(ADDRESS);
    this.disk = new ServedDisk({
      platform: { ...this.host.platform, openXenstore: () => this.host.platform.openXenstore(), ...platform },
      service,
      claim,
      address: ADDRESS,
      guest: { domain: GUEST },
      params: "memory:1M",
      timeoutMs: 7,
      clock: SYSTEM_CLOCK,
    });
  }

  #counted(): Pick<DeviceStatus, "totals" | "latency"> {
    const { read, write, flush, discard } = durationsIn(this.counters);
    const [reads, writes, flushes, discards] = [read, write, flush, discard].map((times) => latencyOf([times]));
    const latency = { read: reads!, write: writes!, flush: flushes!, discard: discards! };
    return { totals: readStats(this.counters), latency };
  }

  /** Whether this process still keeps others from the device. */
  get claimed(): boolean {
    try {
      using _other = new DeviceClaim(this.host.platform.journals);
      _other.take(ADDRESS);
      return false;
    } catch {
      return true;
    }
  }

  [Symbol.dispose](): void {
    this.host[Symbol.dispose]();
  }
}

Deno.test("a disk that is still busy at the end is reported, and no other process gets it", async () => {
  using rig = new Rig();
  rig.closing = () => false;
  assertEquals([openDisks().has(rig.disk), rig.claimed], [true, true]);
  const reason = "Cannot release vbd3/5/51712: cannot complete 3 requests in flight of image /a.img";
  await assertRejects(() => rig.disk[Symbol.asyncDispose](), XenblkError, reason);
  assertEquals(rig.closes, [{ leave: "detached", timeoutMs: 7 }], "with the time limit of the attach");
  assertEquals(await rig.disk.ended, { reason: "closed" });
  assertEquals([openDisks().has(rig.disk), rig.claimed], [false, true]);
});

Deno.test("nodes that cannot be removed are reported, and the device is released", async () => {
  const lost = (): never => {
    throw new Error("xenstored is gone");
  };
  using rig = new Rig({ openXenstore: lost });
  const removal = "Cannot remove the disk's nodes: xenstored is gone";
  await assertRejects(() => rig.disk[Symbol.asyncDispose](), XenblkError, removal);
  assertEquals([openDisks().has(rig.disk), rig.claimed], [false, false]);
});

Deno.test("of several closes the first counts", async () => {
  using rig = new Rig();
  await Promise.all([rig.disk.close({ leave: "connected", timeoutMs: 3 }), rig.disk[Symbol.asyncDispose]()]);
  assertEquals(rig.closes, [{ leave: "connected", timeoutMs: 3 }]);
});

Deno.test("a disk that goes away because this process closes it has ended closed, with its last counters", async () => {
  using rig = new Rig();
  rig.closing = () => {
    new Float64Array(rig.counters)[STAT.reads] = 5;
    durationsIn(rig.counters).read.record(8_000, 5);
    rig.retired.resolve();
    return true;
  };
  await rig.disk.close({ leave: "connected", timeoutMs: 0 });
  assertEquals(await rig.disk.ended, { reason: "closed" });
  rig.isThere = false;
  const { read, write } = (await rig.disk.stats()).operations;
  const latencyUs = { mean: 8, p50: 8, p90: 8, p99: 8, p999: 8, max: 8 };
  assertEquals([read, write], [{ requests: 5, bytes: 0, errors: 0, latencyUs }, { requests: 0, bytes: 0, errors: 0 }]);
});

Deno.test("a disk that failed is not taken from its guest by detaching it", async () => {
  const asked = (): never => {
    throw new Error("the guest was asked to close it");
  };
  using rig = new Rig({ openXenstore: asked });
  const error = new XenblkError("Cannot go on serving");
  rig.failed.reject(error);
  assertEquals(await rig.disk.ended, { reason: "failed", error });
  await rig.disk.detach();
  assertEquals([rig.closes, rig.claimed], [[{ leave: "connected", timeoutMs: 0 }], true]);
});

Deno.test("a disk that goes away while this process detaches it has ended closed, too", async () => {
  using host = new SimulatedHost();
  const openXenstore = (): Xenstore => {
    rig.retired.resolve();
    rig.isThere = false;
    return host.platform.openXenstore();
  };
  using rig = new Rig({ openXenstore });
  new Float64Array(rig.counters)[STAT.writes] = 6;
  await rig.disk.detach();
  assertEquals(await rig.disk.ended, { reason: "closed" });
  assertEquals((await rig.disk.stats()).operations.write.requests, 6);
});
