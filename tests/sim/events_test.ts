/**
 * Event channels and parking of the simulated machine: binding and its errors, merging and unbinding; no event and no
 * wake between Workers is lost.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, EventChannels, EvtchnPort, Platform } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { destroyDomain, machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { EchoStart } from "./events_worker.ts";

const BACKEND = 0 as DomId;
const GUEST = 3 as DomId;

function open(): { machine: SharedArrayBuffer; back: Platform; front: Platform } {
  const machine = createMachine({ memoryBytes: 1 << 20, domains: 5, grantsPerDomain: 64, portsPerDomain: 16 });
  return { machine, back: openSimulatedPlatform(machine, BACKEND), front: openSimulatedPlatform(machine, GUEST) };
}

function taken(events: EventChannels): number[] {
  const ports = new Uint32Array(16);
  return [...ports.subarray(0, events.take(ports))];
}

Deno.test("binding raises the local port once; notifies merge until they are taken", () => {
  const { back, front } = open();
  using frontEvents = front.openEventChannels(BACKEND);
  using backEvents = back.openEventChannels(GUEST);
  const frontPort = frontEvents.bindUnbound(BACKEND);
  const backPort = backEvents.bindInterdomain(GUEST, frontPort);
  assertEquals(taken(backEvents), [backPort]);
  assertEquals(taken(backEvents), []);
  assertEquals(taken(frontEvents), [], "binding does not raise the other end");
  for (let i = 0; i < 5; i++) frontEvents.notify(frontPort);
  assertEquals(taken(backEvents), [backPort]);
  assertEquals(taken(backEvents), []);
  backEvents.notify(backPort);
  assertEquals(taken(frontEvents), [frontPort]);
});

Deno.test("a port that is bound, for another domain, free or out of range cannot be bound", () => {
  const { back, front, machine } = open();
  using frontEvents = front.openEventChannels(BACKEND);
  using backEvents = back.openEventChannels(GUEST);
  const bound = frontEvents.bindUnbound(BACKEND);
  backEvents.bindInterdomain(GUEST, bound);
  assertThrows(() => backEvents.bindInterdomain(GUEST, bound), XenblkError, "not waiting");
  const elsewhere = frontEvents.bindUnbound(4 as DomId);
  assertThrows(() => backEvents.bindInterdomain(GUEST, elsewhere), XenblkError, "another domain");
  assertThrows(() => backEvents.bindInterdomain(GUEST, 9 as EvtchnPort), XenblkError, "not waiting");
  for (const port of [0, 16, 0xffffffff]) {
    assertThrows(() => backEvents.bindInterdomain(GUEST, port as EvtchnPort), XenblkError, "no such port");
  }
  assertThrows(() => backEvents.bindInterdomain(4 as DomId, 1 as EvtchnPort), XenblkError, "handle is for domain 3");
  assertEquals(machineUsage(machine).ports, 3);
});

Deno.test("after unbinding, or closing the handle, the other end can be bound again; events in between are dropped", () => {
  const { back, front, machine } = open();
  using frontEvents = front.openEventChannels(BACKEND);
  const frontPort = frontEvents.bindUnbound(BACKEND);
  for (let i = 0; i < 40; i++) {
    using backEvents = back.openEventChannels(GUEST);
    const backPort = backEvents.bindInterdomain(GUEST, frontPort);
    if (i % 2 === 0) backEvents.unbind(backPort);
    if (i % 2 === 0) assertThrows(() => backEvents.notify(backPort), XenblkError, "not bound");
  }
  frontEvents.notify(frontPort);
  using again = back.openEventChannels(GUEST);
  const port = again.bindInterdomain(GUEST, frontPort);
  assertEquals(taken(again), [port], "binding raises it, so that no event is missed");
  assertEquals(machineUsage(machine).ports, 2);
  assertEquals(machineUsage(machine).channelSets, 2);
});

Deno.test("take fills a small buffer again and again until it has returned all ports", () => {
  const { back, front } = open();
  using frontEvents = front.openEventChannels(BACKEND);
  using backEvents = back.openEventChannels(GUEST);
  const all = new Set<number>();
  for (let i = 0; i < 12; i++) all.add(backEvents.bindInterdomain(GUEST, frontEvents.bindUnbound(BACKEND)));
  const ports = new Uint32Array(5);
  const counts: number[] = [];
  for (let count = -1; count !== 0;) {
    count = backEvents.take(ports);
    counts.push(count);
    for (let i = 0; i < count; i++) assert(all.delete(ports[i]!));
  }
  assertEquals(counts, [5, 5, 2, 0]);
});

Deno.test("the ports of a destroyed domain close, and the other end can unbind", () => {
  const { back, front, machine } = open();
  const frontEvents = front.openEventChannels(BACKEND);
  using backEvents = back.openEventChannels(GUEST);
  const port = backEvents.bindInterdomain(GUEST, frontEvents.bindUnbound(BACKEND));
  destroyDomain(machine, GUEST);
  backEvents.notify(port);
  backEvents.unbind(port);
  assertEquals(machineUsage(machine).ports, 0);
});

Deno.test("a park ends at once for a pending event or an earlier wake, and else after its timeout", () => {
  const { back, front, machine } = open();
  using token = back.createWakeToken();
  using parker = back.openParker(token);
  const waker = back.openWaker(token);
  using frontEvents = front.openEventChannels(BACKEND);
  using backEvents = back.openEventChannels(GUEST);
  const port = frontEvents.bindUnbound(BACKEND);
  backEvents.bindInterdomain(GUEST, port);
  parker.watch(backEvents);
  parker.park(-1);
  parker.park(-1);
  assertEquals(taken(backEvents).length, 1);
  const begin = performance.now();
  parker.park(30);
  assert(performance.now() - begin >= 29);
  waker.wake();
  waker.wake();
  parker.park(-1);
  frontEvents.notify(port);
  parker.park(-1);
  taken(backEvents);
  parker.unwatch(backEvents);
  frontEvents.notify(port);
  const again = performance.now();
  parker.park(20);
  assert(performance.now() - again >= 19, "events of an unwatched handle do not wake");
  assertEquals(machineUsage(machine).wakeWords, 1);
});

Deno.test("a real descriptor cannot be watched, and takes no other's events", () => {
  const { front, back } = open();
  using token = back.createWakeToken();
  using parker = back.openParker(token);
  using events = back.openEventChannels(GUEST);
  using frontEvents = front.openEventChannels(BACKEND);
  parker.watch(events);
  for (let fd = -1; fd < 1100; fd++) assertThrows(() => parker.watch({ fd, fired: () => {} }), TypeError);
  const port = frontEvents.bindUnbound(BACKEND);
  back.openWaker(token).wake();
  parker.park(-1);
  events.bindInterdomain(GUEST, port);
  parker.park(-1);
  assertEquals(taken(events).length, 1);
});

Deno.test("no event is lost in 20000 round trips between Workers", async () => {
  const { front, machine } = open();
  using events = front.openEventChannels(BACKEND);
  using token = front.createWakeToken();
  using workerToken = front.createWakeToken();
  using parker = front.openParker(token);
  parker.watch(events);
  const remotePort = events.bindUnbound(BACKEND);
  const buffer = new SharedArrayBuffer(8);
  const counters = new Int32Array(buffer);
  const worker = new Worker(new URL("./events_worker.ts", import.meta.url), { type: "module" });
  const message = (): Promise<unknown> => new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
  const bound = message();
  const start: EchoStart = {
    machine,
    domain: 0,
    remoteDomain: GUEST,
    remotePort,
    token: workerToken,
    counters: buffer,
  };
  worker.postMessage(start);
  assertEquals(await bound, "bound");
  const over = message();
  const lateMs = 10_000;
  for (let i = 1; i <= 20_000; i++) {
    Atomics.store(counters, 0, i);
    events.notify(remotePort);
    const begin = performance.now();
    while (Atomics.load(counters, 1) !== i) {
      assert(performance.now() - begin < lateMs, `event ${i} was lost`);
      if (taken(events).length === 0) parker.park(lateMs);
    }
  }
  Atomics.store(counters, 0, -1);
  events.notify(remotePort);
  front.openWaker(workerToken).wake();
  assertEquals(await over, "over");
  worker.terminate();
});
