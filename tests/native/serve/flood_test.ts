/**
 * Guests that flood the real xenstored below their own directories: the backend's memory and descriptors do not grow,
 * it logs little, a neighbour's disk keeps working, and the guest can connect after the flood. The gate runs a short
 * form; XENBLK_NATIVE=full floods by the million.
 */

import { assertEquals, assertLess } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { type LoadOutcome, MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { backendPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, nodeValue, sparseImage } from "./backend.ts";
import { assertNoEndlessGrowth } from "./growth.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const COUNTS = { flaps: FULL ? 10_000 : 1_000, events: FULL ? 1_000_000 : 10_000 };
/** The flood comes in this many parts, and more parts while the process still grows. */
const PARTS = 5;
const HOSTILE = 7;
const NEIGHBOUR = 8;
const IMAGE_BYTES = 2 ** 26;
/** Allowed growth per part: noise of the garbage collector; in the full form less than 40 bytes per event. */
const ALLOWED = { descriptors: 2, mappings: 40, residentKiB: 8 * 1024 };
const LOAD = { ...MIXED_LOAD, blockBytes: { min: 512, max: 16384 } };

/** Runs a part of a flood in a process of the hostile guest. */
async function flood(xen: NativeXen, kind: string, path: string, count: number): Promise<void> {
  const program = new URL("./flood_process.ts", import.meta.url).pathname;
  await xen.run(Deno.execPath(), ["run", "-A", "--no-check", program, kind, path, String(count)], HOSTILE);
}

function assertNoError({ errors, miscompares, protocolErrors, unanswered }: LoadOutcome, what: string): void {
  assertEquals([errors, miscompares, protocolErrors, unanswered], [0, 0, 0, 0], what);
}

async function connectAndLoad(disk: GuestDisk, what: string): Promise<void> {
  await disk.connect();
  assertNoError(await disk.load({ ...LOAD, requests: 300 }), what);
}

for (const kind of ["flaps", "events"] as const) {
  nativeTest(
    `${COUNTS[kind]} ${kind} of a guest: nothing grows, little is logged, its neighbour keeps working`,
    async () => {
      await using xen = await NativeXen.start();
      for (const domid of [HOSTILE, NEIGHBOUR]) await xen.createDomain(domid);
      await using backend = new BackendProcess(xen, ["serve"]);
      await using neighbour = new GuestProcess(xen, NEIGHBOUR);
      await using hostile = new GuestProcess(xen, HOSTILE);
      const image = (name: string): string => `aio:${sparseImage(xen.directory, name, IMAGE_BYTES)}`;
      const device = await attach(xen, { domain: NEIGHBOUR as DomId, params: image("neighbour.img") });
      const bad = await attach(xen, { domain: HOSTILE as DomId, params: image("hostile.img") });
      const disk = await neighbour.disk(frontendPath(device));
      await disk.connect();
      await disk.startLoad(LOAD);
      const part = (): Promise<void> => flood(xen, kind, frontendPath(bad), COUNTS[kind] / PARTS);
      await assertNoEndlessGrowth(backend, part, { warmUp: PARTS - 1, allowed: ALLOWED });
      assertNoError(await disk.stopLoad(), backend.messages);
      assertLess(backend.messages.length, 65_536);

      const store = (...args: string[]): Promise<string> => xen.run(args[0]!, args.slice(1), HOSTILE);
      await store("xenstore-write", `${frontendPath(bad)}/state`, "6");
      await nodeValue(xen, `${backendPath(bad)}/state`, "6");
      await store("xenstore-write", `${frontendPath(bad)}/state`, "1");
      await connectAndLoad(await hostile.disk(frontendPath(bad)), backend.messages);
      for (const each of [bad, device]) await detach(xen, each);
      assertEquals(await backend.stop(), 0, backend.messages);
    },
  );
}
