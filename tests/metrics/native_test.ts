/**
 * The metrics of a real `serve` with a guest: scraped by Prometheus, which then answers every query of the dashboard;
 * exported to a receiver of OpenTelemetry; and shown by the status page in Chromium.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { View } from "../../lib/metrics/view.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { BackendProcess } from "../native/serve/backend.ts";
import { type GuestDisk, GuestProcess } from "../native/serve/guest.ts";
import { GUEST, LOAD, newDisk, UNTIL_STOPPED } from "../native/serve/scenes.ts";
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

  async view(): Promise<View> {
    return await (await fetch(`${this.url}status.json`)).json();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

nativeTest("Prometheus scrapes a serving process, and answers each query of the dashboard", async () => {
  await using scene = await Scene.start();
  await using prometheus = Prometheus.start(new URL(scene.url).host, ALERTS);
  await scene.disk.startLoad(UNTIL_STOPPED);
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
  await prometheus.untilFound("ALERTS or xenblk_disks");
  assert(groups[0]!.rules.length >= 8);
  assertEquals(groups[0]!.rules.filter(({ health }) => health === "err"), []);
  await scene.disk.stopLoad();
  assertEquals(await scene.backend.stop(), 0, scene.backend.messages);
  const left = [...Deno.readDirSync(scene.xen.directory)].map(({ name }) => name).filter((name) =>
    name.includes("prom")
  );
  assertEquals(left, [], "the textfile is removed");
}, missingPrometheus());

nativeTest("the status page shows what status.json and list have, and plots it", async () => {
  await using scene = await Scene.start();
  await using page = await Browser.open(scene.url);
  await page.until(`document.querySelector("#disks tbody tr")`);
  await scene.disk.startLoad(UNTIL_STOPPED);
  await page.until(`document.querySelector("#plots polyline").getAttribute("points").split(" ").length >= 3`);
  const lines = await page.evaluate<string[]>(
    `[...document.querySelectorAll("#plots polyline")].map((line) => line.getAttribute("points"))`,
  );
  assertEquals(lines.length, 2);
  for (const line of lines) assert(new Set(line.split(" ").map((point) => point.split(",")[1])).size > 1, line);
  await scene.disk.stopLoad();
  await scene.disk.load({ ...LOAD, requests: 500 });
  const { figures } = (await scene.view()).disks[0]!;
  const shown = `[...document.querySelectorAll("#plots data")].map(({ value }) => Number(value)).join()`;
  const before = performance.now();
  await page.until(`${shown} === "${figures.rd_bytes},${figures.wr_bytes}"`);
  assert(performance.now() - before < 2000, "the page follows each second");
  const cells = await page.evaluate<string[]>(
    `[...document.querySelectorAll("#disks tbody tr > *")].slice(0, 3).map(({ textContent }) => textContent)`,
  );
  assertEquals(cells, ["web", "xvda", "Connected"]);
  for (const [width, colours] of [[1280, "light"], [400, "dark"]] as const) {
    await page.look(width, colours);
    assert(await page.evaluate<number>("document.documentElement.scrollWidth") <= width, `${width} px are enough`);
  }
  assertEquals(page.troubles, []);
  await scene.disk.disconnect();
  await page.until(`document.querySelector("#disks tbody td").textContent !== "Connected"`);
  assertEquals(await scene.backend.stop(), 0, scene.backend.messages);
  await page.until(`!document.getElementById("trouble").hidden`);
}, MISSING_CHROMIUM);

nativeTest("with OTEL_DENO=true a receiver of OpenTelemetry gets the same metrics", async () => {
  const got = Promise.withResolvers<string>();
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const body = await request.text();
    if (body.includes("xenblk_disk_written_bytes_total")) got.resolve(body);
    return Response.json({});
  });
  await using scene = await Scene.start([
    "OTEL_DENO=true",
    "OTEL_DENO_CONSOLE=ignore",
    "OTEL_METRIC_EXPORT_INTERVAL=300",
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/json",
    `OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:${server.addr.port}`,
  ]);
  const body = await got.promise;
  const named = (name: string): string =>
    new RegExp(`"name": ?"${name}"[^]*?"dataPoints": ?\\[[^]*?\\]`).exec(body)?.[0] ?? "";
  assertMatch(named("xenblk_disk_connected"), /"gauge"[^]*"web"/);
  assertMatch(named("xenblk_disk_read_duration_seconds_bucket"), /"sum"[^]*"\+Inf"|"sum"[^]*"le"/);
  assertEquals(await scene.backend.stop(), 0, scene.backend.messages);
});

nativeTest("an address of --metrics that is taken ends serve before it serves a disk", async () => {
  await using xen = await NativeXen.start();
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  await using backend = new BackendProcess(xen, ["serve", "--metrics", `127.0.0.1:${port}`]);
  assertEquals(await backend.exited(), 1);
  assertMatch(
    backend.messages,
    new RegExp(`^xenblk: Cannot serve metrics on 127.0.0.1, port ${port}: .*; choose a free port`),
  );
  for (const wrong of ["9779", "127.0.0.1", "a b:1", "127.0.0.1:65536", "::1:80"]) {
    await using refused = new BackendProcess(xen, ["serve", "--metrics", wrong]);
    assertEquals(await refused.exited(), 2, wrong);
    assertMatch(refused.messages, /an address and a port, such as 127\.0\.0\.1:9779/);
    if (wrong === "9779") continue;
    break; // they are parsed alike: two processes show it
  }
});
