/**
 * Shows that the xenstored of harness.ts behaves as on a Xen host: the stock command-line tools work, and domains come
 * and go. Uses none of the project's own xenstore code.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";

/** xenstore-watch as an async source of the paths that it prints. */
class Watch implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor(xen: NativeXen, path: string) {
    const options: Deno.CommandOptions = { args: [path], env: xen.env(), stdout: "piped", stderr: "null" };
    this.#child = new Deno.Command("xenstore-watch", options).spawn();
    this.#reader = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** The next path, or undefined when the connection has ended. */
  async next(): Promise<string | undefined> {
    while (!this.#text.includes("\n")) {
      const { value, done } = await this.#reader.read();
      if (done) return undefined;
      this.#text += value;
    }
    const [line, ...rest] = this.#text.split("\n");
    this.#text = rest.join("\n");
    return line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill();
    } catch { /* it has ended */ }
    await this.#reader.cancel();
    await this.#child.status;
  }
}

nativeTest("the stock tools write, read, list and remove nodes", async () => {
  await using xen = await NativeXen.start();
  await xen.run("xenstore-write", ["/test/a", "1", "/test/b", "two"]);
  assertEquals(await xen.run("xenstore-read", ["/test/b"]), "two\n");
  assertEquals(await xen.run("xenstore-list", ["/test"]), "a\nb\n");
  await xen.run("xenstore-rm", ["/test/a"]);
  await assertRejects(() => xen.run("xenstore-read", ["/test/a"]), Error, "couldn't read path /test/a");
});

nativeTest("a watch fires once when it is registered and once for each change", async () => {
  await using xen = await NativeXen.start();
  await using watch = new Watch(xen, "/test");
  assertEquals(await watch.next(), "/test");
  await xen.run("xenstore-write", ["/test/node", "1"]);
  assertEquals(await watch.next(), "/test/node");
});

nativeTest("a domain has the nodes and permissions that xl gives a PV guest", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(3, "alpha", "11111111-2222-4333-8444-555555555555");
  assertEquals(await xen.run("xenstore-read", ["/local/domain/3/name", "/local/domain/3/domid"]), "alpha\n3\n");
  const tree = (await xen.run("xenstore-ls", ["-f", "-p"])).split("\n").map((line) => line.replace(/ +\(/, " ("));
  assert(tree.includes('/local/domain/3/vm = "/vm/11111111-2222-4333-8444-555555555555" (n0,r3)'), tree.join("\n"));
  assert(tree.includes('/local/domain/3/device = "" (n0,r3)'), tree.join("\n"));
  assert(tree.includes('/local/domain/3/data = "" (n3)'), tree.join("\n"));
});

nativeTest("the death of a domain fires @releaseDomain and leaves its nodes to the toolstack", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(3);
  await using watch = new Watch(xen, "@releaseDomain");
  assertEquals(await watch.next(), "@releaseDomain");
  await xen.killDomain(3);
  assertEquals(await watch.next(), "@releaseDomain");
  assertEquals(await xen.run("xenstore-read", ["/local/domain/3/name"]), "guest-3\n");
  const dead = (await xen.stats()).domains.find((domain) => domain.domid === 3);
  assertEquals(dead, { domid: 3, alive: false, grants: 0, mappedPages: 0, ports: 0 });
});

nativeTest("a destroyed domain leaves no node, and its id can't be given permissions", async () => {
  await using xen = await NativeXen.start();
  const before = await xen.run("xenstore-ls", ["-f", "-p", "/local"]);
  await xen.createDomain(3);
  await xen.destroyDomain(3);
  assertEquals(await xen.run("xenstore-ls", ["-f", "-p", "/local"]), before);
  await xen.run("xenstore-write", ["/test", "1"]);
  await assertRejects(() => xen.run("xenstore-chmod", ["-r", "/test", "n3", "r3"]), Error, "xenstore-chmod");
});

nativeTest("a domain id can be used again after its domain was destroyed", async () => {
  await using xen = await NativeXen.start();
  for (let round = 0; round < 3; round++) {
    await xen.createDomain(3, `round-${round}`);
    assertEquals(await xen.run("xenstore-read", ["/local/domain/3/name"]), `round-${round}\n`);
    await xen.destroyDomain(3);
  }
});

nativeTest(
  "a restarted xenstored has an empty store and knows the domains; the old store can be restored",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(3);
    using client = await Deno.connect({ transport: "unix", path: xen.socketPath });
    await xen.run("xenstore-write", ["/test/node", "1"]);
    await xen.run("xenstore-chmod", ["/test/node", "n3", "r0"]);
    const tree = async (): Promise<string[]> => (await xen.run("xenstore-ls", ["-f", "-p"])).split("\n").sort();
    const before = await tree();
    await xen.restartXenstored({ keepStore: true });
    assertEquals(await tree(), before);
    assertEquals(await client.read(new Uint8Array(1)), null, "clients of the old xenstored lose their connection");
    await xen.restartXenstored();
    await assertRejects(() => xen.run("xenstore-read", ["/test/node"]), Error);
    assertEquals(await xen.run("xenstore-read", ["/local/domain/0/name"]), "Domain-0\n");
    await xen.run("xenstore-write", ["/test", "1"]);
    await xen.run("xenstore-chmod", ["/test", "n0", "r3"]);
  },
);

nativeTest("a disposed host leaves no process and no file", async () => {
  let directory = "", pid = 0;
  {
    await using xen = await NativeXen.start();
    directory = xen.directory;
    pid = xen.xenstoredPid!;
    assert(Deno.statSync(`/proc/${pid}`).isDirectory);
  }
  assertEquals([exists(directory), exists(`/proc/${pid}`)], [false, false]);
});

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
