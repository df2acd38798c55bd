/**
 * The simulated xenstore follows xenstored's rules: paths and limits, permissions, transactions that conflict and are
 * retried, watch events, domains that come and go, and a store that is lost.
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type DomId, type Xenstore, XenstoreError, type XenstoreWatch } from "../../lib/hypervisor.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";

const DOM0 = 0 as DomId;
const GUEST = 3 as DomId;
const OTHER = 4 as DomId;

function failsWith(code: string, body: () => unknown, what = ""): void {
  const error = assertThrows(body, XenstoreError, undefined, what);
  assertEquals(error.code, code, what);
}

function open(): { store: SimulatedStore; dom0: Xenstore; guest: Xenstore; other: Xenstore } {
  const store = new SimulatedStore();
  store.createGuest(GUEST);
  store.createGuest(OTHER);
  return { store, dom0: store.connect(DOM0), guest: store.connect(GUEST), other: store.connect(OTHER) };
}

/** The promise's value, or "pending" if it is not settled yet: of two settled promises race takes the first. */
function settledNow<T>(promise: Promise<T>): Promise<T | "pending"> {
  return Promise.race([promise, Promise.resolve("pending" as const)]);
}

/** The next() that {@linkcode heard} left pending, for its next call. */
const pendingNext = new WeakMap<XenstoreWatch, Promise<IteratorResult<string>>>();

/** The paths that the watch yields now, since the last call. */
async function heard(watch: XenstoreWatch): Promise<string[]> {
  const paths: string[] = [];
  const iterator = watch[Symbol.asyncIterator]();
  for (let next = pendingNext.get(watch) ?? iterator.next();; next = iterator.next()) {
    pendingNext.set(watch, next);
    const result = await settledNow(next);
    if (result === "pending" || result.done) return paths;
    paths.push(result.value);
  }
}

Deno.test("a write creates the missing parents; missing nodes read as undefined; relative paths are the caller's own", () => {
  const { dom0, guest } = open();
  dom0.write("/a/b/c", "1");
  assertEquals(dom0.read("/a/b/c"), "1");
  assertEquals(dom0.read("/a/b"), "");
  assertEquals(dom0.list("/a"), ["b"]);
  assertEquals(dom0.list("/a/b/c"), []);
  assertEquals([dom0.read("/x"), dom0.list("/x"), dom0.permissions("/x")], [undefined, undefined, undefined]);
  assertEquals(guest.read("domid"), "3");
  assertEquals(dom0.read("domid"), "0");
  assertEquals(guest.domainPath(GUEST), "/local/domain/3");
  assertEquals([dom0.remove("/a"), dom0.remove("/a"), dom0.read("/a/b/c")], [true, false, undefined]);
  assert(!dom0.list("/")!.includes("a"));
  dom0.makeDirectory("/d");
  dom0.write("/d", "kept");
  dom0.makeDirectory("/d");
  assertEquals(dom0.read("/d"), "kept");
});

Deno.test("an invalid path, a value that is too long and a guest over its quota are refused", () => {
  const { dom0, guest } = open();
  for (
    const path of ["", "//a", "/a/", "/a b", "/ä", "a:b", "@releaseDomain/", "/" + "x".repeat(3072), "x".repeat(2049)]
  ) {
    failsWith("EINVAL", () => dom0.read(path), path.slice(0, 20));
  }
  failsWith("EINVAL", () => dom0.remove("/"));
  failsWith("E2BIG", () => dom0.write("/v", "x".repeat(4096)));
  failsWith("ENOSPC", () => guest.write("data/v", "x".repeat(2049)));
  guest.write("data/v", "x".repeat(2048));
  failsWith("ENOSPC", () => {
    for (let i = 0; i < 1001; i++) guest.write(`data/n${i}`, "");
  });
});

Deno.test("permissions: owner and domain 0 may do everything, others what their own entry, or else the first, allows", () => {
  const { dom0, guest, other } = open();
  dom0.write("/p", "1");
  dom0.setPermissions("/p", [{ domain: DOM0, read: false, write: false }, { domain: GUEST, read: true, write: false }]);
  assertEquals(guest.read("/p"), "1");
  failsWith("EACCES", () => guest.write("/p", "2"));
  failsWith("EACCES", () => guest.remove("/p"));
  failsWith("EACCES", () => other.read("/p"));
  failsWith("EACCES", () => other.permissions("/p"));
  failsWith("EACCES", () => other.read("/p/missing"), "nor may it learn which nodes exist");
  dom0.setPermissions("/p", [{ domain: DOM0, read: true, write: true }, { domain: GUEST, read: false, write: false }]);
  other.write("/p", "3");
  failsWith("EACCES", () => guest.read("/p"), "an entry of its own overrides the default");
  failsWith("EACCES", () => other.setPermissions("/p", [{ domain: OTHER, read: true, write: true }]));
  failsWith("ENOENT", () => dom0.setPermissions("/q", [{ domain: DOM0, read: true, write: true }]));
  failsWith("EINVAL", () => dom0.setPermissions("/p", []));
});

Deno.test("children inherit their parent's permissions; a guest owns what it creates and cannot change the owner", () => {
  const { dom0, guest, other } = open();
  dom0.write("/fe/51712/state", "1");
  const shared = [{ domain: GUEST, read: false, write: false }, { domain: DOM0, read: true, write: false }];
  dom0.setPermissions("/fe/51712", shared);
  dom0.write("/fe/51712/backend", "b");
  assertEquals(dom0.permissions("/fe/51712/backend"), shared, "nodes of domain 0 inherit the parent's owner");
  guest.write("/fe/51712/queue-0/ring-ref", "8");
  assertEquals(guest.permissions("/fe/51712/queue-0"), shared);
  failsWith("EACCES", () => other.read("/fe/51712/queue-0/ring-ref"));
  dom0.write("/open", "");
  dom0.setPermissions("/open", [{ domain: DOM0, read: true, write: true }]);
  guest.write("/open/mine", "");
  assertEquals(guest.permissions("/open/mine"), [{ domain: GUEST, read: true, write: true }]);
  failsWith("EPERM", () => guest.setPermissions("/open/mine", [{ domain: OTHER, read: true, write: true }]));
});

Deno.test("a transaction becomes visible all at once when it commits, and never if its body throws", async () => {
  const { dom0, guest } = open();
  dom0.write("/t", "0");
  using watch = dom0.watch("/t");
  await heard(watch);
  const result = dom0.transaction((transaction) => {
    transaction.write("/t", "1");
    transaction.write("/t/a", "2");
    assertEquals([transaction.read("/t"), dom0.read("/t"), dom0.read("/t/a")], ["1", "0", undefined]);
    assertEquals(transaction.list("/t"), ["a"]);
    return "done";
  });
  assertEquals([result, dom0.read("/t"), dom0.read("/t/a")], ["done", "1", "2"]);
  assertEquals(await heard(watch), ["/t", "/t/a"]);
  assertThrows(
    () =>
      dom0.transaction((transaction) => {
        transaction.remove("/t");
        throw new Error("no");
      }),
    Error,
    "no",
  );
  assertEquals(dom0.read("/t/a"), "2");
  assertEquals(await heard(watch), []);
  failsWith("EACCES", () => guest.transaction((transaction) => transaction.write("/t", "x")));
});

Deno.test("a transaction runs again only if a node that it read, found missing or wrote has changed meanwhile", () => {
  const { dom0, guest } = open();
  for (const [path, runs] of [["data/read", 2], ["error/unrelated", 1]] as const) {
    let ran = 0;
    dom0.transaction((transaction) => {
      transaction.read("/local/domain/3/data/read");
      if (ran++ === 0) guest.write(path, "x");
      transaction.write("/result", String(ran));
    });
    assertEquals(ran, runs, path);
    dom0.remove("/local/domain/3/data/read");
  }
  let ran = 0;
  dom0.transaction((transaction) => {
    transaction.write("/local/domain/3/data/w", "mine");
    if (ran++ === 0) guest.write("data/w", "theirs");
  });
  assertEquals([ran, dom0.read("/local/domain/3/data/w")], [2, "mine"]);
  failsWith("EAGAIN", () =>
    dom0.transaction((transaction) => {
      transaction.read("/n");
      dom0.write("/n", "again");
    }));
});

Deno.test("a transaction cannot be used after it has ended", () => {
  const { dom0 } = open();
  const escaped = dom0.transaction((transaction) => transaction);
  failsWith("ENOENT", () => escaped.read("/"));
});

Deno.test("a watch fires at once, then for its node and all below; a relative watch yields relative paths", async () => {
  const { dom0, guest } = open();
  using watch = dom0.watch("/w/a");
  assertEquals(await heard(watch), ["/w/a"], "although the node does not exist");
  dom0.write("/w/a", "1");
  dom0.write("/w/a/b/c", "2");
  dom0.write("/w/ab", "3");
  dom0.write("/w", "4");
  assertEquals(await heard(watch), ["/w/a", "/w/a/b/c"]);
  using relative = guest.watch("device");
  assertEquals(await heard(relative), ["device"]);
  dom0.write("/local/domain/3/device/vbd/51712/state", "1");
  assertEquals(await heard(relative), ["device/vbd/51712/state"]);
});

Deno.test("removing a parent fires watches on the nodes below it, and changed permissions fire watches too", async () => {
  const { dom0 } = open();
  dom0.write("/r/fe/state", "4");
  dom0.write("/r/fe/x", "");
  using state = dom0.watch("/r/fe/state");
  using directory = dom0.watch("/r/fe");
  await Promise.all([heard(state), heard(directory)]);
  dom0.remove("/r");
  assertEquals(await heard(state), ["/r/fe/state"]);
  assertEquals(await heard(directory), ["/r/fe"], "once, though two of its children were removed too");
  dom0.write("/r/fe", "");
  dom0.setPermissions("/r/fe", [{ domain: GUEST, read: true, write: true }]);
  assertEquals(await heard(directory), ["/r/fe", "/r/fe"]);
});

Deno.test("undelivered changes of one path are merged, and nothing is delivered synchronously", async () => {
  const { dom0 } = open();
  using watch = dom0.watch("/m");
  for (let i = 0; i < 100; i++) dom0.write("/m/a", String(i));
  dom0.write("/m/b", "");
  assertEquals(await heard(watch), ["/m", "/m/a", "/m/b"]);
  let delivered = false;
  const next = watch[Symbol.asyncIterator]().next().then(() => delivered = true);
  await heard(watch);
  dom0.write("/m/c", "");
  dom0.write("/m/c", "");
  assert(!delivered);
  await next;
});

Deno.test("a domain gets no events for nodes that it may not read", async () => {
  const { dom0, other } = open();
  using watch = other.watch("/local/domain/3");
  await heard(watch);
  dom0.write("/local/domain/3/device/vbd/1/state", "1");
  dom0.remove("/local/domain/3/device/vbd/1");
  assertEquals(await heard(watch), []);
});

Deno.test("disposing a watch ends its iteration", async () => {
  const { dom0 } = open();
  const watch = dom0.watch("/d");
  const iterator = watch[Symbol.asyncIterator]();
  assertEquals(await iterator.next(), { done: false, value: "/d" });
  const waiting = iterator.next();
  watch[Symbol.dispose]();
  dom0.write("/d", "1");
  for (const next of [waiting, iterator.next()]) assertEquals(await next, { done: true, value: undefined });
});

Deno.test("introducing and releasing a domain fires domain 0's special watches, and releasing it removes its nodes", async () => {
  const { store, dom0, guest } = open();
  using introduced = dom0.watch("@introduceDomain");
  using released = dom0.watch("@releaseDomain");
  using device = dom0.watch("/local/domain/3/data/mine");
  assertEquals([await heard(introduced), await heard(released)], [["@introduceDomain"], ["@releaseDomain"]]);
  guest.write("data/mine", "1");
  await heard(device);
  store.createGuest(7 as DomId, "web");
  assertEquals([await heard(introduced), await heard(released)], [["@introduceDomain"], []]);
  assertEquals([dom0.isDomainIntroduced(7 as DomId), dom0.isDomainIntroduced(8 as DomId)], [true, false]);
  assertEquals(dom0.read("/local/domain/7/name"), "web");
  store.releaseDomain(GUEST);
  assertEquals(dom0.isDomainIntroduced(GUEST), false);
  assertEquals([dom0.read("/local/domain/3/data/mine"), dom0.read("/local/domain/3/name")], [undefined, "guest-3"]);
  assertEquals(await heard(released), ["@releaseDomain"]);
  assertEquals(await heard(device), ["/local/domain/3/data/mine"]);
  failsWith("EDISCONNECTED", () => guest.read("domid"));
});

Deno.test("a lost store: calls fail, watches end, `lost` says why; a new connection finds the nodes, or an empty store", async () => {
  const { store, dom0 } = open();
  dom0.write("/kept", "1");
  const watch = dom0.watch("/kept");
  await heard(watch);
  store.stop("xenstored was restarted");
  assertEquals(await dom0.lost, "xenstored was restarted");
  for (
    const call of [
      () => dom0.read("/kept"),
      () => dom0.write("/kept", "2"),
      () => dom0.transaction(() => 0),
      () => dom0.watch("/kept"),
      () => dom0.isDomainIntroduced(DOM0),
      () => store.connect(DOM0),
    ]
  ) failsWith("EDISCONNECTED", call);
  assertEquals(await heard(watch), []);
  assertEquals(await watch[Symbol.asyncIterator]().next(), { done: true, value: undefined });
  store.start();
  assertEquals(store.connect(DOM0).read("/kept"), "1");
  store.stop();
  store.start({ empty: true });
  using again = store.connect(DOM0);
  assertEquals([again.read("/kept"), again.read("domid")], [undefined, "0"]);
  again[Symbol.dispose]();
  assertEquals(await settledNow(again.lost), "pending", "closing the connection is not a loss");
});

Deno.test("a frozen store answers nobody: a call loses the connection, new ones wait until it goes on", async () => {
  const simulated = new SimulatedStore();
  const store = simulated.connect(DOM0);
  store.write("/a", "1");
  simulated.freeze();
  failsWith("EDISCONNECTED", () => store.read("/a"));
  assertEquals(await store.lost, "xenstored has not answered in time");
  using again = simulated.connect(DOM0);
  const order: string[] = [];
  const answered = again.answers!().then(() => order.push("answers"));
  await Promise.resolve();
  order.push("thaw");
  simulated.thaw();
  await answered;
  assertEquals([order, again.read("/a")], [["thaw", "answers"], "1"]);
});

Deno.test("a store that ends while it is frozen ends the wait for its answer", async () => {
  const simulated = new SimulatedStore();
  const store = simulated.connect(DOM0);
  simulated.freeze();
  const answers = store.answers!();
  simulated.stop("killed");
  await assertRejects(() => answers, XenstoreError, "killed");
});
