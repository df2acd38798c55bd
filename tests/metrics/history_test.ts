/**
 * What a status page is told of the time before it was opened.
 */

import { assertEquals } from "@std/assert";
import { History } from "../../lib/metrics/history.ts";
import { diskView, durations, viewOf } from "./views.ts";

Deno.test("readings have what the page plots, of each disk, and are kept for five minutes", () => {
  const history = new History();
  const at = (minutes: number): void =>
    history.add({ ...viewOf(diskView(), diskView({ vdev: "xvdb" })), atMs: minutes * 60_000 });
  at(1);
  at(2);
  at(6.5);
  const { readings } = history.toJSON();
  assertEquals(readings.map(({ atMs, disks }) => [atMs / 60_000, Object.keys(disks)]), [
    [2, ["vbd3/5/xvda", "vbd3/5/xvdb"]],
    [6.5, ["vbd3/5/xvda", "vbd3/5/xvdb"]],
  ]);
  const { count, sum_ns } = durations(9_000, 30_000, 2e6);
  const write = { count: 2, sum_ns: 1e6 + 40e9 };
  assertEquals(readings[0]!.disks["vbd3/5/xvda"], {
    at_ms: 1000,
    rd_bytes: 4096,
    wr_bytes: 8192,
    rd_req: 4,
    wr_req: 3,
    busy_ns: 5e8,
    latency: { read: { count, sum_ns }, write },
  });
});
