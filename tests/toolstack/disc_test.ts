/**
 * Discs that are taken out of a drive and put in by its nodes, with a real backend over a simulated store: what the guest
 * sees, what libxl's nodes say, and what is refused.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { changeDisc } from "../../lib/toolstack/disc.ts";
import { backendPath, type DeviceAddress, libxlPath } from "../../lib/xenbus/paths.ts";
import { Rig, until } from "../backend/rig.ts";

const SOON = { timeoutMs: 20_000 } as const;

/** A drive with a disc of 1 MiB, and a guest that uses it. */
async function drive(rig: Rig): Promise<DeviceAddress> {
  const device = rig.attach({ cdrom: true, readOnly: true, params: "null:1M" });
  rig.serve();
  await rig.frontend(device).connect();
  await rig.idle(device);
  return device;
}

/** What the backend's node and libxl's name. */
function named(rig: Rig, device: DeviceAddress): (string | undefined)[] {
  return [backendPath(device), libxlPath(device)].map((path) => rig.toolstack.read(`${path}/params`));
}

Deno.test("a disc is taken out and another one put in, whatever its size, and libxl's nodes say so", async () => {
  await using rig = new Rig();
  const device = await drive(rig);
  const change = (params?: string): Promise<{ sectors?: number }> =>
    changeDisc(rig.toolstack, device, { ...SOON, ...(params === undefined ? {} : { params }) });
  assertEquals(await change(), { sectors: 0 });
  assertEquals([named(rig, device), rig.backend(device, "sectors")], [["", ""], "0"]);
  assertEquals(await change(), { sectors: 0 });
  for (const [params, sectors] of [["null:1M", 2048], ["null:1M", 2048], ["null:3M", 6144]] as const) {
    assertEquals(await change(params), { sectors });
    assertEquals(named(rig, device), [params, params]);
  }
  await until("its ring is served from one disc", () => rig.plane.open.length === 1 && rig.openDisks === 1);
});

Deno.test("a disc that cannot be opened leaves the drive empty with the reason, and the next one goes in", async () => {
  await using rig = new Rig();
  const device = await drive(rig);
  for (const missing of ["raw:/nonexistent/a.iso", "raw:/nonexistent/a.iso", "raw:/dev/zero"]) {
    const failed = changeDisc(rig.toolstack, device, { ...SOON, params: missing });
    const { line } = await assertRejects(() => failed, XenblkError);
    assertMatch(
      line,
      /^Cannot insert raw:\S+ into xvda of domain 5: Cannot open image .*; the drive is empty until its disc/,
    );
    assertEquals(rig.backend(device, "sectors"), "0");
  }
  assertEquals(await changeDisc(rig.toolstack, device, { ...SOON, params: "null:2M" }), { sectors: 4096 });
  assertEquals(rig.backend(device, "error"), undefined);
});

Deno.test("what is no drive, another backend's or nobody's is refused, and its nodes stay", async () => {
  await using rig = new Rig();
  const disk = rig.attach({ vdev: "xvdb" });
  const other = rig.attach({ vdev: "xvdc", kind: "qdisk", cdrom: true, readOnly: true });
  for (
    const [device, why] of [
      [disk, /^Cannot eject the disc of xvdb of domain 5: it is no CD-ROM drive; .*`xenblk swap`$/],
      [other, /^Cannot eject the disc of xvdc of domain 5: its backend is qdisk; use `xl cd-eject` or/],
    ] as const
  ) {
    const before = named(rig, device);
    const { line } = await assertRejects(() => changeDisc(rig.toolstack, device, SOON), XenblkError);
    assertMatch(line, why);
    assertEquals(named(rig, device), before);
  }
  const unused = rig.attach({ vdev: "xvdd", cdrom: true, readOnly: true });
  assertEquals(await changeDisc(rig.toolstack, unused, { ...SOON, params: "null:2M" }), {});
  assertEquals(named(rig, unused), ["null:2M", "null:2M"]);
  rig.toolstack.write(`${backendPath(unused)}/state`, "4");
  const late = await assertRejects(() => changeDisc(rig.toolstack, unused, { timeoutMs: 20 }), XenblkError);
  assertEquals([late.kind, late.line.includes("its backend did not act on it in time")], ["timeout", true]);
});
