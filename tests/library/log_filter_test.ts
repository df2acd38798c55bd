/**
 * The filter `log` in front of an attached disk on a simulated host: what the guest did is in the trace, a later attach
 * continues it, and no other disk writes into it.
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ENOSPC } from "../../lib/errno.ts";
import { SILENT } from "../../lib/log.ts";
import { attach, type AttachedDisk, XenblkError } from "../../mod.ts";
import { readAll, type RecordFields } from "../trace/traces.ts";
import { type Guest, SimulatedHost } from "./host.ts";

const MIB = 2 ** 20;
const DEVICE = "vbd3/5/51712";
const LABEL = "vbd3-5-51712";

async function inDirectory(body: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await body(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

/** Attaches a disk in memory behind these filters and connects the guest to it. */
async function attached(
  host: SimulatedHost,
  options: Partial<Parameters<typeof attach>[0]>,
): Promise<{ readonly disk: AttachedDisk; readonly guest: Guest }> {
  const guest = host.guest(options.vdev ?? "xvda");
  const [disk] = await Promise.all([attach({ ...host.options("memory:1M"), ...options }), guest.connect()]);
  return { disk, guest };
}

function countOf(records: readonly RecordFields[], operation: number): number {
  return records.filter((record) => record.operation === operation).length;
}

function bytesOf(records: readonly RecordFields[], operation: number): number {
  return records.filter((record) => record.operation === operation)
    .reduce((total, { sectorCount }) => total + 512 * sectorCount, 0);
}

Deno.test("a trace has every request of the guest, with its place, its time and its result", () =>
  inDirectory(async (directory) => {
    using host = new SimulatedHost();
    const beganMs = Date.now();
    const { disk, guest } = await attached(host, { filters: [`log,file=${directory}/{device}.trace`] });
    const load = await guest.load({ requests: 600, flushEvery: 20, discardEvery: 30 });
    await disk[Symbol.asyncDispose]();
    const { sessions, records, faults } = readAll(Deno.readFileSync(`${directory}/${LABEL}.trace`));
    const [session] = sessions;
    assertEquals(sessions, [{ ...session!, sectors: MIB / 512, logicalSectorBytes: 512, disk: DEVICE }]);
    assert(session!.startMs >= beganMs && session!.startMs <= Date.now());
    assertEquals([load.errors, faults.first, faults.lost], [0, undefined, 0]);
    assertEquals([countOf(records, 0), bytesOf(records, 0)], [load.reads, load.bytesRead]);
    assertEquals([countOf(records, 1), bytesOf(records, 1)], [load.writes, load.bytesWritten]);
    assertEquals(countOf(records, 3), load.discards);
    assert(countOf(records, 2) >= load.flushes, "the backend flushes when it closes, too");
    const elapsedUs = (Date.now() - beganMs) * 1000;
    assert(records.every(({ timeUs, durationUs, errno }) => timeUs + durationUs <= elapsedUs && errno === 0));
    assert(records.some(({ timeUs }) => timeUs > 0) && records.some(({ durationUs }) => durationUs > 0));
    assert(records.every(({ sector, sectorCount }) => sector + sectorCount <= MIB / 512));
  }));

Deno.test("the next attach continues the trace with a session of its own", () =>
  inDirectory(async (directory) => {
    using host = new SimulatedHost();
    const file = `${directory}/a.trace`;
    for (const requests of [50, 70]) {
      const { disk, guest } = await attached(host, { filters: [{ name: "log", file, limit: "1M" }] });
      await guest.load({ requests, readShare: 1 });
      await disk[Symbol.asyncDispose]();
    }
    const { sessions, records } = readAll(Deno.readFileSync(file));
    assertEquals([sessions.length, countOf(records, 0)], [2, 120]);
  }));

Deno.test("a trace that another disk writes is refused, and nothing of the second disk is left behind", () =>
  inDirectory(async (directory) => {
    using host = new SimulatedHost();
    const filters = [`log,file=${directory}/a.trace`];
    const { disk } = await attached(host, { filters });
    await using _disk = disk;
    const { usage, journals } = host.holdings();
    const refused = new AbortController();
    const error = (line: string): void => refused.abort(new Error(line));
    const options = { ...host.options("memory:1M"), vdev: "xvdb", filters, logger: { ...SILENT, error } };
    const attaching = attach({ ...options, signal: refused.signal });
    const { message } = await assertRejects(() => attaching, XenblkError, "another disk or process writes to it");
    assertStringIncludes(message, "use {device} in its name");
    assertEquals({ ...host.holdings(), nodes: [] }, { usage, journals, nodes: [] });
  }));

Deno.test("an image, a directory or a path that is not there in place of a trace is refused before anything is done", () =>
  inDirectory(async (directory) => {
    using host = new SimulatedHost();
    const before = host.holdings();
    const image = `${directory}/disk.img`;
    Deno.writeFileSync(image, new Uint8Array(MIB));
    const cases: readonly (readonly [file: string, why: string])[] = [
      [image, "it exists, and is no trace that can be continued: it does not begin with xbtr"],
      [directory, "it is a directory"],
      ["/dev/null", "it is not a regular file"],
      [`${directory}/none/a.trace`, "there is no such directory"],
      [`${directory}/none/{device}.trace`, "there is no such directory"],
    ];
    for (const [file, why] of cases) {
      const attaching = (): Promise<AttachedDisk> =>
        attach({ ...host.options("memory:1M"), filters: [{ name: "log", file }] });
      await assertRejects(attaching, XenblkError, `Cannot write trace ${file}: ${why}`);
    }
    assertEquals(host.holdings(), before);
    assert(Deno.readFileSync(image).every((byte) => byte === 0));
  }));

Deno.test("a trace has the error of a request that failed; where log stands decides whether it sees it", () =>
  inDirectory(async (directory) => {
    using host = new SimulatedHost();
    const [near, far] = [`${directory}/near`, `${directory}/far`];
    const filters = [`log,file=${near}`, "error,rate=1,operations=write,errno=ENOSPC", `log,file=${far}`];
    const { disk, guest } = await attached(host, { filters });
    const { errors, reads } = await guest.load({ requests: 40 });
    await disk[Symbol.asyncDispose]();
    const records = readAll(Deno.readFileSync(near)).records;
    assertEquals(records.filter(({ errno }) => errno === ENOSPC).length, errors);
    assert(records.every(({ operation, errno }) => (operation === 1) === (errno === ENOSPC)));
    assertEquals([countOf(readAll(Deno.readFileSync(far)).records, 0)], [reads]);
    assertEquals(countOf(readAll(Deno.readFileSync(far)).records, 1), 0);
  }));

Deno.test("a wrong option of log is a usage error", async () => {
  using host = new SimulatedHost();
  for (const filter of ["log", "log,file=", "log,file=a,limit=1K", "log,file=a,limit=x", "log,file=a,data=hash"]) {
    const error = await assertRejects(
      () => attach({ ...host.options("memory:1M"), filters: [filter] }),
      XenblkError,
      "Cannot use filter log: ",
    );
    assertEquals(error.kind, "usage");
  }
});
