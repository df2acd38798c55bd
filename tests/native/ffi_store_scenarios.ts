/**
 * Scenarios of ffi/xen/xenstore.ts with a real xenstored.
 * ffi_child.ts runs them.
 */

import { assert, assertEquals, assertGreater, assertLess, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { Xenstore, XenstoreWatch } from "../../lib/hypervisor.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import { MOST_TRANSACTION_TRIES } from "../../lib/xenstore.ts";
import { DOM0, GUEST, OTHER_GUEST, platform, type Scenarios } from "./ffi_scenario.ts";

/** The code of the XenstoreError that `operation` throws. */
function codeOf(operation: () => unknown): string {
  return assertThrows(operation, XenstoreError).code;
}

/** The watch's next path; fails after five seconds without one. */
async function nextOf(reader: AsyncIterator<string>): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("no watch event within 5 s")), 5000);
  });
  const { done, value } = await Promise.race([reader.next(), timeout]);
  clearTimeout(timer);
  assert(!done, "the watch ended");
  return value;
}

function readerOf(watch: XenstoreWatch): AsyncIterator<string> {
  return watch[Symbol.asyncIterator]();
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Kills xenstored and waits until it has ended; its parent may not have reaped it yet. */
async function killStore(pid: string): Promise<void> {
  Deno.kill(Number(pid), "SIGKILL");
  while (isRunning(pid)) await sleep(2);
}

function isRunning(pid: string): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

/** Stops xenstored and waits until it has stopped. */
function stopStore(pid: string): void {
  Deno.kill(Number(pid), "SIGSTOP");
  while (!/^State:\s+T/m.test(Deno.readTextFileSync(`/proc/${pid}/status`)));
}

/** A transaction in whose middle xenstored stops. */
function commitWhileStopped(pid: string): (store: Xenstore) => void {
  return (store) =>
    store.transaction((transaction) => {
      transaction.write("/stopped", "1");
      stopStore(pid);
    });
}

function assertLost(store: Xenstore): void {
  assertEquals(codeOf(() => store.read("/a")), "EDISCONNECTED");
  assertEquals(codeOf(() => store.write("/a", "1")), "EDISCONNECTED");
  assertEquals(codeOf(() => store.watch("/a")), "EDISCONNECTED");
  assertEquals(codeOf(() => store.transaction((t) => t.read("/a"))), "EDISCONNECTED");
  assertEquals(codeOf(() => store.isDomainIntroduced(GUEST)), "EDISCONNECTED");
}

export const STORE_SCENARIOS: Scenarios = {
  "many nodes are read with one wait, in order, also when events arrive between the replies": async () => {
    using store = platform.openXenstore();
    const paths = Array.from({ length: 200 }, (_, i) => `/many/${i}`);
    paths.forEach((path, i) => i % 3 > 0 && store.write(path, String(i)));
    using watch = store.watch("/many/1");
    const reader = readerOf(watch);
    assertEquals(await nextOf(reader), "/many/1");
    store.transaction((transaction) => transaction.write("/many/1", "1")); // its event comes with what is read next
    assertEquals(store.readAll!(paths), paths.map((_, i) => i % 3 > 0 ? String(i) : undefined));
    assertEquals(await nextOf(reader), "/many/1");
    assertEquals(store.readAll!([]), []);
    assertEquals(codeOf(() => store.readAll!(["/many/1", "/\0"])), "EINVAL");
    const [before, refused, after] = store.readAll!(["/many/1", "not a path!", "/many/2"]);
    assertEquals([before, (refused as XenstoreError).code, after], ["1", "EINVAL", "2"]);
  },

  "a write that is refused in a transaction is thrown by what follows, and nothing is committed": () => {
    using store = platform.openXenstore();
    const refusedBy = (what: string): string =>
      codeOf(() =>
        store.transaction((transaction) => {
          transaction.write("/posted/a", "1");
          transaction.write("/posted/not a path!", "1");
          if (what === "read") transaction.read("/posted/a");
          if (what === "readAll") transaction.readAll!(["/posted/a"]);
          if (what === "throw") throw new XenstoreError("given up", "EOTHER", "");
        })
      );
    assertEquals(["read", "readAll", "commit"].map(refusedBy), ["EINVAL", "EINVAL", "EINVAL"]);
    assertEquals(refusedBy("throw"), "EOTHER");
    assertEquals(store.read("/posted"), undefined); // and no earlier refusal comes up
    store.transaction((transaction) => {
      for (let i = 0; i < 150; i++) transaction.write(`/posted/${i}`, String(i));
      assertEquals(transaction.read("/posted/149"), "149");
    });
    assertEquals(store.list("/posted")?.length, 150);
  },

  "nodes are written, read, listed and removed": () => {
    using store = platform.openXenstore();
    assertEquals([store.read("/t/a"), store.list("/t"), store.permissions("/t")], [undefined, undefined, undefined]);
    store.write("/t/a", "äöü €");
    store.write("/t/b/c", "");
    store.makeDirectory("/t/d");
    store.makeDirectory("/t/d");
    assertEquals([store.read("/t/a"), store.read("/t/b/c"), store.read("/t/d")], ["äöü €", "", ""]);
    assertEquals(store.list("/t")?.sort(), ["a", "b", "d"]);
    assertEquals(store.list("/t/d"), []);
    assertEquals([store.remove("/t/b"), store.remove("/t/b"), store.remove("/nowhere/x")], [true, false, false]);
    assertEquals(store.read("/t/b/c"), undefined);
  },

  "a directory that is larger than one message is listed completely": () => {
    using store = platform.openXenstore();
    const names = Array.from({ length: 600 }, (_, index) => `a-rather-long-name-${String(index).padStart(4, "0")}`);
    for (const name of names) store.write(`/large/${name}`, "x");
    assertEquals(store.list("/large")?.sort(), names);
  },

  "bytes that are not UTF-8 are read as a replacement character": async () => {
    const command = new Deno.Command("sh", { args: ["-c", `xenstore-write /bytes "$(printf 'a\\377b')"`] });
    assert((await command.output()).success);
    using store = platform.openXenstore();
    assertEquals(store.read("/bytes"), "a\uFFFDb");
  },

  "permissions are read and set": () => {
    using store = platform.openXenstore();
    store.write("/p/a", "1");
    const permissions = [
      { domain: GUEST, read: false, write: false },
      { domain: DOM0, read: true, write: false },
      { domain: OTHER_GUEST, read: true, write: true },
    ];
    store.setPermissions("/p/a", permissions);
    assertEquals(store.permissions("/p/a"), permissions);
    assertEquals(codeOf(() => store.setPermissions("/p/none", permissions)), "ENOENT");
  },

  "invalid paths and values that are too long are refused": () => {
    using store = platform.openXenstore();
    assertEquals(codeOf(() => store.read("/a b")), "EINVAL");
    assertEquals(codeOf(() => store.read("/a\0b")), "EINVAL");
    assertEquals(codeOf(() => store.watch("/a//b")), "EINVAL");
    assertEquals(codeOf(() => store.write("/long", "x".repeat(5000))), "E2BIG");
    store.write("/still/usable", "1");
  },

  "the path of a domain is known, and whether it is introduced": () => {
    using store = platform.openXenstore();
    assertEquals(store.domainPath(GUEST), "/local/domain/1");
    assertEquals([DOM0, GUEST, 77 as typeof GUEST].map((domain) => store.isDomainIntroduced(domain)), [
      true,
      true,
      false,
    ]);
    assertEquals(store.read("domid"), store.read("/local/domain/0/domid"));
  },

  "a transaction runs again until no other commit conflicts": () => {
    using store = platform.openXenstore();
    using other = platform.openXenstore();
    store.write("/x/count", "0");
    let tries = 0;
    const result = store.transaction((t) => {
      const count = Number(t.read("/x/count"));
      if (++tries < 4) other.write("/x/count", String(count + 10));
      t.write("/x/count", String(count + 1));
      return count + 1;
    });
    assertEquals([tries, result, store.read("/x/count")], [4, 31, "31"]);
  },

  "a transaction runs again if another connection removes the same nodes meanwhile": () => {
    using store = platform.openXenstore();
    using other = platform.openXenstore();
    for (const path of ["/gone/a", "/gone/b"]) store.write(path, "1");
    let tries = 0;
    const removed = store.transaction((t) => {
      // From now on the transaction has its own copy of the parent, and does not see what others change below it.
      const first = t.remove("/gone/a");
      if (++tries === 1) other.transaction((o) => [o.remove("/gone/a"), o.remove("/gone/b"), o.remove("/gone")]);
      return [first, t.remove("/gone/b"), t.remove("/gone")];
    });
    assertEquals([tries, removed], [2, [false, false, false]]);
    assertEquals(store.list("/gone"), undefined);
  },

  "others see the writes of a transaction only after its commit, and never if it throws": () => {
    using store = platform.openXenstore();
    using other = platform.openXenstore();
    store.transaction((t) => {
      t.write("/y/a", "new");
      assertEquals([t.read("/y/a"), other.read("/y/a")], ["new", undefined]);
    });
    assertEquals(other.read("/y/a"), "new");
    assertThrows(
      () =>
        store.transaction((t) => {
          t.remove("/y");
          throw new RangeError("stop");
        }),
      RangeError,
      "stop",
    );
    assertEquals(other.read("/y/a"), "new");
  },

  "a transaction that always conflicts fails with EAGAIN after a few tries, without a pause": () => {
    using store = platform.openXenstore();
    using other = platform.openXenstore();
    let tries = 0;
    const endless = (): void =>
      store.transaction((t) => {
        t.read("/z");
        other.write("/z", String(++tries));
        t.write("/z", "mine");
      });
    assertEquals(codeOf(endless), "EAGAIN");
    assertEquals(tries, MOST_TRANSACTION_TRIES);
    assertEquals(store.read("/z"), String(tries));
  },

  "a watch fires once when it is registered, then for the node and everything below it": async () => {
    using store = platform.openXenstore();
    using other = platform.openXenstore();
    using watch = store.watch("/w");
    const reader = readerOf(watch);
    assertEquals(await nextOf(reader), "/w");
    other.write("/w/a/b", "1");
    assertEquals(await nextOf(reader), "/w/a/b");
    other.write("/wother", "1");
    other.remove("/w/a");
    assertEquals(await nextOf(reader), "/w/a");
    other.write("/w", "1");
    assertEquals(await nextOf(reader), "/w");
  },

  "relative and special watches yield the watched path": async () => {
    using store = platform.openXenstore();
    for (const path of ["domid", "@releaseDomain", "@introduceDomain"]) {
      using watch = store.watch(path);
      assertEquals(await nextOf(readerOf(watch)), path);
    }
  },

  "two watches of one path both fire, and one stays when the other ends": async () => {
    using store = platform.openXenstore();
    const first = store.watch("/two");
    using second = store.watch("/two");
    const [firstReader, secondReader] = [readerOf(first), readerOf(second)];
    assertEquals([await nextOf(firstReader), await nextOf(secondReader)], ["/two", "/two"]);
    first[Symbol.dispose]();
    store.write("/two", "1");
    assertEquals(await nextOf(secondReader), "/two");
    assertEquals(await firstReader.next(), { done: true, value: undefined });
  },

  "unread events of a flood merge and are bounded": async () => {
    using store = platform.openXenstore();
    using other = platform.openXenstore();
    using watch = store.watch("/flood");
    using end = store.watch("/flood-end");
    const ends = readerOf(end);
    assertEquals(await nextOf(ends), "/flood-end");
    for (let index = 0; index < 20_000; index++) other.write(`/flood/${index % 3}`, String(index));
    // Events of one connection arrive in order, so all of the flood has arrived before this one.
    other.write("/flood-end", "1");
    assertEquals(await nextOf(ends), "/flood-end");
    const reader = readerOf(watch);
    const seen = [await nextOf(reader), await nextOf(reader), await nextOf(reader), await nextOf(reader)];
    assertEquals(seen, ["/flood", "/flood/0", "/flood/1", "/flood/2"]);
    other.write("/flood/last", "1");
    assertEquals(await nextOf(reader), "/flood/last");
  },

  "timers still fire during a flood of events": async () => {
    using store = platform.openXenstore();
    using watch = store.watch("/storm");
    const writer = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", new URL("./ffi_child.ts", import.meta.url).pathname, "writes a storm"],
    }).spawn();
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    const reader = readerOf(watch);
    while (store.read("/storm/done") === undefined) await nextOf(reader);
    clearInterval(timer);
    await writer.status;
    assert(ticks > 10, `only ${ticks} ticks`);
  },

  "writes a storm": () => {
    using store = platform.openXenstore();
    for (let index = 0; index < 20_000; index++) store.write(`/storm/${index % 7}`, String(index));
    store.write("/storm/done", "1");
  },

  "disposal ends the watches, so the process can end": async () => {
    const store = platform.openXenstore();
    const reader = readerOf(store.watch("/end"));
    await nextOf(reader);
    const waiting = reader.next();
    void store.lost;
    store[Symbol.dispose]();
    assertEquals(await waiting, { done: true, value: undefined });
    assertThrows(() => store.read("/end"), TypeError, "the connection is closed");
  },

  "a process that ends with a watch open does not crash": () => {
    platform.openXenstore().watch("/left");
    Deno.exit(0);
  },

  "a Worker that ends with a watch open does not end the process": async () => {
    const source = `
      import { openNativePlatform } from "${new URL("../../ffi/platform.ts", import.meta.url)}";
      openNativePlatform().openXenstore().watch("/left");
      self.postMessage("watching");`;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(url, { type: "module" });
    await new Promise((resolve) => worker.onmessage = resolve);
    worker.terminate();
    await sleep(200);
    using store = platform.openXenstore();
    store.write("/left/a", "1");
    await sleep(50);
  },

  "a killed xenstored resolves lost, ends watches and fails operations": async (pid = "") => {
    using store = platform.openXenstore();
    const reader = readerOf(store.watch("/a"));
    await nextOf(reader);
    const waiting = reader.next();
    await sleep(20);
    await killStore(pid);
    assertEquals(await store.lost, "xenstored closed the connection");
    assertEquals(await waiting, { done: true, value: undefined });
    assertLost(store);
  },

  "a killed xenstored resolves lost even without a watch": async (pid = "") => {
    using store = platform.openXenstore();
    const { lost } = store;
    await sleep(20);
    await killStore(pid);
    assertEquals(await lost, "xenstored closed the connection");
    assertLost(store);
  },

  "a killed xenstored fails the next operation, and that resolves lost": async (pid = "") => {
    using store = platform.openXenstore();
    store.read("/a");
    await killStore(pid);
    assertLost(store);
    assertEquals(await store.lost, "xenstored closed the connection");
  },

  "a stopped xenstored loses the connection in bounded time, also within a transaction": async (pid = "") => {
    for (const use of [(store: Xenstore): unknown => store.read("/a"), commitWhileStopped(pid)]) {
      using store = platform.openXenstore();
      const waiting = readerOf(store.watch("/a"));
      await nextOf(waiting);
      stopStore(pid);
      const startMs = performance.now();
      assertEquals(codeOf(() => use(store)), "EDISCONNECTED");
      assertGreater(performance.now() - startMs, 150);
      assertLess(performance.now() - startMs, 5000);
      assertMatch(await store.lost, /^xenstored has not answered for [0-9.]+ s$/);
      assertLost(store);
      assertEquals(await waiting.next(), { done: true, value: undefined });
      Deno.kill(Number(pid), "SIGCONT");
      using again = platform.openXenstore();
      await again.answers!();
    }
  },

  "while xenstored is stopped, further connections wait only briefly": (pid = "") => {
    using first = platform.openXenstore();
    stopStore(pid);
    assertEquals(codeOf(() => first.read("/a")), "EDISCONNECTED");
    const startMs = performance.now();
    for (let connection = 0; connection < 4; connection++) {
      assertThrows(() => {
        using store = platform.openXenstore(); // refused once xenstored's queue is full
        store.read("/a");
      });
    }
    assertLess(performance.now() - startMs, 1400);
  },

  "the wait for a stopped xenstored to answer blocks no thread, and ends when it goes on": async (pid = "") => {
    stopStore(pid);
    using store = platform.openXenstore();
    const answers = store.answers!();
    await sleep(1800);
    Deno.kill(Number(pid), "SIGCONT");
    await answers;
    assertEquals(store.read("/local/domain/0/domid"), "0");
  },

  "a killed xenstored ends the wait for an answer": async (pid = "") => {
    stopStore(pid);
    using store = platform.openXenstore();
    const closed = "Cannot reach xenstored: xenstored closed the connection";
    // Before it is killed: the wait can end in the same moment.
    const ended = assertRejects(() => store.answers!(), XenstoreError, closed);
    await killStore(pid);
    await ended;
  },

  "a new connection reaches a restarted xenstored": async () => {
    using store = platform.openXenstore();
    const { lost } = store;
    // deno-lint-ignore no-console -- tells the parent to restart xenstored
    console.log("ready");
    await lost;
    const deadline = performance.now() + 60_000;
    while (performance.now() < deadline) {
      try {
        using again = platform.openXenstore();
        assertEquals(again.read("/local/domain/0/domid"), "0");
        return;
      } catch (error) {
        assert(error instanceof XenblkError || error instanceof Error);
        await sleep(20);
      }
    }
    throw new Error("no connection to the restarted xenstored within 60 s");
  },

  "a user without permission on the socket gets an error that says so": () => {
    const error = assertThrows(() => platform.openXenstore(), XenblkError);
    const socket = Deno.env.get("XENSTORED_PATH");
    assertEquals(error.kind, "hypervisor");
    assertEquals(
      error.line,
      `Cannot connect to xenstored: permission denied on ${socket}; ` +
        `run as root, or give this user read and write access to ${socket}`,
    );
  },
};
