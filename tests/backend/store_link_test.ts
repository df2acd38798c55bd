/**
 * A connection that outlives xenstored: what it does if the store cannot report that it is lost, and that it then
 * connects again.
 */

import { assertEquals } from "@std/assert";
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
