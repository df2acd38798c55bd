/**
 * Which grant mode a connection gets: feature-persistent as both sides publish it, also across a change of process, and
 * what the toolstack says of direct I/O.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type GrantChoice, grantModeOf, offersPersistent } from "../../lib/backend/grant_choice.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { Rig, RING_NODES, until } from "./rig.ts";

const CHOICES: readonly GrantChoice[] = ["auto", "copy", "persistent", "map", "map-each"];

Deno.test("persistent is in use only if both sides published it; else its requests are copied, and it is said why", () => {
  for (const [backend, frontend] of [[false, false], [false, true], [true, false], [true, true]] as const) {
    const { mode, reason } = grantModeOf("persistent", { backend, frontend });
    assertEquals(mode, backend && frontend ? "persistent" : "copy");
    assertEquals(reason === undefined, mode === "persistent");
  }
  assertMatch(grantModeOf("persistent", { backend: true, frontend: false }).reason!, /frontend did not publish/);
});

Deno.test("the other modes are what they are whatever is published, and auto is copy", () => {
  for (const [backend, frontend] of [[false, false], [true, true]] as const) {
    const modes = CHOICES.map((choice) => grantModeOf(choice, { backend, frontend }).mode);
    assertEquals(modes, ["copy", "copy", frontend ? "persistent" : "copy", "map", "map-each"]);
  }
  assertEquals(CHOICES.map((choice) => offersPersistent(choice)), [false, false, true, false, false]);
});

Deno.test("a disk that only copies can serve is copied whatever was chosen, with its reason; persistent is not offered", () => {
  const copyOnly = "its memory is elsewhere";
  for (const choice of CHOICES) {
    const { mode, reason } = grantModeOf(choice, { backend: true, frontend: true }, copyOnly);
    assertEquals([mode, reason], ["copy", choice === "auto" || choice === "copy" ? undefined : copyOnly]);
    assertEquals(offersPersistent(choice, { copyOnly }), false);
  }
});

for (const grants of CHOICES) {
  Deno.test(`feature-persistent is published as 1 only where it would be used: ${grants}`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    rig.serve({ grants, maxPersistentGrants: 77 });
    await rig.frontend(device).connect();
    assertEquals(rig.backend(device, "feature-persistent"), grants === "persistent" ? "1" : "0");
    const { spec } = rig.plane.queues[0]!;
    assertEquals([spec.grants, spec.maxPersistentGrants], [grants === "auto" ? "copy" : grants, 77]);
    assertEquals(rig.lines.filter((line) => line.includes("in place of")), []);
  });
}

Deno.test("a frontend that does not reuse its grants is served by copy, and the log says so", async () => {
  for (const options of [{ persistent: false }, { override: { "feature-persistent": "0" } }]) {
    await using rig = new Rig();
    const device = rig.attach();
    rig.serve({ grants: "persistent" });
    await rig.frontend(device, options).connect();
    assertEquals(rig.plane.queues[0]!.spec.grants, "copy");
    await until("it is logged", () => rig.lines.some((line) => line.includes("connected")));
    assert(rig.lines.some((line) => /grants copy in place of persistent: the frontend did not publish/.test(line)));
    assert(rig.lines.some((line) => /connected: .*grants copy/.test(line)));
  }
});

Deno.test("a frontend that read feature-persistent 0 from an earlier process is never served with persistent grants", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const first = rig.serve({ grants: "copy" });
  await rig.frontend(device).connect();
  await first.close({ leave: "connected", timeoutMs: 0 }, 30_000);
  rig.serve({ grants: "persistent" });
  await until("the next process serves the ring", () => rig.plane.queues.length === 2);
  assertEquals(rig.plane.queues[1]!.spec.grants, "copy");
  assertEquals(rig.backend(device, "feature-persistent"), "0", "what the frontend read stays");
  assert(rig.lines.some((line) => /copy in place of persistent: .* did not offer/.test(line)));
});

Deno.test("a frontend that read feature-persistent 1 from an earlier process is served in any mode", async () => {
  for (const grants of ["persistent", "copy", "map"] as const) {
    await using rig = new Rig();
    const device = rig.attach();
    const first = rig.serve({ grants: "persistent" });
    await rig.frontend(device).connect();
    await first.close({ leave: "connected", timeoutMs: 0 }, 30_000);
    rig.serve({ grants });
    await until("the next process serves the ring", () => rig.plane.queues.length === 2);
    assertEquals(rig.plane.queues.map(({ spec }) => spec.grants), ["persistent", grants]);
  }
});

Deno.test("a reconnecting frontend gets the new offer", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const first = rig.serve({ grants: "copy" });
  const frontend = rig.frontend(device);
  await frontend.connect();
  await first.close({ leave: "connected", timeoutMs: 0 }, 30_000);
  rig.serve({ grants: "persistent" });
  await until("the next process serves the ring", () => rig.plane.queues.length === 2);
  await frontend.disconnect();
  await frontend.reconnect();
  assertEquals(rig.plane.queues.map(({ spec }) => spec.grants), ["copy", "copy", "persistent"]);
});

Deno.test("nonsense in the frontend's feature-persistent refuses the connection until it is put right", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, "feature-persistent": "yes", state: "3" });
  rig.serve({ grants: "persistent" });
  await until("an error is reported", () => rig.backend(device, "error") !== undefined);
  assertMatch(rig.backend(device, "error")!, /feature-persistent is "yes"/);
});

Deno.test("the data plane learns whether direct I/O on the guest's pages is safe", async () => {
  for (const [value, expected] of [[undefined, false], ["0", false], ["1", true]] as const) {
    await using rig = new Rig();
    const device = rig.attach();
    if (value !== undefined) rig.toolstack.write(`${backendPath(device)}/direct-io-safe`, value);
    rig.serve();
    await rig.frontend(device).connect();
    assertEquals(rig.plane.queues[0]!.spec.directIoSafe, expected);
  }
});
