/**
 * A queue that moves between reactors that are too busy, or held up by a disk: it is never stopped for that, and nobody
 * waits for a reactor that it has not reached.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { PlacedQueue, type Site } from "../../lib/dataplane/placed_queue.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { QueueSpec } from "../../lib/dataplane/types.ts";
import type { DomId, EvtchnPort } from "../../lib/hypervisor.ts";
import type { Disk, DiskAttachment } from "../../lib/storage/disk.ts";

const ATTACHMENT: DiskAttachment = { module: "file:///nowhere/disk.ts" };

const DISK: Disk = {
  properties: { sectors: 8, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
  description: "a disk",
  attachment: () => Promise.resolve(ATTACHMENT),
  reattach: () => ATTACHMENT,
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

const SPEC: QueueSpec = {
  label: "the queue",
  guest: 1 as DomId,
  ringRefs: [],
  eventChannel: 1 as EvtchnPort,
  abi: "x86_64-abi",
  disk: DISK,
  grants: "copy",
  stats: createStats(),
};

/** A reactor that does at once what it is asked to do. */
function site(lane: number, change: Partial<Site> = {}): Site {
  return {
    lane,
    prepare: () => Promise.resolve(),
    open: () => Promise.resolve(),
    release: () => Promise.resolve(true),
    begin: () => {},
    grow: () => Promise.resolve(),
    close: () => Promise.resolve(),
    ...change,
  };
}

function place(site: Site): { readonly site: Site; readonly leave: () => void } {
  return { site, leave: () => {} };
}

Deno.test("a ring goes back to its reactor however long that is too busy to begin", async () => {
  const limits: (number | undefined)[] = [];
  let isFree = true;
  const busy: Site["open"] = (_queue, _request, _signal, limitMs) => {
    limits.push(limitMs);
    return isFree || limitMs === undefined ? Promise.resolve() : Promise.reject(new Error("it was too busy to begin"));
  };
  const queue = new PlacedQueue(SPEC, place(site(0, { open: busy })), ATTACHMENT, () => 0);
  await queue.open();
  isFree = false;
  const stopped = queue.stopped.then(() => "stopped");
  const result = await queue.move(place(site(1, { open: busy })));
  assert(!result.moved);
  assertMatch(result.reason, /too busy/);
  assertEquals([queue.reactor, limits.at(-1)], [0, undefined]);
  assertEquals(await Promise.race([stopped, Promise.resolve("serving")]), "serving");
});

Deno.test("a ring that both reactors refuse is stopped", async () => {
  const refuse: Site["open"] = () => Promise.reject(new Error("its grants are gone"));
  const queue = new PlacedQueue(SPEC, place(site(0, { open: refuse })), ATTACHMENT, () => 0);
  const result = await queue.move(place(site(1, { open: refuse })));
  assertEquals(result.moved, false);
  assertMatch(await queue.stopped, /its grants are gone/);
});

Deno.test("a disk that grows does not wait for ever for a reactor that should serve its ring", async () => {
  const grown: number[] = [];
  const grow: Site["grow"] = (_id, sectors) => Promise.resolve(void grown.push(sectors));
  const queue = new PlacedQueue(SPEC, place(site(0, { grow })), ATTACHMENT, () => 0);
  const moving = queue.move(place(site(1, { prepare: () => new Promise(() => {}) })));
  await queue.grow(16);
  const result = await moving;
  assert(!result.moved);
  assertMatch(result.reason, /too busy/);
  assertEquals([queue.reactor, grown], [0, [16]]);
});
