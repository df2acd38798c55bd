/**
 * A disk in trouble: its device says so in the error node, the status and the log, and takes it back when it is over.
 */

import { assertEquals } from "@std/assert";
import { Rig, RING_NODES, until } from "./rig.ts";

Deno.test("a disk's trouble stands in its device's error node while it lasts", async () => {
  await using rig = new Rig();
  const listeners = new Set<() => void>();
  let trouble: string | undefined;
  const setTrouble = (text: string | undefined): void => {
    trouble = text;
    for (const listener of listeners) listener();
  };
  rig.wrapDisk = () => ({
    get trouble(): string | undefined {
      return trouble;
    },
    watchTrouble(listener): Disposable {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
  });
  const device = rig.attach();
  const kind = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  assertEquals(rig.backend(device, "error"), undefined);
  setTrouble("Cannot carry out requests: its process has ended");
  await until("the node says so", () => rig.backend(device, "error") === trouble);
  assertEquals(kind.status()[0]!.error, trouble);
  setTrouble(undefined);
  await until("it is taken back", () => rig.backend(device, "error") === undefined);
  assertEquals(kind.status()[0]!.error, undefined);
});
