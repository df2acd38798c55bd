/**
 * docs/control.schema.json describes what is really said: each method is called on a running server, and every line of
 * both sides is checked against the schema, in which no member is left out.
 */

import { Ajv2020, type ValidateFunction } from "ajv";
import { assert, assertEquals } from "@std/assert";
import { readLines } from "../../lib/control/lines.ts";
import { createLogger } from "../../lib/log.ts";
import { ROOT } from "../house/source.ts";
import { Rig } from "./rig.ts";

type Json = Record<string, unknown>;

const SCHEMA = JSON.parse(Deno.readTextFileSync(`${ROOT}docs/control.schema.json`));
const METHODS = Object.keys(SCHEMA.$defs.params.$defs);

/** The schema without room for members that it does not name. What is between `if` and `then` names one member only. */
function closed(schema: unknown): unknown {
  if (typeof schema !== "object" || schema === null) return schema;
  if (Array.isArray(schema)) return schema.map(closed);
  if ("if" in schema || "$ref" in schema) return schema;
  const members = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, closed(value)]));
  return "properties" in schema ? { additionalProperties: false, ...members } : members;
}

/** Checks lines. */
class Checker {
  readonly #ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, allErrors: true });
  readonly #checks = new Map<string, ValidateFunction>();

  constructor() {
    this.#ajv.addSchema(closed(SCHEMA) as Json, "control");
  }

  /** Throws unless the value is as the schema says at that place. */
  check(place: string, value: unknown): void {
    const check = this.#checks.get(place) ?? this.#ajv.compile({ $ref: `control#/$defs/${place}` });
    this.#checks.set(place, check);
    assert(check(value), `${place}: ${this.#ajv.errorsText(check.errors)} in ${JSON.stringify(value)}`);
  }
}

/** A client that checks all that is said. */
class CheckedClient implements Disposable {
  readonly seen = new Set<string>();
  readonly #stream: Deno.Conn;
  readonly #lines: AsyncGenerator<string>;
  readonly #checker = new Checker();
  #lastId = 0;

  constructor(stream: Deno.Conn) {
    this.#stream = stream;
    this.#lines = readLines(stream, 1e6);
  }

  /** Calls a method, and resolves with its result or its error. */
  async call(method: string, params: Json): Promise<Json> {
    const request = { jsonrpc: "2.0", id: ++this.#lastId, method, params };
    if (METHODS.includes(method)) {
      this.#checker.check("request", request);
      this.seen.add(method);
    }
    await this.#stream.write(new TextEncoder().encode(JSON.stringify(request) + "\n"));
    for (;;) {
      const message = await this.next();
      if (message["id"] !== this.#lastId) continue;
      if ("result" in message) this.#checker.check(`result/$defs/${method}`, message["result"]);
      return (message["result"] ?? message["error"]) as Json;
    }
  }

  /** Reads until that event. */
  async until(event: string): Promise<void> {
    while (!this.seen.has(event)) await this.next();
  }

  /** The next line, checked. */
  async next(): Promise<Json> {
    const message = JSON.parse((await this.#lines.next()).value as string) as Json;
    const place = "id" in message ? "answer" : message["method"] === "event" ? "eventMessage" : "progressMessage";
    this.#checker.check(place, message);
    if (place === "eventMessage") this.seen.add((message["params"] as { event: string }).event);
    if (place === "progressMessage") this.seen.add("progress");
    return message;
  }

  [Symbol.dispose](): void {
    try {
      this.#stream.close();
    } catch { /* closed by the end of the server */ }
  }
}

Deno.test("every method, event and error is as the schema says", async () => {
  const rig = await Rig.start();
  using client = new CheckedClient(await Deno.connect({ transport: "unix", path: rig.path }));
  {
    await using _rig = rig;
    await client.call("hello", {});
    await client.call("ping", {});
    await client.call("subscribe", { log: "info" });
    createLogger("test").info("a line");
    await client.until("log");
    const guest = rig.host.guests[0]!;
    const missing = `${rig.image()}.none`;
    const broken = await guest.addDisk({ image: `raw:${missing}`, vdev: "xvdz" });
    await client.until("error");
    Deno.linkSync(rig.image(), missing);
    await client.until("error-cleared");
    await client.until("connected");
    const attach = { domain: guest.domid, image: rig.image("other.img"), filters: ["throttle"], grants: "copy" };
    const { device } = await client.call("attach", { ...attach, timeoutMs: 60_000 });
    for (const method of ["status", "stats"]) await client.call(method, { device });
    await client.call("limit", { device, limits: { iops: 5, bytesPerSecond: "1M" } });
    await client.call("weight", { device, weight: 300 });
    assertEquals((await client.call("mirror", { device, image: rig.image("third.img") }))["code"], -32001);
    await client.call("swap", { device, image: rig.image("third.img"), timeoutMs: 60_000 });
    await client.call("resize", { device, sizeBytes: 2 ** 22 });
    await client.call("snapshotCreate", { devices: [device], snapshot: "monday", keep: 7, bytesPerSecond: 1000 });
    await client.call("snapshots", { device });
    await client.call("snapshotCommit", { device, snapshot: "monday", bytesPerSecond: 1000 });
    await client.call("snapshotDelete", { device, snapshot: "monday", bytesPerSecond: 1000 });
    assertEquals(await client.call("daemonVisit", { device }), { visits: false });
    assertEquals((await client.call("export", { device }))["code"], -32001);
    assertEquals((await client.call("disc", { device, params: "null:1M" }))["code"], -32001);
    for (const method of ["exportEnded", "endExport"]) {
      assertEquals((await client.call(method, { device }))["code"], -32003);
    }
    assertEquals((await client.call("attach", { ...attach, image: "/none" }))["code"], -32001);
    assertEquals((await client.call("nothing", {}))["code"], -32601);
    await client.call("detach", { device, force: true, timeoutMs: 60_000 });
    await client.until("removed");
    await client.call("logLevel", { level: "warning" });
    assertEquals(await client.call("jobs", {}), { jobs: [] });
    const target = rig.image("backup.qcow2");
    assertEquals((await client.call("backup", { device, target, incremental: true }))["code"], -32003);
    assertEquals((await client.call("jobCancel", { id: "none" }))["code"], -32003);
    await broken.detach();
  }
  await client.until("end");
  // A flush has to fail for the first two; a ring moves only between busy reactors; a job needs a storage daemon.
  const latches = ["latched", "latch-cleared", "moved", "job"];
  const events = ["added", "state", "error", "connected", "disconnected", "error-cleared", "removed", "log", "end"];
  assertEquals([...METHODS, ...events, "progress"].filter((name) => !client.seen.has(name)), []);
  const named = SCHEMA.$defs.event.oneOf.flatMap((each: { properties: { event: Json } }) => {
    const { const: one, enum: several } = each.properties.event;
    return several ?? [one];
  });
  assertEquals(named.toSorted(), [...events, ...latches].toSorted());
});
