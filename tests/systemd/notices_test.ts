/**
 * What a service manager is told over the life of a process, in simulated time: its silence about a reactor that hangs,
 * repetition of what found no room, and an end to requests for more time.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DeviceStatus } from "../../lib/backend/status.ts";
import { EAGAIN } from "../../lib/errno.ts";
import { latencyOf } from "../../lib/figures/latency.ts";
import { SILENT } from "../../lib/log.ts";
import { serviceManagerOf } from "../../lib/systemd/environment.ts";
import { Notices, statusLine } from "../../lib/systemd/notices.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { createStats, readStats } from "../../lib/dataplane/stats.ts";

/** Notices of a process whose state the test sets. */
class Rig implements AsyncDisposable {
  readonly clock = new SimulatedClock();
  readonly sent: string[] = [];
  readonly ending = new AbortController();
  readonly found = Promise.withResolvers<void>();
  devices: DeviceStatus[] = [];
  silentMs = 0;
  hasRoom = true;
  readonly notices: Notices;

  constructor(watchdogMs?: number) {
    this.notices = new Notices({
      manager: { socket: "/notify", ...(watchdogMs === undefined ? {} : { watchdogMs }) },
      send: (_socket, bytes) => {
        if (this.hasRoom) this.sent.push(new TextDecoder().decode(bytes));
        return this.hasRoom ? 0 : -EAGAIN;
      },
      service: {
        silentMs: () => this.silentMs,
        devices: { discovered: this.found.promise, reports: () => this.devices },
      },
      kind: "vbd3",
      ending: this.ending.signal,
      closingMs: 10_000,
      guests: new Map(),
      logger: SILENT,
      clock: this.clock,
    });
  }

  /** Lets time pass in steps, and returns what was sent meanwhile. */
  async pass(ms: number, stepMs = 500): Promise<string[]> {
    const before = this.sent.length;
    for (let passed = 0; passed < ms; passed += stepMs) {
      this.clock.advance(stepMs);
      await settled();
    }
    return this.sent.slice(before);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.notices[Symbol.asyncDispose]();
  }
}

/** All that can happen without time has happened. */
function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

function device(label: string, more: Partial<DeviceStatus> = {}): DeviceStatus {
  const totals = readStats(createStats());
  const none = latencyOf([]);
  const domain = 5 as DeviceStatus["domain"];
  const states = {
    backendState: "Connected",
    frontendState: "Connected",
    connected: true,
    latched: false,
    weight: 100,
    owned: true,
  };
  return {
    label,
    backendPath: "",
    kind: "vbd3",
    domain,
    vdev: 51712,
    name: "xvda",
    ...states,
    totals,
    latency: { read: none, write: none, flush: none, discard: none },
    busyNs: 0,
    atMs: 0,
    queues: [],
    ...more,
  };
}

Deno.test("ready is told once the disks are found, and again if there was no room; a new status only if it changed", async () => {
  await using rig = new Rig();
  assertEquals(rig.sent, ["STATUS=Looking for disks"]);
  rig.hasRoom = false;
  rig.found.resolve();
  await settled();
  rig.hasRoom = true;
  assertEquals(await rig.pass(20_000), ["READY=1\nSTATUS=0 disks of kind vbd3, 0 connected"]);
  rig.devices = [device("vbd3/5/51712")];
  assertEquals(await rig.pass(60_000), ["READY=1\nSTATUS=1 disk of kind vbd3, 1 connected"]);
});

Deno.test("a sign of life is sent four times as often as it is due, but not while a reactor is silent", async () => {
  await using rig = new Rig(8_000);
  const alive = (sent: string[]): number => sent.filter((text) => text === "WATCHDOG=1").length;
  assertEquals(alive(await rig.pass(16_000)), 8);
  rig.silentMs = 4_001;
  assertEquals(alive(await rig.pass(16_000)), 0);
  rig.silentMs = 0;
  assert(alive(await rig.pass(16_000)) >= 7);
});

Deno.test("an ending process asks for more time as long as its guests may take and half a minute, then no more", async () => {
  await using rig = new Rig();
  rig.ending.abort();
  await settled();
  const sent = await rig.pass(39_000);
  assertEquals(rig.sent[1], "STOPPING=1\nSTATUS=Finishing the requests in flight");
  assert(sent.length > 15 && sent.every((text) => text === "EXTEND_TIMEOUT_USEC=10000000"), `${sent}`);
  await rig.pass(3_000);
  assertEquals(await rig.pass(60_000), []);
});

Deno.test("the status names the first disk with an error, in one line", () => {
  const devices = [device("vbd3/5/1"), device("vbd3/6/2", { connected: false, error: "Cannot open\nREADY=1" })];
  assertEquals(
    statusLine(devices, "vbd3", new Map([[5, "web"]])),
    "2 disks of kind vbd3, 1 connected, 1 with an error: xvda of web: Cannot open\\x0aREADY=1",
  );
  assertMatch(statusLine(devices, "vbd3"), /: xvda of domain 5: Cannot/);
});

Deno.test("a service manager is known by its socket; a watchdog for another process does not count", () => {
  const of = (variables: Record<string, string>): unknown => serviceManagerOf((name) => variables[name], 7);
  assertEquals(of({}), undefined);
  assertEquals(of({ NOTIFY_SOCKET: "vsock:2:1234" }), undefined);
  assertEquals(of({ NOTIFY_SOCKET: "@a", WATCHDOG_USEC: "2000000" }), { socket: "@a", watchdogMs: 2000 });
  assertEquals(of({ NOTIFY_SOCKET: "/a", WATCHDOG_USEC: "2000000", WATCHDOG_PID: "8" }), { socket: "/a" });
  assertEquals(of({ NOTIFY_SOCKET: "/a", WATCHDOG_USEC: "none" }), { socket: "/a" });
});
