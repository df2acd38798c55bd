/**
 * How often a device waits for xenstored until its guest uses the disk. It is what a host with a thousand disks waits for
 * when they all appear, or their process starts again.
 */

import { assert, assertEquals } from "@std/assert";
import type { Xenstore, XenstoreOperations } from "../../lib/hypervisor.ts";
import { tryReadAll } from "../../lib/xenstore.ts";
import { DisksInUse } from "../../lib/toolstack/disks_in_use.ts";
import { findExcludingDisk } from "../../lib/toolstack/sharing.ts";
import { DOM0, Rig } from "./rig.ts";

const DISKS = 24;
/** What one disk may wait for, from its nodes to Connected; apart from looking whether others use its image. */
const MOST_WAITS = 60;

/** Counts waits as the real store has them: one for many reads, none for a write in a transaction. */
class CountedStore {
  waits = 0;

  of(store: Xenstore): Xenstore {
    return this.#counted(store, true) as Xenstore;
  }

  #counted(store: XenstoreOperations | Xenstore, waitsForWrites: boolean): XenstoreOperations {
    const count = <A extends unknown[], R>(call: (...args: A) => R, waits = 1) => (...args: A): R => {
      this.waits += waits;
      return call(...args);
    };
    const counted: Record<string, unknown> = {
      read: count((path: string) => store.read(path)),
      list: count((path: string) => store.list(path)),
      write: count((path: string, value: string) => store.write(path, value), waitsForWrites ? 1 : 0),
      remove: count((path: string) => store.remove(path), 2),
      readAll: count((paths: readonly string[]) => tryReadAll(store, paths), 1),
    };
    if ("transaction" in store) {
      const transaction = <T>(body: (inner: XenstoreOperations) => T): T =>
        store.transaction((inner) => body(this.#counted(inner, false)));
      counted.transaction = count(transaction, 3); // its begin, its writes and its end
      counted.watch = count((path: string) => store.watch(path));
    }
    return new Proxy(store, {
      get: (target, key) =>
        counted[String(key)] ?? Reflect.get(target, key)?.bind?.(target) ?? Reflect.get(target, key),
    });
  }
}

/** The waits of a process that serves so many disks, from their nodes on. */
async function waitsFor(disks: number, sharing: boolean): Promise<number> {
  await using rig = new Rig();
  const counted = new CountedStore();
  const inUse = new DisksInUse();
  rig.serve({}, {
    openXenstore: () => counted.of(rig.simulated.connect(DOM0)),
    ...(sharing && {
      findExcludingDisk: (store, user, query) => findExcludingDisk(store, user, query, { disks: inUse }),
    }),
  });
  counted.waits = 0;
  const devices = Array.from({ length: disks }, (_, i) => rig.attach({ vdev: `xvd${String.fromCharCode(97 + i)}` }));
  await Promise.all(devices.map((device) => rig.frontend(device).connect()));
  assertEquals(rig.plane.queues.length, disks);
  return counted.waits;
}

Deno.test(`a disk that appears and is connected waits for the store ${MOST_WAITS} times at most`, async () => {
  const waits = await waitsFor(1, false);
  assert(waits <= MOST_WAITS, `${waits} waits`);
});

Deno.test("many disks that appear together wait no more each than one alone", async () => {
  const waits = await waitsFor(DISKS, false) / DISKS;
  assert(waits <= MOST_WAITS, `${waits} waits for each of ${DISKS} disks`);
});

Deno.test("looking whether others use their images costs many disks that appear together no more each", async () => {
  const waits = await waitsFor(DISKS, true) / DISKS;
  assert(waits <= 1.5 * MOST_WAITS, `${waits} waits for each of ${DISKS} disks`);
});
