/**
 * Scenarios of ffi/xen/evtchn.ts, ffi/linux/park.ts and parking on an io_uring, with two domains in one process or in
 * two. ffi_child.ts runs them.
 */

import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { UringEngine } from "../../ffi/uring/engine.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { EventChannels } from "../../lib/hypervisor.ts";
import { actingAs, DOM0, GUEST, platform, portOf, type Scenarios } from "./ffi_scenario.ts";

/** A handle of the guest and a handle of domain 0. */
function bothSides(): { readonly frontend: EventChannels; readonly backend: EventChannels } {
  return {
    frontend: actingAs(GUEST, () => platform.openEventChannels(DOM0)),
    backend: actingAs(DOM0, () => platform.openEventChannels(GUEST)),
  };
}

/** The ports that fired, from one call with room for eight. */
function fired(events: EventChannels): number[] {
  const ports = new Uint32Array(8);
  const count = events.take(ports);
  assert(count >= 0, `take returned ${count}`);
  return [...ports.subarray(0, count)];
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Starts a process of domain 0 that binds to the guest's port and then sleeps. Resolves when it has bound. */
async function bindInOtherProcess(remote: number): Promise<Deno.ChildProcess> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", new URL("./ffi_child.ts", import.meta.url).pathname, "binds and sleeps", String(remote)],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  assertEquals(new TextDecoder().decode(value).trim(), "bound");
  await reader.cancel();
  return child;
}

export const EVENT_SCENARIOS: Scenarios = {
  "binding raises the local port once, and no other": () => {
    const { frontend, backend } = bothSides();
    const local = backend.bindInterdomain(GUEST, frontend.bindUnbound(DOM0));
    assertEquals([fired(backend), fired(backend), fired(frontend)], [[local], [], []]);
  },

  "a handle that has bound a port reaches no other domain; one that creates ports is not restricted": () => {
    const { frontend, backend } = bothSides();
    const remote = frontend.bindUnbound(DOM0);
    assert(backend.unrestricted !== undefined && frontend.unrestricted !== undefined);
    backend.bindInterdomain(GUEST, remote);
    assertEquals(backend.unrestricted, undefined);
    const elsewhere = actingAs(DOM0, () => platform.openEventChannels(DOM0)).bindUnbound(DOM0);
    const error = assertThrows(() => backend.bindInterdomain(DOM0, elsewhere), XenblkError);
    assertEquals(error.message, `Cannot bind to event channel ${elsewhere} of domain 0: Permission denied (EACCES)`);
    assert(frontend.bindUnbound(DOM0) > 0);
  },

  "a handle for domain 0 itself cannot be restricted, and says why": () => {
    const own = actingAs(DOM0, () => platform.openEventChannels(DOM0));
    const backend = actingAs(DOM0, () => platform.openEventChannels(DOM0));
    backend.bindInterdomain(DOM0, own.bindUnbound(DOM0));
    assertEquals(backend.unrestricted, "Invalid argument (EINVAL)");
  },

  "events go both ways, and events that are not taken yet merge": () => {
    const { frontend, backend } = bothSides();
    const remote = frontend.bindUnbound(DOM0);
    const local = backend.bindInterdomain(GUEST, remote);
    fired(backend);
    backend.notify(local);
    assertEquals(fired(frontend), [remote]);
    for (let count = 0; count < 10; count++) frontend.notify(remote);
    using token = platform.createWakeToken();
    using parker = platform.openParker(token);
    parker.watch(backend);
    let events = 0;
    for (let taken = fired(backend); taken.length > 0; taken = fired(backend)) {
      events += taken.length;
      parker.park(200);
    }
    // The first event masks the port until it is taken. The others merge into one, which is raised by the unmask.
    assertEquals(events, 2);
  },

  "if more ports fire than fit into one call, further calls take the rest, none twice": () => {
    const { frontend, backend } = bothSides();
    const bound = Array.from({ length: 20 }, () => backend.bindInterdomain(GUEST, frontend.bindUnbound(DOM0)));
    const taken = [fired(backend), fired(backend), fired(backend), fired(backend)];
    assertEquals(taken.map((ports) => ports.length), [8, 8, 4, 0]);
    assertEquals(taken.flat().sort((a, b) => a - b), [...bound].sort((a, b) => a - b));
  },

  "a port that cannot be bound, notified or unbound is named in the error": () => {
    const { frontend, backend } = bothSides();
    const remote = frontend.bindUnbound(DOM0);
    backend.bindInterdomain(GUEST, remote);
    const bind = (port: number): XenblkError =>
      assertThrows(() => backend.bindInterdomain(GUEST, portOf(port)), XenblkError);
    assertEquals(
      bind(3000).message,
      "Cannot bind to event channel 3000 of domain 1: Invalid argument (EINVAL)",
    );
    assertEquals(
      bind(remote).message,
      `Cannot bind to event channel ${remote} of domain 1: Invalid argument (EINVAL)`,
    );
    assertThrows(() => backend.notify(portOf(3000)), XenblkError, "Cannot notify through event channel 3000: ");
    assertThrows(() => backend.unbind(portOf(3000)), XenblkError, "Cannot unbind event channel 3000: ");
  },

  "an unbound port gets no event, and its remote port can be bound again": () => {
    const { frontend, backend } = bothSides();
    const remote = frontend.bindUnbound(DOM0);
    const first = backend.bindInterdomain(GUEST, remote);
    assertEquals(fired(backend), [first]);
    backend.unbind(first);
    frontend.notify(remote);
    assertEquals(fired(backend), []);
    const second = backend.bindInterdomain(GUEST, remote);
    assertEquals(fired(backend), [second]);
  },

  "a port can be bound again after its backend was killed": async () => {
    const { frontend, backend } = bothSides();
    const remote = frontend.bindUnbound(DOM0);
    const child = await bindInOtherProcess(remote);
    assertThrows(() => backend.bindInterdomain(GUEST, remote), XenblkError, "Invalid argument");
    child.kill("SIGKILL");
    await child.status;
    const local = backend.bindInterdomain(GUEST, remote);
    fired(backend);
    frontend.notify(remote);
    assertEquals(fired(backend), [local]);
  },

  "binds and sleeps": async (remote = "") => {
    const backend = platform.openEventChannels(GUEST);
    backend.bindInterdomain(GUEST, portOf(Number(remote)));
    // deno-lint-ignore no-console -- tells the parent process that the port is bound
    console.log("bound");
    await sleep(60_000);
  },

  "a park ends at an event of a watched channel, at a wake, or at its timeout": () => {
    const { frontend, backend } = bothSides();
    const remote = frontend.bindUnbound(DOM0);
    const local = backend.bindInterdomain(GUEST, remote);
    using token = platform.createWakeToken();
    using parker = platform.openParker(token);
    const parkedMs = (timeoutMs: number): number => {
      const start = platform.now();
      parker.park(timeoutMs);
      return platform.now() - start;
    };
    parker.watch(backend);
    assertLess(parkedMs(10_000), 5000);
    assertEquals(fired(backend), [local]);
    assert(parkedMs(20) >= 20, "a taken event does not end a park");
    frontend.notify(remote);
    assertLess(parkedMs(10_000), 5000);
    platform.openWaker(token).wake();
    assertLess(parkedMs(10_000), 5000);
    parker.unwatch(backend);
    assert(parkedMs(20) >= 20, "an event of a channel that is not watched does not end a park");
    assertEquals(fired(backend), [local]);
  },

  "events of channels that an io_uring watches are taken after it noticed them, and none is missed": () => {
    const { frontend, backend } = bothSides();
    const remotes = Array.from({ length: 20 }, () => frontend.bindUnbound(DOM0));
    const locals = remotes.map((remote) => backend.bindInterdomain(GUEST, remote));
    while (fired(backend).length > 0);
    using token = platform.createWakeToken();
    using engine = new UringEngine(token);
    engine.watch(backend);
    engine.submit();
    assertEquals(fired(backend), []);
    frontend.notify(remotes[0]!);
    assertEquals(fired(backend), [], "the io_uring has not noticed it yet");
    engine.park(10_000);
    assertEquals([fired(backend), fired(backend)], [[locals[0]], []]);
    frontend.notify(remotes[1]!);
    for (const end = platform.now() + 10_000; fired(backend).length === 0;) {
      engine.submit();
      assertLess(platform.now(), end, "a submit notices events too");
    }
    for (const remote of remotes) frontend.notify(remote);
    engine.park(10_000);
    const taken: number[] = [];
    for (let ports = fired(backend); ports.length > 0; ports = fired(backend)) taken.push(...ports);
    assertEquals(taken.sort((a, b) => a - b), locals.sort((a, b) => a - b), "more ports than fit into one call");
    frontend.notify(remotes[2]!);
    engine.unwatch(backend);
    assertEquals(fired(backend).length, 1, "a channel that is not watched looks for itself");
  },

  "an io_uring ends a watch at once, even if an event is pending": () => {
    const { frontend, backend } = bothSides();
    const remotes = [frontend.bindUnbound(DOM0), frontend.bindUnbound(DOM0)];
    for (const remote of remotes) backend.bindInterdomain(GUEST, remote);
    while (fired(backend).length > 0);
    using token = platform.createWakeToken();
    using engine = new UringEngine(token);
    engine.watch(backend);
    frontend.notify(remotes[0]!);
    engine.park(10_000);
    while (fired(backend).length > 0);
    frontend.notify(remotes[1]!);
    const start = platform.now();
    engine.unwatch(backend);
    assertLess(platform.now() - start, 2000);
  },

  "an event of an unbound port hides no event of a bound one": () => {
    const { frontend, backend } = bothSides();
    const remotes = [frontend.bindUnbound(DOM0), frontend.bindUnbound(DOM0)];
    const locals = remotes.map((remote) => backend.bindInterdomain(GUEST, remote));
    while (fired(backend).length > 0);
    using token = platform.createWakeToken();
    using engine = new UringEngine(token);
    engine.watch(backend);
    frontend.notify(remotes[0]!);
    engine.park(10_000);
    backend.unbind(locals[0]!);
    assertEquals(fired(backend), [locals[0]!]);
    frontend.notify(remotes[1]!); // the driver may not report this event, because its queue was not seen empty
    assertEquals(fired(backend), [locals[1]!]);
    assertEquals(fired(backend), []);
    engine.unwatch(backend);
  },

  "calls on closed event channels throw; they do not reach C": () => {
    const { frontend, backend } = bothSides();
    backend[Symbol.dispose]();
    backend[Symbol.dispose]();
    assertThrows(() => backend.take(new Uint32Array(1)), TypeError, "closed");
    assertThrows(() => backend.notify(portOf(1)), TypeError, "closed");
    frontend[Symbol.dispose]();
  },
};
