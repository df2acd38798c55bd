/**
 * The control socket: who may open it, what hostile clients cost others, and what becomes of sockets of dead processes.
 */

import { assert, assertEquals, assertMatch, assertRejects, fail } from "@std/assert";
import { ControlClient } from "../../lib/control/client.ts";
import { prepareDirectory } from "../../lib/control/directory.ts";
import { readLines } from "../../lib/control/lines.ts";
import { MOST_REQUEST_BYTES, PROTOCOL_VERSION } from "../../lib/control/protocol.ts";
import { ControlServer } from "../../lib/control/server.ts";
import { liveDevices, servingProcesses } from "../../lib/control/serving.ts";
import { XenblkError } from "../../lib/errors.ts";
import { Rig } from "./rig.ts";

const HELLO = '{"jsonrpc":"2.0","id":1,"method":"hello"}\n';

Deno.test("the socket says who serves, and only its owner can reach it", async () => {
  const rig = await Rig.start();
  {
    await using _rig = rig;
    using client = await rig.client();
    const hello = await client.call("hello", {});
    assertEquals(hello, {
      protocol: PROTOCOL_VERSION,
      pid: Deno.pid,
      version: "1.2.3",
      verb: "serve",
      kind: "vbd3",
      attaches: true,
    });
    assertEquals((await Deno.stat(rig.directory)).mode! & 0o777, 0o700);
    assertEquals((await Deno.stat(rig.path)).mode! & 0o777, 0o600);
    assertEquals(await servingProcesses(rig.directory), [{ path: rig.path, hello }]);
    assertEquals(await client.call("ping", {}), {});
  }
  assertEquals(await servingProcesses(rig.directory), [], "it is gone with its process");
  await assertRejects(() => Deno.stat(rig.directory), Deno.errors.NotFound);
});

Deno.test("junk gets an error each, half a line nothing, and one-shot clients their answer", async () => {
  await using rig = await Rig.start();
  using half = await rig.connect();
  await half.send('{"jsonrpc":');
  using client = await rig.connect();
  const requests = [
    "junk",
    "[]",
    '{"id":3,"method":"hello"}',
    '{"jsonrpc":"2.0","id":4,"method":"toString"}',
    '{"jsonrpc":"2.0","id":5,"method":"status","params":{"device":7}}',
    '{"jsonrpc":"2.0","id":6,"method":"status","params":{"device":"vbd3/9/1"}}',
    '{"jsonrpc":"2.0","id":{},"method":"hello"}',
    '{"jsonrpc":"2.0","method":"ping"}',
    "",
    '{"jsonrpc":"2.0","id":"last","method":"ping","params":{}}',
  ];
  await client.send(new Uint8Array([0xff, 0xfe, 10]));
  await client.send(requests.join("\n") + "\n");
  await client.end();
  const answers = (await client.rest()).map(({ id, error }) => [id, (error as { code?: number } | undefined)?.code]);
  assertEquals(answers, [
    [null, -32700],
    [null, -32700],
    [null, -32600],
    [3, -32600],
    [4, -32601],
    [5, -32602],
    [6, -32003],
    [null, -32600],
    ["last", undefined],
  ]);
});

Deno.test("a line without end and clients without number are refused; others are served on", async () => {
  await using rig = await Rig.start();
  using long = await rig.connect();
  await long.send("x".repeat(MOST_REQUEST_BYTES + 1));
  assertMatch(JSON.stringify(await long.rest()), /the line is longer than 65536 bytes/);
  using clients = new DisposableStack();
  for (let count = 0; count < 64; count++) {
    const one = clients.use(await rig.connect());
    await one.send(HELLO);
  }
  using late = await rig.connect();
  assertMatch(JSON.stringify(await late.rest()), /"event":"end".*64 connections already/);
  const silent: number[] = [];
  assertEquals(await servingProcesses(rig.directory, (pid) => silent.push(pid)), []);
  assertEquals(silent, [Deno.pid], "it is there, although it takes nobody");
  clients.dispose();
  // The places are free again once the server has seen the ends.
  for (let answer: unknown[] = []; answer.length !== 1 || !("result" in (answer[0] as object));) {
    using next = await rig.connect();
    await next.send(HELLO).catch(() => {});
    await next.end().catch(() => {});
    answer = await next.rest().catch(() => []);
  }
});

Deno.test("a client that never reads loses its connection when too much waits, and nobody else's", async () => {
  await using rig = await Rig.start();
  using deaf = await rig.connect();
  await deaf.send('{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"log":"debug"}}\n');
  using client = await rig.client();
  const { createLogger } = await import("../../lib/log.ts");
  const logger = createLogger("control");
  // Once it is subscribed, each line is an event for it; its socket holds a few hundred KiB.
  const line = "x".repeat(900);
  for (let sent = 0; sent < 20_000; sent++) logger.debug(line);
  assertEquals(await client.call("ping", {}), {});
  const last = (await deaf.rest()).at(-1);
  assertEquals((last?.params as { event: string; reason: string }).reason, "the client does not read");
});

Deno.test("a process that does not answer costs a client its time limit, no more", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const path = `${directory}/77.sock`;
    using _silent = Deno.listen({ transport: "unix", path });
    using client = (await ControlClient.connect(path))!;
    await assertRejects(() => client.call("hello", {}, { timeoutMs: 50 }), Error, "no answer for 0.05 s");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a process that is at work may take longer than one that says nothing at all", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const path = `${directory}/77.sock`;
    using listener = Deno.listen({ transport: "unix", path });
    using client = (await ControlClient.connect(path, 20))!;
    using stream = await listener.accept();
    const lines = readLines(stream, 4096);
    const answer = async (id: number): Promise<void> => {
      await stream.write(new TextEncoder().encode(`{"jsonrpc":"2.0","id":${id},"result":{}}\n`));
    };
    const asked = client.call("snapshots", { device: "vbd/1/51712" });
    const { id } = JSON.parse((await lines.next()).value!);
    for (let pings = 0; pings < 3; pings++) {
      const ping = JSON.parse((await lines.next()).value!);
      assertEquals(ping.method, "ping");
      await answer(ping.id);
    }
    await answer(id);
    assertEquals<unknown>(await asked, {});
    await assertRejects(() => client.call("snapshots", { device: "vbd/1/51712" }), Error, "no answer for 0.04 s");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a process that takes no connection is named, and does not keep the next one from its socket", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const path = `${directory}/77.sock`;
    using _stopped = Deno.listen({ transport: "unix", path });
    const named = async (): Promise<number[]> => {
      const pids: number[] = [];
      assertEquals(await servingProcesses(directory, (pid) => pids.push(pid)), []);
      return pids;
    };
    assertEquals(await named(), [77], "there is room for a connection, but no answer");
    await assertRejects(async () => {
      for (;;) (await Deno.connect({ transport: "unix", path })).close();
    }, Deno.errors.WouldBlock);
    assertEquals(await named(), [77], "there is no room");
    await prepareDirectory(directory, (line) => {
      throw new Error(line);
    });
    assert((await Deno.lstat(path)).isSocket);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("sockets of processes that were killed are passed over, and removed by the next start", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const path = `${directory}/78.sock`;
    const program = `Deno.listen({ transport: "unix", path: "${path}" }); Deno.kill(Deno.pid, "SIGKILL");`;
    await new Deno.Command(Deno.execPath(), { args: ["eval", program], stderr: "null" }).output();
    assert((await Deno.lstat(path)).isSocket);
    assertEquals((await liveDevices(directory)).size, 0);
    using _living = Deno.listen({ transport: "unix", path: `${directory}/79.sock` });
    await prepareDirectory(directory, (line) => {
      throw new Error(line);
    });
    assertEquals([...Deno.readDirSync(directory)].map(({ name }) => name), ["79.sock"]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a socket that cannot be reached, such as another user's, keeps no process from its own", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.symlink("77.sock", `${directory}/77.sock`);
    await prepareDirectory(directory, () => {});
    assertEquals([...Deno.readDirSync(directory)].map(({ name }) => name), ["77.sock"]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a link in the place of the directory is not followed", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${directory}/other`, { mode: 0o755 });
    await Deno.symlink("other", `${directory}/control`);
    await assertRejects(() => prepareDirectory(`${directory}/control`, () => {}), Deno.errors.NotADirectory);
    assertEquals((await Deno.stat(`${directory}/other`)).mode! & 0o777, 0o755);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a socket that was removed while its process runs is made anew, and is gone at the end", async () => {
  const folder = await Deno.makeTempDir();
  const directory = `${folder}/run/control`;
  const warnings: string[] = [];
  try {
    const methods = { ping: (): object => ({}) };
    await using server = await ControlServer.start({
      directory,
      pid: 80,
      methods,
      subscribed: () => new DisposableStack(),
      warn: (line) => warnings.push(line),
      lookMs: 10,
    });
    using before = (await ControlClient.connect(server.path))!;
    await before.call("ping", {});
    for (let removals = 1; removals <= 2; removals++) {
      // A directory that cannot be made at first.
      await Deno.remove(`${folder}/run`, { recursive: true });
      await Deno.writeTextFile(`${folder}/run`, "");
      while (warnings.length < 2 * removals - 1) await new Promise((resolve) => setTimeout(resolve, 5));
      await Deno.remove(`${folder}/run`);
      while (warnings.length < 2 * removals) await new Promise((resolve) => setTimeout(resolve, 5));
      using client = (await ControlClient.connect(server.path))!;
      await client.call("ping", {});
    }
    await before.call("ping", {});
    await server[Symbol.asyncDispose]();
    assertEquals([...Deno.readDirSync(`${folder}/run`)], []);
    assertMatch(
      warnings.join("\n"),
      /^(.*80\.sock was removed: .*; trying again\n.*was removed, and is there again\n?){2}$/,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("where no socket can be made, the error is the file system's", async () => {
  await assertRejects(
    () => prepareDirectory("/proc/xenblk/control", () => {}),
    Deno.errors.NotFound,
  );
  assertEquals(await servingProcesses("/proc/xenblk/control"), []);
});

Deno.test("a directory that is too long for a socket is named, with what to do", async () => {
  const directory = `/nowhere/${"long".repeat(30)}`;
  const error = await assertRejects(
    () => ControlServer.start({ directory, pid: 7, methods: {}, subscribed: () => new DisposableStack(), warn: fail }),
    XenblkError,
  );
  assertMatch(
    error.line,
    /^Cannot use \/nowhere\/\S+\/7\.sock as a socket: it has 136 bytes, and the kernel takes 107; name /,
  );
});
