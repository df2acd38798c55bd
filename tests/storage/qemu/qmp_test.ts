/**
 * The QMP client, with a pretended daemon: requests in flight together, errors, events; and everything that a daemon can
 * do wrong, each time with an error that says so.
 */

import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { QmpConnection, QmpError, type QmpObject } from "../../../lib/storage/qemu/qmp.ts";
import { QmpAbsentError, QmpSilentError } from "../../../lib/storage/qemu/silence.ts";

const GREETING = `{"QMP": {"version": {}, "capabilities": []}}\r\n`;

/** A daemon that greets and then answers each request as `answer` says: a text, or nothing. */
class PretendedDaemon implements AsyncDisposable {
  readonly path = `${Deno.makeTempDirSync()}/qmp`;
  readonly #listener = Deno.listen({ transport: "unix", path: this.path });
  readonly #serving: Promise<void>;
  #connection: Deno.UnixConn | undefined;

  constructor(answer: (request: QmpObject) => string | undefined, greeting = GREETING) {
    this.#serving = this.#serve(answer, greeting);
  }

  async send(text: string): Promise<void> {
    await this.#connection!.write(new TextEncoder().encode(text));
  }

  close(): void {
    try {
      this.#connection?.close();
    } catch {
      // its reader has closed it
    }
    this.#connection = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.close();
    await this.#serving;
    Deno.removeSync(this.path.replace(/\/qmp$/, ""), { recursive: true });
  }

  async #serve(answer: (request: QmpObject) => string | undefined, greeting: string): Promise<void> {
    try {
      const connection = this.#connection = await this.#listener.accept() as Deno.UnixConn;
      await this.send(greeting);
      let rest = "";
      for await (const text of connection.readable.pipeThrough(new TextDecoderStream())) {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        for (const line of lines) {
          const request = JSON.parse(line) as QmpObject;
          const known = request.execute === "qmp_capabilities" ? ok(request) : answer(request);
          if (known !== undefined) await this.send(known);
        }
      }
    } catch {
      // the connection was closed
    }
  }
}

function ok({ id }: QmpObject, value: unknown = {}): string {
  return `${JSON.stringify({ return: value, id })}\n`;
}

const NAME = "the storage daemon of domain 5 (process 812)";

Deno.test("requests are in flight together, and each gets its own answer", async () => {
  const held: QmpObject[] = [];
  await using daemon = new PretendedDaemon((request) => {
    held.push(request);
    return held.length < 3 ? undefined : held.reverse().map((each) => ok(each, each.execute)).join("");
  });
  using qmp = await QmpConnection.open(daemon.path, { name: NAME });
  assertEquals(await Promise.all(["one", "two", "three"].map((each) => qmp.execute(each))), ["one", "two", "three"]);
});

Deno.test("an error names the command, what it was about, and QEMU's description", async () => {
  await using daemon = new PretendedDaemon(({ id }) =>
    `{"error": {"class": "GenericError", "desc": "Failed to get \\"write\\" lock"}, "id": ${id}}\r\n`
  );
  using qmp = await QmpConnection.open(daemon.path, { name: NAME });
  const error = await assertRejects(() => qmp.execute("blockdev-add", { "node-name": "a-file" }), QmpError);
  assertEquals(error.message, `blockdev-add of a-file: Failed to get "write" lock`);
  assertEquals([error.subject, error.errorClass], ["a-file", "GenericError"]);
});

Deno.test("events arrive between answers, also in pieces", async () => {
  const events: string[] = [];
  await using daemon = new PretendedDaemon((request) => ok(request));
  using qmp = await QmpConnection.open(daemon.path, {
    name: NAME,
    event: (name, data) => events.push(`${name} ${data.id}`),
  });
  await daemon.send(`{"event": "BLOCK_EXPORT_`);
  await daemon.send(`DELETED", "data": {"id": "é"}}\r\n`);
  await qmp.execute("query-version");
  assertEquals(events, ["BLOCK_EXPORT_DELETED é"]);
});

Deno.test("a daemon that stops answering costs its request an error in time, and the next request gets its own answer", async () => {
  let silent = true;
  await using daemon = new PretendedDaemon((request) => silent ? undefined : ok(request, request.execute));
  using qmp = await QmpConnection.open(daemon.path, { name: NAME, requestMs: 30 });
  const error = await assertRejects(() => qmp.execute("query-version"), QmpSilentError);
  assertEquals(error.message, `Cannot reach ${NAME}: it has not answered query-version for 0.03 s`);
  silent = false;
  // The late answer to the first request is nobody's.
  await daemon.send(`{"return": "late", "id": 2}\n`);
  assertEquals(await qmp.execute("next", {}, 10_000), "next");
});

Deno.test("a daemon that accepts and never greets is given up", async () => {
  await using daemon = new PretendedDaemon(() => undefined, "");
  const opening = QmpConnection.open(daemon.path, { name: NAME, requestMs: 30 });
  assertStringIncludes((await assertRejects(() => opening, QmpSilentError)).message, "it has not greeted for 0.03 s");
});

Deno.test("something else than QMP is quoted, without its control characters", async () => {
  await using daemon = new PretendedDaemon(() => undefined, "SSH-2.0 \x1b[31mhello\n");
  const error = await assertRejects(() => QmpConnection.open(daemon.path, { name: NAME }), QmpSilentError);
  assertStringIncludes(error.message, "it sent something else than QMP: SSH-2.0 \\x1b[31mhello");
});

Deno.test("a line without an end is given up before it fills the memory", async () => {
  await using daemon = new PretendedDaemon(() => undefined);
  using qmp = await QmpConnection.open(daemon.path, { name: NAME });
  const flood = (async (): Promise<void> => {
    for (let i = 0; i < 100; i++) await daemon.send("x".repeat(64 << 10));
  })().catch(() => {});
  assertStringIncludes(await qmp.closed, "it sent a line of more than 4194304 characters");
  await flood;
});

Deno.test("the end of the connection fails what is in flight, and everything later", async () => {
  await using daemon = new PretendedDaemon(() => undefined);
  using qmp = await QmpConnection.open(daemon.path, { name: NAME });
  const inFlight = assertRejects(() => qmp.execute("query-version"), QmpSilentError);
  daemon.close();
  // Linux resets a connection that is closed before everything was read.
  const reason = await qmp.closed;
  assertMatch(reason, /^(it ended the connection|the connection to it broke: Connection reset by peer.*)$/);
  assertStringIncludes((await inFlight).message, reason);
  await assertRejects(() => qmp.execute("query-version"), QmpSilentError, reason);
});

Deno.test("where nothing listens, the error names the socket", async () => {
  const error = await assertRejects(() => QmpConnection.open("/nowhere/qmp", { name: NAME }), QmpAbsentError);
  assertStringIncludes(error.message, `Cannot reach ${NAME}: its socket /nowhere/qmp: No such file or directory`);
  // A daemon that was taken over could lead us to another one.
  const folder = await Deno.makeTempDir();
  const listener = Deno.listen({ transport: "unix", path: `${folder}/other` });
  await Deno.symlink(`${folder}/other`, `${folder}/qmp`);
  const link = await assertRejects(() => QmpConnection.open(`${folder}/qmp`, { name: NAME }), QmpAbsentError);
  assertStringIncludes(link.message, "qmp: it is a link");
  listener.close();
  await Deno.remove(folder, { recursive: true });
});
