/**
 * The server of the metrics and the file, in their Worker: what they answer, whom they refuse, and what a hostile client
 * can take.
 */

import { existsSync } from "node:fs";
import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import type { MonitorOptions } from "../../lib/metrics/messages.ts";
import { Monitor } from "../../lib/metrics/monitor.ts";
import { diskView, viewOf } from "./views.ts";

const ANYWHERE = { hostname: "127.0.0.1", port: 0 };
const VIEW = viewOf(diskView());

/** Waits until something is so, but not for ever. */
async function until(isSo: () => boolean): Promise<void> {
  const end = performance.now() + 10_000;
  while (!isSo() && performance.now() < end) await new Promise((go) => setTimeout(go, 10));
}

/** A monitor of one disk, and what it warned of. */
class Rig implements AsyncDisposable {
  readonly warnings: string[];
  readonly monitor: Monitor;
  readonly port: number;

  private constructor(monitor: Monitor, warnings: string[], url?: string) {
    this.monitor = monitor;
    this.warnings = warnings;
    this.port = Number(url === undefined ? NaN : new URL(url).port);
  }

  static async start(options: MonitorOptions = { address: ANYWHERE }): Promise<Rig> {
    const warnings: string[] = [];
    const monitor = new Monitor(options, (line) => warnings.push(line));
    return new Rig(monitor, warnings, options.address === undefined ? undefined : await monitor.listening);
  }

  /** The whole answer to bytes that are sent as they are; empty if the connection is refused. */
  async raw(text: string): Promise<string> {
    try {
      using connection = await Deno.connect(ANYWHERE.port === this.port ? ANYWHERE : { ...ANYWHERE, port: this.port });
      await connection.write(new TextEncoder().encode(text));
      return await new Response(connection.readable).text();
    } catch {
      return "";
    }
  }

  /** The status of a request by its first line and headers. */
  async status(line: string, ...headers: readonly string[]): Promise<number> {
    const answer = await this.raw([line, ...headers, "connection: close", "", ""].join("\r\n"));
    return Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.monitor[Symbol.asyncDispose]();
  }
}

Deno.test("paths, methods and hosts that are not served are refused, and nothing before there are disks", async () => {
  await using rig = await Rig.start({ address: ANYWHERE, hostNames: ["Dom0.example"] });
  const host = "host: 127.0.0.1";
  assertEquals(await rig.status("GET /metrics HTTP/1.1", host), 503, "no disk is followed yet");
  rig.monitor.observe(() => VIEW);
  assertEquals(await rig.status("GET /metrics HTTP/1.1", host), 200);
  for (const path of ["/", "/page.js", "/page.css", "/status.json?x=1", "/history.json"]) {
    assertEquals(await rig.status(`GET ${path} HTTP/1.1`, host), 200, path);
  }
  for (const path of ["/metrics/", "/../etc/passwd", "//", "/worker.ts", "http://127.0.0.1/etc"]) {
    assertEquals(await rig.status(`GET ${path} HTTP/1.1`, host), 404, path);
  }
  for (const method of ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"]) {
    assertEquals(await rig.status(`${method} /metrics HTTP/1.1`, host, "content-length: 0"), 405, method);
  }
  for (const name of ["localhost:1", "[::1]:9779", "192.0.2.1", "dom0.EXAMPLE:80"]) {
    assertEquals(await rig.status("GET / HTTP/1.1", `host: ${name}`), 200, name);
  }
  for (const name of ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "dom0"]) {
    assertEquals(await rig.status("GET / HTTP/1.1", `host: ${name}`), 421, name);
  }
  assertEquals(await rig.status("GET / HTTP/1.0"), 421, "no host at all");
});

Deno.test("an answer has no body for HEAD, and headers that keep other pages out", async () => {
  await using rig = await Rig.start();
  rig.monitor.observe(() => VIEW);
  const answer = await rig.raw("HEAD / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
  assertMatch(answer, /^HTTP\/1\.1 200 OK\r\n/);
  assert(answer.endsWith("\r\n\r\n"), "no body");
  assertMatch(answer, /content-security-policy: default-src 'none'; script-src 'self';/i);
  assertMatch(answer, /x-content-type-options: nosniff/i);
});

Deno.test("clients that are slow, silent, too big or too many are ended, and others are answered", async () => {
  await using rig = await Rig.start();
  let looks = 0;
  rig.monitor.observe(() => (looks++, VIEW));
  const ask = "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
  assertMatch(await rig.raw(`GET / HTTP/1.1\r\nx: ${"a".repeat(9000)}\r\n\r\n`), /^HTTP\/1\.1 431 /);
  assertMatch(await rig.raw("\0\x01\x02 not HTTP\r\n\r\n"), /^HTTP\/1\.1 400 /);
  const halves = Array.from({ length: 50 }, () => rig.raw("GET /metrics HT"));
  assertMatch(await rig.raw(ask), /^HTTP\/1\.1 200 /, "beside 50 that never finish");
  const flood = await Promise.all(Array.from({ length: 300 }, () => rig.raw(ask)));
  const answered = flood.filter((answer) => answer.startsWith("HTTP/1.1 200 ")).length;
  assert(answered > 0 && answered < 300, `${answered} of 300 at once were answered`);
  assert(looks < 60, `the main thread made ${looks} views for ${answered} answers`);
  for (const answer of await Promise.all(halves)) assertMatch(answer, /^(HTTP\/1\.1 408 |$)/);
  assertMatch(await rig.raw(ask), /^HTTP\/1\.1 200 /);
  assertEquals(rig.warnings, []);
});

Deno.test("clients that ask ahead of the answers, or leave before theirs, hold nobody up", async () => {
  await using rig = await Rig.start();
  rig.monitor.observe(() => VIEW);
  const ask = "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
  const ahead = await rig.raw(ask.repeat(3000));
  assert(ahead.split("HTTP/1.1 200 ").length <= 2, "one request at a time");
  for (let count = 0; count < 1000; count++) {
    using connection = await Deno.connect({ ...ANYWHERE, port: rig.port });
    await connection.write(new TextEncoder().encode(ask));
  }
  const beganMs = performance.now();
  // The server may have all its connections until it has seen that they are closed.
  while (await rig.status("GET /metrics HTTP/1.1", "host: 127.0.0.1") !== 200) {
    assertLess(performance.now() - beganMs, 10_000);
  }
  assertLess(performance.now() - beganMs, 10_000);
});

Deno.test("a view that fails is a warning and 503, not the end of the process", async () => {
  await using rig = await Rig.start();
  rig.monitor.observe(() => {
    throw new Error("a defect");
  });
  assertEquals(await rig.status("GET /metrics HTTP/1.1", "host: 127.0.0.1"), 503);
  assertStringIncludes(rig.warnings[0] ?? "", "cannot take the figures of the disks: a defect");
});

Deno.test("an address that is taken, or of another machine, is a warning with what to do, and the rest works", async () => {
  using taken = Deno.listen(ANYWHERE);
  const folder = Deno.makeTempDirSync();
  try {
    for (const address of [taken.addr as Deno.NetAddr, { hostname: "192.0.2.1", port: 0 }]) {
      const textfile = `${folder}/${address.hostname}.prom`;
      const warnings: string[] = [];
      await using monitor = new Monitor({ address, textfile }, (line) => warnings.push(line));
      monitor.observe(() => VIEW);
      await until(() => warnings.length > 0 && existsSync(textfile));
      assertMatch(
        warnings.join(),
        /^cannot serve metrics on \S+, port \d+: .*; the disks are served without; it is tried/,
      );
      assertStringIncludes(warnings.join(), "choose a free port and an address of this machine");
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("an address that becomes free is used then", async () => {
  const taken = Deno.listen(ANYWHERE);
  const { port } = taken.addr as Deno.NetAddr;
  const warnings: string[] = [];
  await using monitor = new Monitor({ address: { ...ANYWHERE, port } }, (line) => warnings.push(line));
  await until(() => warnings.length > 0);
  taken.close();
  assertEquals(await monitor.listening, `http://127.0.0.1:${port}/`);
  assertEquals(warnings.length, 1);
});

Deno.test({
  name: "without the permission to listen there is a warning that says which one is missing",
  permissions: { read: true, env: true, net: false },
  async fn(): Promise<void> {
    for (const [hostname, option] of [["127.0.0.1", "127.0.0.1:9779"], ["::1", "[::1]:9779"]] as const) {
      const warnings: string[] = [];
      await using _monitor = new Monitor({ address: { hostname, port: 9779 } }, (line) => warnings.push(line));
      await until(() => warnings.length > 0);
      assertStringIncludes(
        warnings.join(),
        `run deno with --allow-net=${option} as well; the disks are served without`,
      );
    }
  },
});

Deno.test("what is no file of metrics is neither replaced nor removed; one that a killed process left is", async () => {
  const folder = Deno.makeTempDirSync();
  try {
    const textfile = `${folder}/xenblk.prom`;
    const named: readonly (readonly [make: () => void, warning: RegExp])[] = [
      [() => Deno.writeTextFileSync(textfile, "a disk image"), /it holds something else; trying again/],
      [() => Deno.symlinkSync("/dev/null", textfile), /it is not a regular file; trying again/],
      [() => Deno.mkdirSync(textfile), /it is not a regular file; trying again/],
    ];
    for (const [make, warning] of named) {
      make();
      const before = Deno.lstatSync(textfile);
      {
        await using rig = await Rig.start({ textfile });
        rig.monitor.observe(() => VIEW);
        await until(() => rig.warnings.length > 0);
        assertMatch(rig.warnings.join(), warning);
      }
      assertEquals(Deno.lstatSync(textfile).ino, before.ino);
      Deno.removeSync(textfile);
    }
    Deno.writeTextFileSync(textfile, "# HELP old Of a killed process\n");
    {
      await using rig = await Rig.start({ textfile });
      rig.monitor.observe(() => VIEW);
      await until(() => Deno.readTextFileSync(textfile).includes("\nprocess_start_time_seconds "));
      assertEquals(rig.warnings, []);
    }
    assertEquals([...Deno.readDirSync(folder)], []);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("the file is whole, is removed at the end, and a folder that is missing is one warning", async () => {
  const folder = Deno.makeTempDirSync();
  try {
    const textfile = `${folder}/later/xenblk.prom`;
    {
      await using rig = await Rig.start({ textfile });
      rig.monitor.observe(() => VIEW);
      await until(() => rig.warnings.length > 0);
      assertMatch(rig.warnings.join(), /^cannot write the metrics into .*xenblk\.prom: .*; trying again$/);
    }
    Deno.mkdirSync(`${folder}/later`);
    await using rig = await Rig.start({ textfile });
    rig.monitor.observe(() => VIEW);
    let text = "";
    for (const end = performance.now() + 10_000; text === "" && performance.now() < end;) {
      text = await Deno.readTextFile(textfile).catch(() => "");
    }
    assertMatch(text, /\nprocess_start_time_seconds \d+\n$/, "complete");
    await rig[Symbol.asyncDispose]();
    assertEquals([...Deno.readDirSync(`${folder}/later`)], []);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
