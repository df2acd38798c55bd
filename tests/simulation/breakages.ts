/**
 * Ways to break the backend; the simulation must notice each (breakages_test.ts). They wrap a seam where there is one,
 * and else replace a method until they are disposed.
 */

import { OP_FLUSH_DISKCACHE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import { Journal } from "../../lib/dataplane/journal.ts";
import { Queue } from "../../lib/dataplane/queue.ts";
import { Latch } from "../../lib/dataplane/latch.ts";
import type { EventChannels, GrantTable, Platform, Xenstore, XenstoreOperations } from "../../lib/hypervisor.ts";
import type { BlockFile } from "../../lib/storage/engine/executor.ts";
import type { Breakage } from "./backend_process.ts";

/** A breakage and its name: one of the two fields is set. */
interface NamedBreakage {
  readonly name: string;
  readonly breakage?: Breakage;
  /** Replaces a method; disposing restores it. */
  readonly replace?: () => Disposable;
}

/** All breakages. */
export const BREAKAGES: readonly NamedBreakage[] = [
  { name: "a flush that does not flush", breakage: { file: (file) => fileWith(file, { syncDataSync: () => {} }) } },
  { name: "a barrier that does not order writes", replace: () => weakBarriers() },
  { name: "a bounds check that is off by one", breakage: { spec: (spec) => largerDisk(spec) } },
  { name: "a response with a wrong id", replace: () => wrongIds() },
  { name: "a response that is sent twice", replace: () => twoAnswers() },
  { name: "a page that is never unmapped", breakage: { platform: (platform) => withGrants(platform, leakyTable) } },
  { name: "data that goes into the wrong sector of a page", breakage: { platform: (p) => withGrants(p, shiftedCopy) } },
  { name: "notifications that are lost", breakage: { platform: (platform) => withoutNotifications(platform) } },
  { name: "a latch that does not latch", replace: () => replaceGetter(Latch.prototype, "tripped", () => false) },
  {
    name: "a latch that the next process forgets",
    replace: () => replace(Latch.prototype, "belongsTo", forgetting),
  },
  { name: "a journal that forgets responses", replace: () => replace(Journal.prototype, "answering", () => () => {}) },
  {
    name: "a ring that moves with requests in flight",
    replace: () => replaceGetter(Queue.prototype, "inFlight", () => 0),
  },
  { name: "an image that is not locked", breakage: { unlocked: true } },
  { name: "an image that is never closed", breakage: { unclosed: true } },
  { name: "one thread for the storage calls of all disks", breakage: { oneThread: true } },
  { name: "a process that waits for a hung disk for ever", breakage: { patient: true } },
  { name: "a state that is skipped", breakage: { store: (store) => skippingStore(store) } },
  {
    name: "a short write that is taken for a whole one",
    breakage: { file: (file) => fileWith(file, wholeWrites(file)) },
  },
];

/** True once in `count` calls. */
function every(count: number): () => boolean {
  let calls = 0;
  return () => ++calls % count === 0;
}

function fileWith(file: BlockFile, changed: Partial<BlockFile>): BlockFile {
  return {
    seekSync: (offset, whence) => file.seekSync(offset, whence),
    readSync: (into) => file.readSync(into),
    writeSync: (from) => file.writeSync(from),
    syncDataSync: () => file.syncDataSync(),
    close: () => file.close(),
    ...changed,
  };
}

function wholeWrites(file: BlockFile): Partial<BlockFile> {
  return {
    writeSync: (from) => {
      file.writeSync(from);
      return from.length;
    },
  };
}

function largerDisk(spec: Parameters<NonNullable<Breakage["spec"]>>[0]): typeof spec {
  const { properties } = spec.disk;
  return { ...spec, disk: { ...spec.disk, properties: { ...properties, sectors: properties.sectors + 1 } } };
}

/** Finds the latch of any attachment not tripped. */
function forgetting(): Latch["belongsTo"] {
  return function (this: Latch, nonce): boolean {
    this.begin(nonce);
    return true;
  };
}

/** Replaces a method of all instances until it is disposed; `make` gets the original. */
function replace<T extends object, K extends keyof T>(prototype: T, name: K, make: (method: T[K]) => T[K]): Disposable {
  const method = prototype[name];
  prototype[name] = make(method);
  return { [Symbol.dispose]: () => prototype[name] = method };
}

function replaceGetter<T extends object>(prototype: T, name: keyof T, get: () => unknown): Disposable {
  const before = Object.getOwnPropertyDescriptor(prototype, name)!;
  Object.defineProperty(prototype, name, { ...before, get });
  return { [Symbol.dispose]: () => Object.defineProperty(prototype, name, before) };
}

/** Serves barriers as flushes with data, which wait for no other request, and answers them as barriers. */
function weakBarriers(): Disposable {
  const weakened = new Set<number>();
  const undo = new DisposableStack();
  undo.use(replace(BackRing.prototype, "take", (take) =>
    function (this: BackRing, snapshot, word): void {
      take.call(this, snapshot, word);
      if ((snapshot[word]! & 0xFF) !== OP_WRITE_BARRIER) return;
      snapshot[word] = (snapshot[word]! & ~0xFF) | OP_FLUSH_DISKCACHE;
      for (const next of [1, 2]) weakened.add(snapshot[word + next]!); // where the id begins, by ABI
    }));
  undo.use(
    replace(
      BackRing.prototype,
      "putResponse",
      (putResponse) =>
        function (this: BackRing, idLow, idHigh, operation, status): void {
          const barrier = operation === OP_FLUSH_DISKCACHE && weakened.has(idLow);
          putResponse.call(this, idLow, idHigh, barrier ? OP_WRITE_BARRIER : operation, status);
        },
    ),
  );
  return undo;
}

function wrongIds(): Disposable {
  const now = every(50);
  return replace(
    BackRing.prototype,
    "putResponse",
    (putResponse) =>
      function (this: BackRing, idLow, idHigh, operation, status): void {
        putResponse.call(this, now() ? idLow ^ 1 : idLow, idHigh, operation, status);
      },
  );
}

function twoAnswers(): Disposable {
  const now = every(50);
  return replace(BackRing.prototype, "putResponse", (putResponse) =>
    function (this: BackRing, ...answer): void {
      putResponse.apply(this, answer);
      if (now() && this.outstanding() > 0) putResponse.apply(this, answer);
    });
}

function withGrants(platform: Platform, change: (table: GrantTable) => GrantTable): Platform {
  return { ...platform, openGrantTable: (guest) => change(platform.openGrantTable(guest)) };
}

function leakyTable(table: GrantTable): GrantTable {
  const now = every(20);
  return {
    ...table,
    unmap: (address, count) => now() ? 0 : table.unmap(address, count),
    [Symbol.dispose]: () => table[Symbol.dispose](),
  };
}

function shiftedCopy(table: GrantTable): GrantTable {
  const now = every(20);
  return {
    ...table,
    createCopyBatch: (capacity) => {
      const batch = table.createCopyBatch(capacity);
      const addToGuest = batch.addToGuest.bind(batch);
      batch.addToGuest = (ref, offset, address, length) =>
        addToGuest(ref, now() && offset + length < 4096 ? offset + 512 : offset, address, length);
      return batch;
    },
  };
}

function withoutNotifications(platform: Platform): Platform {
  const now = every(5);
  return {
    ...platform,
    openEventChannels: (other) => {
      const events = platform.openEventChannels(other);
      return {
        ...events,
        notify: (port: Parameters<EventChannels["notify"]>[0]) => now() || events.notify(port),
      } as EventChannels;
    },
  };
}

/** Skips InitWait: goes from Initialising to Connected. */
function skippingStore(store: Xenstore): Xenstore {
  const skip = (operations: XenstoreOperations): XenstoreOperations => ({
    ...operations,
    write: (path, value) => operations.write(path, path.endsWith("/state") && value === "2" ? "4" : value),
  });
  return {
    read: (path) => store.read(path),
    list: (path) => store.list(path),
    write: (path, value) => store.write(path, value),
    makeDirectory: (path) => store.makeDirectory(path),
    remove: (path) => store.remove(path),
    permissions: (path) => store.permissions(path),
    setPermissions: (path, permissions) => store.setPermissions(path, permissions),
    transaction: (body) => store.transaction((transaction) => body(skip(transaction))),
    watch: (path) => store.watch(path),
    domainPath: (domain) => store.domainPath(domain),
    isDomainIntroduced: (domain) => store.isDomainIntroduced(domain),
    lost: store.lost,
    [Symbol.dispose]: () => store[Symbol.dispose](),
  };
}
