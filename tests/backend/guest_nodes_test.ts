/**
 * What the guest does to its own nodes: writing them without end, publishing other rings under a Connected backend, hiding
 * them, and being gone in one way or another.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { DomId, Xenstore, XenstoreWatch } from "../../lib/hypervisor.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { faultyStore, type Judge } from "./faulty_store.ts";
import { DOM0, FAST_CLOCK, GUEST, Rig, RING_NODES, turn, until } from "./rig.ts";

Deno.test("no transaction reads what the guest writes, so the guest can make none conflict", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const inside: string[] = [];
  let isInside = false;
  const judge: Judge = ({ what, path }) => {
    if (isInside && what === "read") inside.push(path);
    return undefined;
  };
  const openXenstore = (): Xenstore => {
    const store = faultyStore(rig.simulated.connect(DOM0), judge);
    const transaction = store.transaction;
    const noting: Xenstore["transaction"] = (body) => {
      isInside = true;
      try {
        return transaction(body);
      } finally {
        isInside = false;
      }
    };
    return { ...store, transaction: noting };
  };
  rig.serve({}, { openXenstore });
  const frontend = rig.frontend(device);
  await frontend.connect();
  await frontend.disconnect();
  await frontend.reconnect();
  assert(inside.length > 0);
  assertEquals(inside.filter((path) => path.startsWith(`/local/domain/${GUEST}/`)), []);
});

Deno.test("a guest that goes from Initialised to Connected and back all the time is served", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  let state = 3;
  // With each look at the guest's state, the state is another one by the next look.
  const judge: Judge = ({ what, path }) => {
    if (what === "read" && path === `${frontendPath(device)}/state` && rig.backend(device, "state") === "2") {
      rig.guestWrites(device, { state: String(state = 7 - state) });
    }
    return undefined;
  };
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  rig.serve({}, { openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  await rig.backendReaches(device, 4);
  assertEquals(rig.plane.open.length, 1);
});

/** A store on which the first watch of a path fires 5000 times. */
function flooded(store: Xenstore, flooded: string, counts: { watches: number; events: number }): Xenstore {
  const watch = store.watch.bind(store);
  return Object.assign(store, {
    watch: (path: string): XenstoreWatch => {
      const inner = watch(path);
      if (path !== flooded) return inner;
      const isFirst = counts.watches++ === 0;
      let isOver = false;
      return {
        async *[Symbol.asyncIterator](): AsyncGenerator<string> {
          while (isFirst && !isOver && counts.events < 5_000) {
            counts.events++;
            yield `${path}/state`;
          }
          yield* inner;
        },
        [Symbol.dispose]: (): void => {
          isOver = true;
          inner[Symbol.dispose]();
        },
      };
    },
  });
}

Deno.test("a guest that writes its nodes without end is not watched for a while, and noticed all the same", async () => {
  await using rig = new Rig();
  const clock = new SimulatedClock();
  const device = rig.attach();
  const counts = { watches: 0, events: 0 };
  rig.serve({}, { clock, openXenstore: () => flooded(rig.simulated.connect(DOM0), frontendPath(device), counts) });
  await rig.backendReaches(device, 2);
  await until("the watch is dropped", () => counts.events >= 1_500);
  for (let looks = 0; looks < 5; looks++) {
    clock.advance(50);
    await turn();
  }
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await turn();
  assertEquals(rig.backend(device, "state"), "2", "it is not watched");
  for (let waits = 0; waits < 50 && rig.backend(device, "state") !== "4"; waits++) {
    clock.advance(100);
    await turn();
  }
  assertEquals([rig.backend(device, "state"), counts.watches], ["4", 2]);
  assert(counts.events <= 1_501, `${counts.events} events`);
});

Deno.test("a guest that is resumed in place, Initialised again with a new ring, gets that ring and no replay of the old one", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve({}, { keepJournals: true });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  const nonce = rig.backend(device, "connection-nonce");
  rig.writes.length = 0;
  rig.guestWrites(device, { "ring-ref": "9", "event-channel": "16", state: "3" });
  await until("the new ring is served", () => rig.plane.open.some(({ spec }) => spec.ringRefs.join() === "9"));
  await until("the frontend is told", () => rig.statesWritten(device).includes("4"));
  assertEquals([rig.plane.queues.length, rig.plane.open.length], [2, 1]);
  assert(rig.backend(device, "connection-nonce") !== nonce);
});

Deno.test("so does one whose new ring has the numbers of the old one", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await until("the new ring is served", () => rig.plane.queues.length === 2 && rig.plane.open.length === 1);
});

Deno.test("a new ring of a Connected guest that cannot be mapped is refused aloud", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  rig.plane.refuse = "Cannot map the ring: grant 9 is not valid";
  rig.guestWrites(device, { "ring-ref": "9" });
  await until("it is refused", () => rig.backend(device, "error") === rig.plane.refuse);
  await rig.says("grant 9 is not valid");
});

Deno.test("rings that are refused for a guest of several queues name the queue and the node that may be left over", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve({ maxQueues: 4 });
  await rig.backendReaches(device, 2);
  const queue = (number: number) => ({
    [`queue-${number}/ring-ref`]: "8",
    [`queue-${number}/event-channel`]: String(20 + number),
  });
  rig.guestWrites(device, { "multi-queue-num-queues": "2", ...queue(0), ...queue(1) });
  rig.plane.refuse = "Cannot map the ring: grant 8 is not valid";
  rig.guestWrites(device, { state: "3" });
  await until("it is refused", () => rig.backend(device, "error") !== undefined);
  assertStringIncludes(
    rig.backend(device, "error")!,
    "Cannot serve queue 0: Cannot map the ring: grant 8 is not valid",
  );
  assertStringIncludes(rig.backend(device, "error")!, "multi-queue-num-queues");
});

Deno.test("nodes that the guest hides are an error that names the node, the reason and what to do, and that ends with them", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  let hidden: RegExp | undefined = /\/device\/vbd\/\d+\/state$/;
  const judge: Judge = ({ what, path }) => what === "read" && hidden?.test(path) ? "EACCES" : undefined;
  rig.serve({}, { clock: FAST_CLOCK, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  const says = async (node: string): Promise<void> => {
    await until(`${node} is an error`, () => rig.backend(device, "error")?.includes(node) === true);
    assertStringIncludes(
      rig.backend(device, "error")!,
      `Cannot read ${frontendPath(device)}/${node}: the guest does not permit it (EACCES); let the guest's driver`,
    );
  };
  await says("state");
  hidden = /ring-ref$/;
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await says("ring-ref");
  hidden = undefined;
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  rig.guestWrites(device, { ...RING_NODES, state: "1" });
  await rig.backendReaches(device, 2);
  rig.guestWrites(device, { state: "3" });
  await rig.backendReaches(device, 4);
  // The nodes say so once the device is at rest.
  await until("the error is over", () => rig.backend(device, "error") === undefined);
  assertEquals(rig.lines.filter((line) => line.includes("will be retried")), []);
});

Deno.test("the log and the status tell a frontend that is gone from a domain that has ended", async () => {
  await using rig = new Rig();
  const other = 6 as DomId;
  rig.simulated.createGuest(other);
  const [first, second] = [rig.attach(), rig.attach({ domain: other })];
  const kind = rig.serve();
  for (const device of [first, second]) await rig.frontend(device).connect();
  rig.toolstack.remove(frontendPath(first));
  rig.simulated.releaseDomain(other);
  for (const device of [first, second]) await rig.backendReaches(device, 6);
  await rig.says(`vbd3/5/${first.vdev}: closed: its frontend's directory is gone`);
  await rig.says(`vbd3/6/${second.vdev}: closed: its domain is unknown to xenstored`);
  assertEquals(kind.status().map(({ frontendState }) => frontendState), ["gone", "domain gone"]);
});

Deno.test("a device whose nodes vanish in one go while it is looked at is not reported as misconfigured", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  let removed = false;
  const judge: Judge = ({ what, path }) => {
    // In InitWait the node is read to see what the disk is.
    if (what === "read" && path.endsWith("/device-type") && rig.backend(device, "state") === "2" && !removed) {
      removed = true;
      removeDevice(rig.toolstack, device);
    }
    return undefined;
  };
  const kind = rig.serve({}, { openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  await until("the device is gone", () => removed && kind.status().length === 0);
  assertEquals(rig.lines.filter((line) => line.startsWith("error")), []);
  assertEquals(rig.toolstack.list("/local/domain/0/error") ?? [], []);
  assertEquals(rig.toolstack.read(`${backendPath(device)}/state`), undefined);
});
