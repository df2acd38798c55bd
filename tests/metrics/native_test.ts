/**
 * The metrics of a real `serve` with a guest: scraped by Prometheus, which then answers every query of the dashboard;
 * exported to a receiver of OpenTelemetry; and shown by the status page in Chromium.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DiskFigures } from "../../lib/figures/figures.ts";
import type { View } from "../../lib/metrics/view.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { BackendProcess } from "../native/serve/backend.ts";
import { type GuestDisk, GuestProcess } from "../native/serve/guest.ts";
import { GUEST, newDisk, UNTIL_STOPPED } from "../native/serve/scenes.ts";
import { ROOT } from "../house/source.ts";
import { Browser, findChromium } from "./browser.ts";
import { ALERTS, filledIn, queries, variables } from "./contrib.ts";
import { missingPrometheus, Prometheus } from "./prometheus.ts";

const MISSING_CHROMIUM = findChromium() === undefined
  ? "Chromium is missing (Debian package chromium-headless-shell; tests/native/install.sh installs it)"
  : undefined;

/** A `serve` with metrics, a guest named web, and its connected disk. */
class Scene implements AsyncDisposable {
  constructor(
    readonly xen: NativeXen,
    readonly backend: BackendProcess,
    readonly disk: GuestDisk,
    readonly url: string,
    readonly stack: AsyncDisposableStack,
  ) {}

  static async start(environment: readonly string[] = []): Promise<Scene> {
    await using stack = new AsyncDisposableStack();
    const xen = stack.use(await NativeXen.start());
    await xen.createDomain(GUEST, "web");
    const args = ["serve", "--metrics", "127.0.0.1:0", "--metrics-textfile", `${xen.directory}/xenblk.prom`];
    const backend = stack.use(new BackendProcess(xen, args, ["env", ...environment]));
    const guest = stack.use(new GuestProcess(xen, GUEST));
    const { disk } = await newDisk(xen, guest, "disk.img");
    await disk.connect();
    await backend.says(/status page: /);
    const [, url = ""] = /status page: (\S+)/.exec(backend.messages) ?? [];
    return new Scene(xen, backend, disk, url, stack.move());
  }

  /** What status.json has, as of now: one view serves for a moment. */
  async view(): Promise<View> {
    const asked = Date.now();
    for (;;) {
      const view: View = await (await fetch(`${this.url}status.json`)).json();
      if (view.atMs >= asked) return view;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

/** Prometheus finds the disk, and something for each query and variable of the dashboard and for each alert. */
async function checkPrometheus({ url }: Scene): Promise<void> {
  await using prometheus = Prometheus.start(new URL(url).host, ALERTS);
  await prometheus.untilFound("rate(xenblk_disk_written_bytes_total[3s]) > 0");
  const [one] = await prometheus.query("xenblk_disk_connected");
  assertEquals([one?.metric.domain, one?.metric.domid, one?.metric.vdev, one?.value[1]], ["web", "7", "xvda", "1"]);
  for (const query of queries()) {
    const series = await prometheus.query(filledIn(query, 3));
    // A gauge that is 0 is left out of the panel of troubles.
    assert(series.length > 0 || / > 0$/.test(query.expr), `nothing for ${query.panel}: ${query.expr}`);
  }
  for (const { name, metric, label } of variables()) {
    const [first] = await prometheus.query(metric);
    assert(first?.metric[label] !== undefined, name);
  }
  const { groups } = await prometheus.ask<{ groups: { rules: { name: string; health: string }[] }[] }>("rules");
  assert(groups[0]!.rules.length >= 8);
  assertEquals(groups[0]!.rules.filter(({ health }) => health === "err"), []);
}

/** The page has the disk and plots what it does; it fits wide and narrow windows. */
async function checkPage(page: Browser): Promise<void> {
  await page.until(`document.querySelector("#plots polyline")?.getAttribute("points").split(" ").length >= 3`);
  const lines = await page.evaluate<string[]>(
    `[...document.querySelectorAll("#plots polyline")].map((line) => line.getAttribute("points"))`,
  );
  assertEquals(lines.length, 2);
  for (const line of lines) assert(new Set(line.split(" ").map((point) => point.split(",")[1])).size > 1, line);
  for (const [width, colours] of [[1280, "light"], [400, "dark"]] as const) {
    await page.look(width, colours);
    assert(await page.evaluate<number>("document.documentElement.scrollWidth") <= width, `${width} px are enough`);
    const scrolls = `(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.querySelector(".scroll"))`;
    assertEquals(await page.evaluate(scrolls), false, `${width} px: the table needs no scrolling`);
  }
  assertEquals(page.troubles, []);
}

/** A page that is opened now has a plot of what was before. */
async function checkPast({ url }: Scene): Promise<void> {
  const kept = async (): Promise<number> => {
    const { readings }: { readings: { disks: object }[] } = await (await fetch(`${url}history.json`)).json();
    return readings.filter(({ disks }) => Object.keys(disks).length > 0).length;
  };
  while (await kept() < 2) await new Promise((resolve) => setTimeout(resolve, 100));
  await using page = await Browser.open(url);
  await page.until(`document.querySelector("#plots polyline") !== null`);
  const label = `document.querySelector("#plots svg").getAttribute("aria-label")`;
  const [text, ageMs] = await page.evaluate<[string, number]>(`[${label}, performance.now()]`);
  const [, seconds] = /in the last (\d+) s$/.exec(text) ?? [];
  assert(Number(seconds) * 1000 > ageMs + 2000, `${text}, ${ageMs} ms after the page was opened`);
}

interface Listed {
  readonly domainName: string;
  readonly name: string;
  readonly backendState: string;
  readonly stats: DiskFigures;
}

/** The page shows the same disk, in the same state and with the same totals, as `list --json`. */
async function checkList({ xen }: Scene, page: Browser): Promise<void> {
  const args = ["run", "-A", "--no-check", `${ROOT}cli.ts`, "list", "--json"];
  const listed: readonly Listed[] = JSON.parse(await xen.run(Deno.execPath(), args));
  const rows = listed.map(({ domainName, name, backendState }) => [domainName, name, backendState]);
  const cells = `[...document.querySelectorAll("#disks tbody tr > *")].slice(0, 3).map((cell) => cell.textContent)`;
  assertEquals([await page.evaluate<string[]>(cells)], rows);
  const totals = listed.map(({ stats }) => `${stats.rd_bytes},${stats.wr_bytes}`);
  assertEquals([await page.evaluate<string>(TOTALS)], totals);
}

/** In the page: the bytes read and written of its one disk. */
const TOTALS = `[...document.querySelectorAll("#plots data")].map(({ value }) => Number(value)).join()`;

/** The page's totals are those of status.json within two seconds, as soon as nothing changes any more. */
async function checkTotals(scene: Scene, page: Browser): Promise<void> {
  const { figures } = (await scene.view()).disks[0]!;
  const began = performance.now();
  await page.until(`${TOTALS} === "${figures.rd_bytes},${figures.wr_bytes}"`);
  assert(performance.now() - began < 2000, "the page follows each second");
}

interface Point {
  readonly attributes: ReturnType<typeof attributes>;
  readonly asDouble: number;
}

interface OtlpMetric {
  readonly name: string;
  readonly unit: string;
  readonly gauge?: { readonly dataPoints: readonly Point[] };
  readonly sum?: {
    readonly dataPoints: readonly Point[];
    readonly isMonotonic: boolean;
    readonly aggregationTemporality: number;
  };
  readonly histogram?: {
    readonly dataPoints: readonly [
      { readonly count: string; readonly bucketCounts: readonly string[]; readonly explicitBounds: readonly number[] },
    ];
  };
}

/** The parts of an ExportMetricsServiceRequest that are looked at. */
interface ExportRequest {
  readonly resourceMetrics: readonly [{
    readonly resource: { readonly attributes: ReturnType<typeof attributes> };
    readonly scopeMetrics: readonly [{ readonly metrics: readonly OtlpMetric[] }];
  }];
}

function attributes(labels: Readonly<Record<string, string>>): { key: string; value: { stringValue: string } }[] {
  return Object.entries(labels).map(([key, value]) => ({ key, value: { stringValue: value } }));
}

function written({ resourceMetrics: [{ scopeMetrics: [{ metrics }] }] }: ExportRequest): number {
  return metrics.find(({ name }) => name === "xenblk_disk_written_bytes_total")?.sum?.dataPoints[0]?.asDouble ?? 0;
}

/** Receives what an exporter of OpenTelemetry sends. */
class Receiver implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #got = Promise.withResolvers<ExportRequest>();

  constructor() {
    this.#server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
      const body: ExportRequest = await request.json();
      // The first ones may come before the disk has done anything.
      if (new URL(request.url).pathname === "/v1/metrics" && written(body) > 0) this.#got.resolve(body);
      return Response.json({});
    });
  }

  /** For the environment of a process that is to send here. */
  get environment(): readonly string[] {
    return [
      "OTEL_METRIC_EXPORT_INTERVAL=300",
      "OTEL_RESOURCE_ATTRIBUTES=host.name=dom%200",
      `OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:${this.#server.addr.port}`,
    ];
  }

  /** The metrics of a disk have arrived, in their kinds. */
  async check(): Promise<void> {
    const [{ resource, scopeMetrics: [{ metrics }] }] = (await this.#got.promise).resourceMetrics;
    assertEquals(resource.attributes, attributes({ "service.name": "xenblk", "host.name": "dom 0" }));
    const named = (name: string): OtlpMetric => metrics.find((metric) => metric.name === name)!;
    const labels = attributes({ domain: "web", domid: "7", vdev: "xvda", kind: "vbd3" });
    const [connected] = named("xenblk_disk_connected").gauge!.dataPoints;
    assertEquals([connected!.asDouble, connected!.attributes], [1, labels]);
    const bytes = named("xenblk_disk_written_bytes_total");
    assertEquals([bytes.unit, bytes.sum!.isMonotonic, bytes.sum!.aggregationTemporality], ["By", true, 2]);
    const [{ count, bucketCounts, explicitBounds }] = named("xenblk_disk_read_duration_seconds").histogram!.dataPoints;
    assertEquals(bucketCounts.length, explicitBounds.length + 1);
    assertEquals(bucketCounts.reduce((sum, bucket) => sum + Number(bucket), 0), Number(count));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

nativeTest("Prometheus, OpenTelemetry and the status page have the figures of a serving process", async () => {
  await using receiver = new Receiver();
  await using scene = await Scene.start(receiver.environment);
  await using page = await Browser.open(scene.url);
  await scene.disk.startLoad(UNTIL_STOPPED);
  await Promise.all([checkPrometheus(scene), checkPage(page), receiver.check()]);
  await checkPast(scene);
  await scene.disk.stopLoad();
  await checkTotals(scene, page);
  await checkList(scene, page);
  assertEquals(await scene.backend.stop(), 0, scene.backend.messages);
  const left = [...Deno.readDirSync(scene.xen.directory)].map(({ name }) => name);
  assertEquals(left.filter((name) => name.includes("prom")), [], "the textfile is removed");
  await page.until(`!document.getElementById("trouble").hidden`);
}, missingPrometheus() ?? MISSING_CHROMIUM);

nativeTest("an address of --metrics that is taken is a warning, and the disks are served", async () => {
  await using xen = await NativeXen.start();
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  await xen.createDomain(GUEST, "web");
  await using backend = new BackendProcess(xen, ["serve", "--metrics", `127.0.0.1:${port}`]);
  await using guest = new GuestProcess(xen, GUEST);
  const { disk } = await newDisk(xen, guest, "disk.img");
  await disk.connect();
  await backend.says(/cannot serve metrics on 127\.0\.0\.1, port \d+: .*; the disks are served without/);
  assertEquals(await backend.stop(), 0, backend.messages);
  for (const wrong of ["9779", "127.0.0.1", "a b:1", "127.0.0.1:65536", "::1:80"]) {
    await using refused = new BackendProcess(xen, ["serve", "--metrics", wrong]);
    assertEquals(await refused.exited(), 2, wrong);
    assertMatch(refused.messages, /an address and a port, such as 127\.0\.0\.1:9779/);
    if (wrong === "9779") continue;
    break; // they are parsed alike: two processes show it
  }
});
