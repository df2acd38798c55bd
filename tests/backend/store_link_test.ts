/**
 * A connection that outlives xenstored: what it does if the store cannot report that it is lost, and that it then
 * connects again; and that it waits for a stopped xenstored without a call to it.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { StoreLink } from "../../lib/backend/store_link.ts";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import { type Xenstore, XenstoreError } from "../../lib/hypervisor.ts";
import { SILENT } from "../../lib/log.ts";
import { DOM0, Rig, until } from "./rig.ts";

Deno.test("a store that refuses the watch for its loss is opened again, and ends nothing", async () => {
  await using rig = new Rig();
  const opened: Xenstore[] = [];
  const lines: string[] = [];
  let lost = 0;
  await using _link = new StoreLink({
    openXenstore: () => {
      const store = rig.simulated.connect(DOM0);
      if (opened.push(store) > 1) return store;
      return Object.defineProperty(store, "lost", {
        get: () => {
          throw new XenstoreError("Cannot watch domid: quota", "ENOSPC", "domid");
        },
      });
    },
    connected: () => {},
    lost: () => void lost++,
    clock: SYSTEM_CLOCK,
    logger: { ...SILENT, error: (line) => void lines.push(line) },
  });
  await until("it is opened again", () => opened.length === 2);
  assertEquals([lost, lines.length], [1, 1]);
  assertEquals(/Cannot watch domid: quota/.test(lines[0]!), true);
});

Deno.test("a stopped store loses the connection; the link calls it only once it answers again", async () => {
  await using rig = new Rig();
  const events: string[] = [];
  const stores: Xenstore[] = [];
  await using _link = new StoreLink({
    openXenstore: () => {
      events.push("open");
      const store = rig.simulated.connect(DOM0);
      stores.push(store);
      return store;
    },
    connected: (store) => void events.push(`domain ${store.read("domid")}`),
    lost: () => void events.push("lost"),
    clock: SYSTEM_CLOCK,
    logger: SILENT,
  });
  rig.simulated.freeze();
  assertThrows(() => stores[0]!.read("/"), XenstoreError, "xenstored has not answered in time");
  await until("it is opened again", () => stores.length === 2);
  // Longer than the pause before an attempt: it does not open one connection after another.
  await SYSTEM_CLOCK.sleep(300);
  assertEquals(events, ["open", "domain 0", "lost", "open"]);
  rig.simulated.thaw();
  await until("it is connected", () => events.length === 5);
  assertEquals(events.at(-1), "domain 0");
});

Deno.test("a link that waits for a stopped store can be disposed", async () => {
  await using rig = new Rig();
  const stores: Xenstore[] = [];
  const link = new StoreLink({
    openXenstore: () => {
      stores.push(rig.simulated.connect(DOM0));
      return stores.at(-1)!;
    },
    connected: () => {},
    lost: () => {},
    clock: SYSTEM_CLOCK,
    logger: SILENT,
  });
  rig.simulated.freeze();
  assertThrows(() => stores[0]!.read("/"), XenstoreError);
  await until("it is opened again", () => stores.length === 2);
  await link[Symbol.asyncDispose]();
});
