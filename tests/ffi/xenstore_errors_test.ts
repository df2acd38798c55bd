/**
 * ffi/xen/xenstore.ts against an xenstored that refuses, fails, breaks off, talks nonsense and falls silent: what each
 * does to an operation and to the connection. The daemon is a few lines of its wire protocol (xs_wire.h), since the real
 * one trusts every local client.
 */

import { assertEquals } from "@std/assert";
import { runScript } from "./child.ts";

const HEADER_BYTES = 16;
const XS_DIRECTORY = 1;
const XS_WATCH = 4;
const XS_GET_DOMAIN_PATH = 10;
const XS_WATCH_EVENT = 15;
const XS_ERROR = 16;

/**
 * What the daemon does with every request; an error never to the harmless question for a domain's path. `lengthBytes`
 * announces a message of that length. `changing`: a directory that is longer than a message and is another one each time
 * that a part of it is read. `events`: the watch fires, before each reply, or for half a second as fast as it is read.
 */
type Behaviour =
  | { readonly error: string }
  | { readonly hangUp: true }
  | { readonly silent: true }
  | { readonly changing: true }
  | { readonly events: "with each reply" | "without end" }
  | { readonly lengthBytes: number };

/** A message: type, request id, transaction id, length, body. */
function message(type: number, requestId: number, transaction: number, text: string): Uint8Array {
  const body = new TextEncoder().encode(text + "\0");
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  new Uint32Array(bytes.buffer, 0, 4).set([type, requestId, transaction, body.length]);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

function bodyOf(buffer: Uint8Array, end: number): string {
  return new TextDecoder().decode(buffer.subarray(HEADER_BYTES, end));
}

async function flood(connection: Deno.Conn, event: Uint8Array): Promise<void> {
  const many = new Uint8Array(5000 * event.length);
  for (let at = 0; at < many.length; at += event.length) many.set(event, at);
  const end = performance.now() + 500;
  while (performance.now() < end) for (let at = 0; at < many.length;) at += await connection.write(many.subarray(at));
}

/** Answers one connection until it ends. */
async function serve(connection: Deno.Conn, behaviour: Behaviour): Promise<void> {
  const buffer = new Uint8Array(8192);
  let parts = 0;
  let event: Uint8Array = new Uint8Array();
  for (;;) {
    let have = 0;
    while (have < HEADER_BYTES || have < HEADER_BYTES + new Uint32Array(buffer.buffer, 0, 4)[3]!) {
      const count = await connection.read(buffer.subarray(have));
      if (count === null) return connection.close();
      have += count;
    }
    const [type = 0, requestId = 0, transaction = 0] = new Uint32Array(buffer.buffer, 0, 4);
    if ("hangUp" in behaviour) return connection.close();
    if ("silent" in behaviour) continue;
    if ("lengthBytes" in behaviour) {
      await connection.write(new Uint8Array(new Uint32Array([type, requestId, 0, behaviour.lengthBytes]).buffer));
      continue;
    }
    if ("changing" in behaviour) {
      const part = type === XS_DIRECTORY ? [XS_ERROR, "E2BIG"] as const : [type, `${++parts}\0name`] as const;
      await connection.write(message(part[0], requestId, transaction, part[1]));
      continue;
    }
    if ("events" in behaviour) {
      if (type === XS_WATCH) event = message(XS_WATCH_EVENT, 0, 0, "/a\0" + bodyOf(buffer, have).split("\0")[1]);
      await connection.write(event);
      await connection.write(message(type, requestId, transaction, "OK"));
      if (behaviour.events === "without end") await flood(connection, event);
      continue;
    }
    const answer = type === XS_GET_DOMAIN_PATH
      ? message(type, requestId, transaction, "/local/domain/0")
      : message(XS_ERROR, requestId, transaction, behaviour.error);
    await connection.write(answer);
  }
}

/** What `operation` on `store` printed, with a daemon that behaves so. */
async function against(behaviour: Behaviour, operation: string): Promise<string> {
  const directory = await Deno.makeTempDir();
  const path = `${directory}/socket`;
  const listener = Deno.listen({ transport: "unix", path });
  const served: Promise<void>[] = [];
  const accepting = (async () => {
    for await (const connection of listener) {
      served.push(
        serve(connection, behaviour).catch((error) => {
          connection.close();
          const isEnd = error instanceof Deno.errors.BrokenPipe || error instanceof Deno.errors.ConnectionReset;
          if (!isEnd) throw error; // the child may end in the middle of a flood
        }),
      );
    }
  })();
  const script = `
    import { openNativePlatform } from "./ffi/platform.ts";
    using store = openNativePlatform().openXenstore();
    try {
      console.log(JSON.stringify(${operation}));
    } catch (error) {
      console.log(error.name, error.code, error.path, error.message);
    }
    let lost = "not lost";
    void store.lost.then((reason) => lost = "lost: " + reason);
    await new Promise((resolve) => setTimeout(resolve, 1));
    console.log(lost);`;
  const { stdout, stderr } = await runScript(script, ["-A"], { XENSTORED_PATH: path });
  listener.close();
  await accepting;
  await Promise.all(served);
  await Deno.remove(directory, { recursive: true });
  assertEquals(stderr, "");
  return stdout;
}

/** Registers a test with the rows of a table: behaviour, operation, what the child prints. */
function errorTest(name: string, rows: readonly (readonly [Behaviour, string, string])[]): void {
  Deno.test(name, async () => {
    for (const [behaviour, operation, printed] of rows) assertEquals(await against(behaviour, operation), printed);
  });
}

const NOT_LOST = "not lost\n";

errorTest("a missing node reads as undefined, its removal returns false, and neither is an error", [
  [
    { error: "ENOENT" },
    `[store.read("/a"), store.list("/a"), store.permissions("/a")]`,
    "[null,null,null]\n" + NOT_LOST,
  ],
  [{ error: "ENOENT" }, `store.remove("/a")`, "false\n" + NOT_LOST],
]);

errorTest("a refusal names the node and is distinguished from a missing node", [
  [
    { error: "EACCES" },
    `store.read("/a")`,
    "XenstoreError EACCES /a Cannot read /a: permission denied\n" + NOT_LOST,
  ],
  [
    { error: "EACCES" },
    `store.list("/a")`,
    "XenstoreError EACCES /a Cannot list /a: permission denied\n" + NOT_LOST,
  ],
  [
    { error: "EACCES" },
    `store.write("/a", "1")`,
    "XenstoreError EACCES /a Cannot write /a: permission denied\n" + NOT_LOST,
  ],
  [
    { error: "EACCES" },
    `store.watch("/a")`,
    "XenstoreError EACCES /a Cannot watch /a: permission denied\n" + NOT_LOST,
  ],
  [
    { error: "EACCES" },
    `store.isDomainIntroduced(5)`,
    "XenstoreError EACCES domain 5 Cannot find out whether xenstored knows domain 5: permission denied\n" + NOT_LOST,
  ],
]);

errorTest("a long directory that its owner keeps changing is given up, as a conflict", [
  [
    { changing: true },
    `store.list("/a")`,
    "XenstoreError EAGAIN /a Cannot list /a: it changes all the time\n" + NOT_LOST,
  ],
]);

errorTest("timers run while a watch fires without end, also if its reader asks something at each event", [
  [{ events: "with each reply" }, ticksWhileReading("5", `store.read("/a")`), "true\n" + NOT_LOST],
  [{ events: "without end" }, ticksWhileReading("10", ""), "true\n" + NOT_LOST],
]);

/** Whether a timer has fired so often by the time that a watch has been read for 0.4 s. */
function ticksWhileReading(least: string, atEach: string): string {
  return `await (async () => {
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const end = performance.now() + 400;
    for await (const _ of store.watch("/a")) {
      ${atEach};
      if (performance.now() > end) break;
    }
    clearInterval(timer);
    return ticks >= ${least};
  })()`;
}

errorTest("a full quota, a bad path and xenstored's own I/O error leave the connection usable", [
  [
    { error: "ENOSPC" },
    `store.write("/a", "1")`,
    "XenstoreError ENOSPC /a Cannot write /a: xenstored's quota for this domain is used up\n" + NOT_LOST,
  ],
  [
    { error: "EINVAL" },
    `store.makeDirectory("/a b")`,
    "XenstoreError EINVAL /a b Cannot create /a b: not a valid xenstore path or value\n" + NOT_LOST,
  ],
  [
    { error: "EIO" },
    `store.read("/a")`,
    "XenstoreError EIO /a Cannot read /a: Input/output error (EIO)\n" + NOT_LOST,
  ],
]);

errorTest("an xenstored that breaks off loses the connection, and says so to the operation and to lost", [
  [
    { hangUp: true },
    `store.read("/a")`,
    "XenstoreError EDISCONNECTED /a Cannot read /a: xenstored closed the connection\n" +
    "lost: xenstored closed the connection\n",
  ],
  [
    { hangUp: true },
    `store.watch("/a")`,
    "XenstoreError EDISCONNECTED /a Cannot watch /a: xenstored closed the connection\n" +
    "lost: xenstored closed the connection\n",
  ],
]);

errorTest("an xenstored that falls silent loses the connection after a bounded time", [
  [
    { silent: true },
    `(() => {
      const startMs = performance.now();
      try {
        return store.read("/a");
      } catch (error) {
        const tookMs = performance.now() - startMs;
        return [error.message, tookMs > 1400 && tookMs < 5000 || tookMs];
      }
    })()`,
    `["Cannot read /a: xenstored has not answered for 1.5 s",true]\n` + "lost: xenstored has not answered for 1.5 s\n",
  ],
]);

errorTest("a message of an impossible length loses the connection", [
  [
    { lengthBytes: 5000 },
    `store.read("/a")`,
    "XenstoreError EDISCONNECTED /a Cannot read /a: xenstored does not follow its protocol: a message of 5000 bytes\n" +
    "lost: xenstored does not follow its protocol: a message of 5000 bytes\n",
  ],
]);

errorTest("a transaction that cannot start says why", [
  [
    { error: "EBUSY" },
    `store.transaction((t) => t.read("/a"))`,
    "XenstoreError EBUSY xenstored Cannot use a transaction of xenstored: Device or resource busy (EBUSY)\n" +
    NOT_LOST,
  ],
]);

Deno.test("attempts to reach an xenstored that is not there leave no memory behind", async () => {
  const script = `
    import { openNativePlatform } from "./ffi/platform.ts";
    const platform = openNativePlatform();
    const addressSpaceKiB = () => Number(/VmSize:\\s+(\\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))[1]);
    const attempt = (tries) => {
      for (let i = 0; i < tries; i++) try { platform.openXenstore(); } catch {}
    };
    attempt(1000);
    const before = addressSpaceKiB();
    attempt(20_000);
    console.log(addressSpaceKiB() - before < 40_000);`;
  const { stdout, stderr } = await runScript(script, ["-A"], { XENSTORED_PATH: "/nowhere/socket" });
  assertEquals([stdout, stderr], ["true\n", ""]);
});
