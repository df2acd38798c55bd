/**
 * The parts of `top` without a terminal: readings of disks and processes that come and go, the order of rows, and lines
 * that fit.
 */

import { assert, assertEquals } from "@std/assert";
import { Sampler } from "../../lib/cli/top/sampler.ts";
import {
  RATE_COLUMNS,
  renderRates,
  rowsOf,
  screenLines,
  sorted,
  type TopView,
  viewAfter,
} from "../../lib/cli/top/view.ts";
import type { LiveFigures } from "../../lib/control/live_figures.ts";
import type { DomId } from "../../lib/hypervisor.ts";

const VIEW: TopView = { sort: "util", reverse: false, byGuest: false };
const NO_TIMES = { count: 0, sum_ns: 0, max_ns: 0, buckets: [] };

/** A reading of a disk with so many reads. */
function disk(pid: number, domain: number, name: string, atMs: number, reads: number): LiveFigures {
  const report = { domain, name, backendPath: `/vbd3/${domain}/${name}`, label: `vbd3/${domain}/${name}` };
  const latency = { read: NO_TIMES, write: NO_TIMES, flush: NO_TIMES, discard: NO_TIMES };
  const figures = { rd_req: reads, rd_bytes: 0, wr_req: 0, wr_bytes: 0, f_req: 0, ds_req: 0, ds_sect: 0, busy_ns: 0 };
  return { hello: { pid }, path: "", report, figures: { ...figures, at_ms: atMs, latency } } as unknown as LiveFigures;
}

/** A sampler of these readings. */
function samplerOf(...readings: LiveFigures[][]): Sampler {
  return new Sampler(() => new Map([[5 as DomId, "web"]]), () => Promise.resolve(readings.shift()!));
}

Deno.test("a disk has a row from its second reading in a process on; a new process begins anew", async () => {
  const sampler = samplerOf(
    [disk(1, 5, "xvda", 0, 900)],
    [disk(1, 5, "xvda", 1000, 910), disk(1, 6, "xvda", 1000, 7)],
    [disk(2, 5, "xvda", 2000, 3), disk(1, 6, "xvda", 3000, 27)],
    [],
  );
  const rows = async (): Promise<[number, [string, number][]]> => {
    const { disks, live } = await sampler.sample();
    return [live, disks.map(({ disk_device, rates }) => [disk_device, rates["r/s"]])];
  };
  assertEquals(await rows(), [1, []]);
  assertEquals(await rows(), [2, [["web/xvda", 10]]]);
  assertEquals(await rows(), [2, [["6/xvda", 10]]]);
  assertEquals(await rows(), [0, []]);
});

Deno.test("rows are added up by guest, and sorted; keys change the view", async () => {
  const names = [[5, "xvda"], [5, "xvdb"], [6, "xvda"]] as const;
  const reading = (atMs: number, ...reads: number[]): LiveFigures[] =>
    names.map(([domain, name], i) => disk(1, domain, name, atMs, reads[i]!));
  const sampler = samplerOf(reading(0, 0, 0, 0), reading(1000, 4, 5, 6));
  await sampler.sample();
  const { disks, guests } = await sampler.sample();
  const order = (rows: typeof disks, view: Partial<TopView>): string[] =>
    sorted(rows, { ...VIEW, ...view }).map(({ disk_device }) => disk_device);
  assertEquals(order(disks, { sort: "r/s" }), ["6/xvda", "web/xvdb", "web/xvda"]);
  assertEquals(order(disks, { sort: "r/s", reverse: true }), ["web/xvda", "web/xvdb", "6/xvda"]);
  assertEquals(order(disks, { sort: "w/s" }), ["6/xvda", "web/xvda", "web/xvdb"], "equal ones by name");
  assertEquals(guests.map(({ disk_device, rates }) => [disk_device, rates["r/s"]]), [["web", 9], ["6", 6]]);

  assertEquals(viewAfter(VIEW, "s").sort, "r/s", "the first after the last");
  assertEquals(viewAfter(viewAfter(VIEW, "left"), "right"), VIEW);
  assertEquals([viewAfter(VIEW, "r").reverse, viewAfter(VIEW, "g").byGuest, viewAfter(VIEW, "x")], [true, true, VIEW]);
});

Deno.test("a column has the limits where a disk has any, and JSON has them as numbers", async () => {
  const limits = {
    iops: 500,
    iopsBurst: 0,
    bytesPerSecond: 10 * 2 ** 20,
    bytesBurst: 0,
    readIops: 0,
    writeIops: 0,
    readBytesPerSecond: 0,
    writeBytesPerSecond: 0,
  };
  const reading = (atMs: number): LiveFigures[] =>
    ["xvda", "xvdb"].map((name, i) => {
      const live = disk(1, 5, name, atMs, atMs);
      return i === 0 ? live : { ...live, report: { ...live.report, limits } };
    });
  const sampler = samplerOf(reading(0), reading(1000));
  await sampler.sample();
  const { disks, guests } = await sampler.sample();
  assertEquals(disks.map((row) => row.limits), [undefined, limits]);
  const [headings, ...rows] = renderRates(disks, VIEW, 250).trimEnd().split("\n");
  assert(headings!.endsWith("  limit"));
  assertEquals(rows.map((row) => /\S+(?: \S+)?$/.exec(row)![0]), ["-", "500/s 10.0MiB/s"]);
  assert(!renderRates(guests, VIEW, 250).includes("limit"));
});

Deno.test("no line is wider than the terminal, and more rows than it has are counted", async () => {
  const reading = (atMs: number): LiveFigures[] =>
    Array.from({ length: 40 }, (_, i) => disk(1, i, "xvda", atMs, atMs * 1e6));
  const sampler = samplerOf(reading(0), reading(1000));
  await sampler.sample();
  const sample = await sampler.sample();
  for (const columns of [200, 132, 80, 60, 20]) {
    for (const sort of RATE_COLUMNS) {
      const lines = screenLines(sample, { ...VIEW, sort }, { columns, rows: 24 });
      assertEquals([lines.length, lines.filter((line) => line.length > columns)], [24, []]);
      assertEquals(lines.at(-2), "... and 20 more".slice(0, columns));
      if (columns >= 60) assert(lines[1]!.includes(sort === "util" ? "%util" : sort), `${sort} in ${columns}`);
    }
  }
  const [headings] = renderRates(rowsOf(sample, VIEW), VIEW, 200).split("\n");
  assert(headings!.endsWith("  %util"), "scripts find the column by its name");
  const nothing = screenLines({ disks: [], guests: [], live: 0 }, VIEW, { columns: 80, rows: 24 });
  assert(nothing.some((line) => line.includes("start `xenblk serve`")));
});
