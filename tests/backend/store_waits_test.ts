/**
 * How often a device waits for xenstored until its guest uses the disk, and how much it asks of it. It is what a host with
 * a thousand disks waits for when they all appear, or their process starts again: xenstored has one thread, and each
 * request and each written node costs it more, the more guests there are.
 */

import { assert, assertEquals } from "@std/assert";
import type { Xenstore, XenstoreOperations } from "../../lib/hypervisor.ts";
import { tryReadAll } from "../../lib/xenstore.ts";
import { DisksInUse } from "../../lib/toolstack/disks_in_use.ts";
import { findExcludingDisk } from "../../lib/toolstack/sharing.ts";
import { DOM0, Rig } from "./rig.ts";

const DISKS = 24;
/** What one disk may wait for, from its nodes to Connected; apart from looking whether others use its image. */
const MOST_WAITS = 50;
/** What one disk may ask of xenstored, in the same time: all requests, transactions, and nodes that are written. */
const MOST_REQUESTS = 160;
const MOST_TRANSACTIONS = 4;
const MOST_WRITES = 20;

/** What devices have asked of xenstored. */
interface Asked {
  waits: number;
  requests: number;
  transactions: number;
  writes: number;
}

/**
 * Counts waits as the real store has them: one for many reads, none for a write in a transaction. Requests are the messages
 * that it sends.
 */
class CountedStore {
  readonly asked: Asked = { waits: 0, requests: 0, transactions: 0, writes: 0 };

  of(store: Xenstore): Xenstore {
    return this.#counted(store, true) as Xenstore;
  }

  #counted(store: XenstoreOperations | Xenstore, waitsForWrites: boolean): XenstoreOperations {
    const { asked } = this;
    const count = <A extends unknown[], R>(call: (...args: A) => R, waits = 1, requests = waits) => (...args: A): R => {
      asked.waits += waits;
      asked.requests += requests;
      return call(...args);
    };
    const counted: Record<string, unknown> = {
      read: count((path: string) => store.read(path)),
      list: count((path: string) => store.list(path)),
      write: (path: string, value: string) => {
        asked.writes++;
        return count(() => store.write(path, value), waitsForWrites ? 1 : 0, 1)();
      },
      remove: count((path: string) => store.remove(path), 2),
      readAll: (paths: readonly string[]) => count(() => tryReadAll(store, paths), 1, paths.length)(),
    };
    if ("transaction" in store) {
      const transaction = <T>(body: (inner: XenstoreOperations) => T): T =>
        store.transaction((inner) => body(this.#counted(inner, false)));
      counted.transaction = <T>(body: (inner: XenstoreOperations) => T): T => {
        asked.transactions++;
        return count(() => transaction(body), 3, 2)(); // its begin, its writes and its end
      };
      counted.watch = count((path: string) => store.watch(path));
    }
    return new Proxy(store, {
      get: (target, key) =>
        counted[String(key)] ?? Reflect.get(target, key)?.bind?.(target) ?? Reflect.get(target, key),
    });
  }
}

/** What a process asks that serves so many disks, from their nodes on; of each. */
async function askedFor(disks: number, sharing: boolean): Promise<Asked> {
  await using rig = new Rig();
  const counted = new CountedStore();
  const inUse = new DisksInUse();
  rig.serve({}, {
    openXenstore: () => counted.of(rig.simulated.connect(DOM0)),
    ...(sharing && {
      findExcludingDisk: (store, user, query) => findExcludingDisk(store, user, query, { disks: inUse }),
    }),
  });
  const { asked } = counted;
  Object.assign(asked, { waits: 0, requests: 0, transactions: 0, writes: 0 });
  const devices = Array.from({ length: disks }, (_, i) => rig.attach({ vdev: `xvd${String.fromCharCode(97 + i)}` }));
  await Promise.all(devices.map((device) => rig.frontend(device).connect()));
  assertEquals(rig.plane.queues.length, disks);
  const { waits, requests, transactions, writes } = asked;
  return {
    waits: waits / disks,
    requests: requests / disks,
    transactions: transactions / disks,
    writes: writes / disks,
  };
}

function assertFew({ waits, requests, transactions, writes }: Asked, allowance = 1): void {
  const most = [MOST_WAITS * allowance, MOST_REQUESTS * allowance, MOST_TRANSACTIONS, MOST_WRITES];
  const few = [waits, requests, transactions, writes].every((count, kind) => count <= most[kind]!);
  assert(few, `${waits} waits, ${requests} requests, ${transactions} transactions, ${writes} writes of a disk`);
}

Deno.test(`a disk that appears and is connected waits for the store ${MOST_WAITS} times at most, and asks little`, async () => {
  assertFew(await askedFor(1, false));
});

Deno.test("many disks that appear together ask no more each than one alone", async () => {
  assertFew(await askedFor(DISKS, false));
});

Deno.test("looking whether others use their images costs many disks that appear together no more each", async () => {
  assertFew(await askedFor(DISKS, true), 1.5);
});
