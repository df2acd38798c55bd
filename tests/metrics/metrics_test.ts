/**
 * Metrics as Prometheus reads them: the table, the buckets, the text; the alerts and the page of documentation.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { latencyOf } from "../../lib/figures/latency.ts";
import type { DeviceStatus } from "../../lib/backend/status.ts";
import { sumStats } from "../../lib/dataplane/stats.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { cumulative, EDGES_S } from "../../lib/metrics/buckets.ts";
import { METRICS } from "../../lib/metrics/table.ts";
import { takeView } from "../../lib/metrics/view.ts";
import { nativeTest } from "../native/harness.ts";
import { ALERTS, queries, variables } from "./contrib.ts";
import { missingPrometheus, promtool } from "./prometheus.ts";
import { PAGE, withTable } from "./reference.ts";
import { diskView, durations, textOf, viewOf } from "./views.ts";

const DISK = `domain="web",domid="5",vdev="xvda",kind="vbd3"`;

Deno.test("a duration counts in its bucket and in all above; none counts below its edge", () => {
  const { counts, count, sumS } = cumulative(durations(10_000, 10_001, 5e6, 29e9, 31e9));
  const below = (edge: number): number | undefined => counts[EDGES_S.indexOf(edge)];
  assertEquals([below(10e-6), below(25e-6), below(0.0025), below(0.005), below(10), below(30)], [1, 2, 2, 3, 3, 4]);
  assertEquals([count, Math.round(sumS)], [5, 60]);
  assertEquals(counts.length, EDGES_S.length);
});

Deno.test("each metric has the value of its figure", async () => {
  const lines = (await textOf(viewOf(diskView({ latched: true, error: "no" })))).split("\n");
  const value = (name: string, labels = DISK): string | undefined => {
    return lines.find((line) => line.startsWith(labels === "" ? `${name} ` : `${name}{${labels}} `))?.split(" ").at(-1);
  };
  const disk = (...names: readonly string[]): (string | undefined)[] =>
    names.map((name) => value(`xenblk_disk_${name}`));
  assertEquals(disk("reads_completed_total", "writes_completed_total", "flushes_completed_total"), ["3", "2", "1"]);
  assertEquals(disk("discards_completed_total", "read_bytes_total", "written_bytes_total"), ["0", "4096", "8192"]);
  assertEquals(disk("discarded_bytes_total", "in_flight", "busy_seconds_total"), ["16384", "2", "0.5"]);
  assertEquals(disk("connected", "latched", "error", "storage_waiting"), ["1", "1", "1", "0"]);
  assertEquals(disk("ring_passes_total", "notifications_total"), ["11", "12"]);
  assertEquals(disk("read_duration_seconds_count", "write_duration_seconds_sum"), ["3", "40.001"]);
  const edge = (le: string): string | undefined =>
    value("xenblk_disk_read_duration_seconds_bucket", `le="${le}",${DISK}`);
  assertEquals([edge("0.00001"), edge("0.001"), edge("+Inf")], ["1", "2", "3"]);
  const errors = ["read", "write", "flush", "discard", "other"];
  assertEquals(
    errors.map((operation) => value("xenblk_disk_errors_total", `${DISK},operation="${operation}"`)),
    ["1", "2", "3", "4", "5"],
  );
  assertEquals(value("xenblk_disk_info", `${DISK},image="raw:/a (b).img"`), "1", "an image's size is no label");
  assertEquals(value("xenblk_build_info", `version="1.2.3",deno="2.0.0"`), "1");
  assertEquals([value("xenblk_disks", ""), value("process_cpu_seconds_total", "")], ["1", "2.5"]);
});

Deno.test("names keep Prometheus' rules: base units, _total for counters alone", () => {
  for (const { name, type, unit, help } of METRICS) {
    assertMatch(name, /^(xenblk|process)_[a-z_]+$/);
    assertEquals(name.endsWith("_total"), type === "counter", name);
    if (unit === "s") assertMatch(name, /_seconds(_total)?$/);
    if (unit === "By") assertMatch(name, /_bytes(_total)?$/);
    assertMatch(help, /^[A-Z1].*[^.]$/, "a sentence without a period");
  }
  assertEquals(new Set(METRICS.map(({ name }) => name)).size, METRICS.length);
});

Deno.test("what a guest can choose forges no line, and is cut", async () => {
  const text = await textOf(viewOf(diskView({ domain: `a"} 1\nxenblk_disks 7\\` })));
  assertStringIncludes(text, `domain="a\\"} 1\\nxenblk_disks 7\\\\",`);
  assertEquals(text.match(/^xenblk_disks .*/gm), ["xenblk_disks 1"]);
  const stats = sumStats([]);
  const none = latencyOf([]);
  const device: DeviceStatus = {
    label: "vbd3/5/51712",
    backendPath: "/local/domain/0/backend/vbd3/5/51712",
    kind: "vbd3",
    domain: 5 as DomId,
    guest: "x".repeat(4096),
    vdev: 51712,
    name: "xvda",
    backendState: "Connected",
    frontendState: "Connected",
    connected: true,
    error: "no\x1b[31m",
    owned: true,
    latched: false,
    weight: 100,
    totals: stats,
    queues: [stats],
    latency: { read: none, write: none, flush: none, discard: none },
    busyNs: 0,
    atMs: 0,
  };
  const [view] = takeView([device], "1.2.3").disks;
  assertEquals([view?.domain.length, view?.domain.at(-1), view?.error], [200, "…", "no\\x1b[31m"]);
});

nativeTest("promtool finds nothing to improve in the text, nor in the alerts", async () => {
  assertEquals(await promtool(["check", "metrics"], await textOf(viewOf(diskView(), diskView({ vdev: "xvdb" })))), {
    status: 0,
    said: "",
  });
  const rules = await promtool(["check", "rules", ALERTS]);
  assertEquals(rules.status, 0, rules.said);
  assertMatch(rules.said, /SUCCESS: \d+ rules found/);
}, missingPrometheus());

/** Series of one disk over ten minutes, a sample each 30 s, and the alerts that must fire at the end. */
const TROUBLES: readonly (readonly [string, Readonly<Record<string, string>>, readonly string[]])[] = [
  ["a healthy disk", { connected: "1x20", latched: "0x20", in_flight: "4x20", reads_completed_total: "0+9x20" }, []],
  ["a latched disk", { latched: "0 1x19" }, ["XenblkDiskLatched"]],
  ["a disk with an error that its guest does not connect", { error: "1x20", connected: "0x20" }, [
    "XenblkDiskError",
    "XenblkDiskNotConnected",
  ]],
  [
    "a disk whose storage answers nothing",
    {
      in_flight: "4x20",
      reads_completed_total: "9x20",
      writes_completed_total: "9x20",
      flushes_completed_total: "9x20",
      discards_completed_total: "9x20",
    },
    ["XenblkDiskStalled"],
  ],
  ["a disk that waits for its storage", { storage_waiting: "1x20" }, ["XenblkStorageWaiting"]],
];

nativeTest("an alert fires for its trouble, and none for a healthy disk", async () => {
  const tests = TROUBLES.map(([name, values, alerts]) => ({
    name,
    interval: "30s",
    input_series: Object.entries(values).map(([metric, samples]) => ({
      series: `xenblk_disk_${metric}{${DISK}}`,
      values: samples,
    })),
    promql_expr_test: [{
      expr: `count by (alertname) (ALERTS{alertstate="firing"})`,
      eval_time: "10m",
      exp_samples: alerts.map((alertname) => ({ labels: `{alertname="${alertname}"}`, value: 1 })),
    }],
  }));
  const file = Deno.makeTempFileSync({ suffix: ".yml" });
  try {
    Deno.writeTextFileSync(file, JSON.stringify({ rule_files: [ALERTS], evaluation_interval: "30s", tests }));
    const { status, said } = await promtool(["test", "rules", file]);
    assertEquals(status, 0, said);
  } finally {
    Deno.removeSync(file);
  }
}, missingPrometheus());

/** The names of metrics in an expression, and the labels that it matches or groups by. */
function namesIn(expression: string): { metrics: string[]; labels: string[] } {
  const matched = [...expression.matchAll(/[{,]\s*(\w+)\s*(?:=~|!=|=)/g)].map((match) => match[1]!);
  const grouped = [...expression.matchAll(/\b(?:by|without|on)\s*\(([^)]*)\)/g)].flatMap((match) =>
    match[1]!.split(/,\s*/)
  );
  return { metrics: expression.match(/\b(?:xenblk|process)_\w+/g) ?? [], labels: [...matched, ...grouped] };
}

Deno.test("the dashboard and the alerts name metrics and labels that the program has", async () => {
  const text = await textOf(viewOf(diskView()));
  const metrics = new Set(text.match(/^\w+/gm));
  const labels = new Set([...[...text.matchAll(/[{,](\w+)="/g)].map((match) => match[1]!), "instance", "job"]);
  const alerts = Deno.readTextFileSync(ALERTS);
  const expressions = [...queries().map(({ expr }) => expr), ...variables().map(({ metric }) => metric), alerts];
  const named = expressions.map(namesIn);
  assertEquals(named.flatMap((names) => names.metrics).filter((name) => !metrics.has(name)), []);
  assertEquals(named.flatMap((names) => names.labels).filter((name) => !labels.has(name)), []);
  const legends = [...queries().map(({ legendFormat }) => legendFormat), alerts.replaceAll("$labels.", "")];
  const shown = legends.flatMap((legend) => [...legend.matchAll(/\{\{\s*(\w+)\s*\}\}/g)].map((match) => match[1]!));
  assertEquals(shown.filter((name) => !labels.has(name)), []);
  assert(queries().length > 20 && variables().length === 3);
  // Each metric of a disk is in the dashboard: one that is not was forgotten.
  const used = named.flatMap((names) => names.metrics).join(" ");
  assertEquals(METRICS.filter(({ name }) => name.startsWith("xenblk_disk_") && !used.includes(name)), []);
});

Deno.test("docs/metrics.md has the table of the program (else: deno task docs)", () => {
  const page = Deno.readTextFileSync(PAGE);
  assertEquals(page, withTable(page));
});
