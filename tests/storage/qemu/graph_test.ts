/**
 * Graphs: which nodes they have and with which options, who may write to what, and that qemu-storage-daemon takes those of
 * every format that qemu-img can create.
 */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { statfsSync } from "node:fs";
import { XenblkError } from "../../../lib/errors.ts";
import { imageGraph } from "../../../lib/storage/qemu/chain.ts";
import { type BlockGraph, caveatsOf, graphOf, type GraphOptions } from "../../../lib/storage/qemu/graph.ts";
import { QemuImg } from "../../../lib/storage/qemu/image_info.ts";
import { storeTree } from "../../../lib/storage/qemu/store.ts";
import type { BlockTree } from "../../../lib/storage/qemu/tree.ts";
import { eventually } from "../rig.ts";
import { assertOpens, ImageFolder, openByDaemon, run } from "./rig.ts";

const inspector = new QemuImg();
const OPTIONS = { prefix: "disk", label: "qcow2:/top", readOnly: false } as const;

const CHAIN: BlockTree = {
  driver: "qcow2",
  file: { driver: "file", filename: "/top" },
  backing: { driver: "raw", file: { driver: "host_device", filename: "/dev/base" } },
};

/** The nodes by their names. */
function nodesBy(graph: BlockGraph): Record<string, Record<string, unknown>> {
  return Object.fromEntries(graph.nodes.map(({ "node-name": name, ...node }) => [name, node]));
}

Deno.test("every node is named, children come first, and only the top can be written", () => {
  const graph = graphOf(CHAIN, OPTIONS);
  const cache = { direct: false, "no-flush": false };
  assertEquals(graph.nodes, [
    {
      "node-name": "disk-1-file",
      driver: "file",
      filename: "/top",
      cache,
      discard: "unmap",
      aio: "io_uring",
      locking: "on",
    },
    {
      "node-name": "disk-3-host_device",
      driver: "host_device",
      filename: "/dev/base",
      cache,
      discard: "unmap",
      aio: "io_uring",
      locking: "on",
      "read-only": false,
      "auto-read-only": true,
    },
    {
      "node-name": "disk-2-raw",
      driver: "raw",
      file: "disk-3-host_device",
      cache,
      discard: "unmap",
      "read-only": true,
    },
    {
      "node-name": "disk-0-qcow2",
      driver: "qcow2",
      file: "disk-1-file",
      backing: "disk-2-raw",
      cache,
      discard: "unmap",
    },
  ]);
  assertEquals(graph.top, "disk-0-qcow2");
  assertEquals(graph.files, [{ path: "/top", writable: true }, { path: "/dev/base", writable: false }]);
  assertEquals([graph.secrets, graph.credentials], [[], []]);
});

Deno.test("a read-only disk opens nothing for writing, whatever its nodes say", () => {
  const graph = graphOf({ ...CHAIN, "read-only": false }, { ...OPTIONS, readOnly: true });
  for (const node of graph.nodes) assertEquals(node["read-only"], true, node["node-name"]);
  assertEquals(graph.files.some(({ writable }) => writable), false);
});

Deno.test("options of the cache, of aio and of zeroes go to the nodes that have them; a node's own options stay", () => {
  const options = { ...OPTIONS, cache: "none", aio: "native", detectZeroes: "unmap" } as const;
  const nodes = nodesBy(graphOf({ ...CHAIN, discard: "ignore", "l2-cache-size": 1 }, options));
  const top = nodes["disk-0-qcow2"]!;
  assertEquals([top["discard"], top["l2-cache-size"], top["detect-zeroes"]], ["ignore", 1, "unmap"]);
  assertEquals(Object.values(nodes).map((node) => (node["cache"] as { direct: boolean }).direct), [
    true,
    true,
    true,
    true,
  ]);
  assertEquals(Object.values(nodes).map((node) => node["aio"]), ["native", "native", undefined, undefined]);
  assertEquals(Object.values(nodes).map((node) => node["detect-zeroes"]), [undefined, undefined, undefined, "unmap"]);
  const unsafe = nodesBy(graphOf(CHAIN, { ...OPTIONS, cache: "unsafe" }));
  assertEquals(unsafe["disk-1-file"]!["cache"], { direct: false, "no-flush": true });
});

Deno.test("a file in memory is read by Linux AIO and O_DIRECT, unless it or the caller says otherwise", () => {
  const inMemory = new Set(["/top", "/dev/base"]);
  const calls = (tree: BlockTree, options: Partial<GraphOptions> = {}): unknown[] =>
    Object.values(nodesBy(graphOf(tree, { ...OPTIONS, inMemory, ...options }))).map((node) => [
      node["aio"],
      (node["cache"] as { direct?: boolean }).direct,
    ]);
  const others = [["io_uring", false], [undefined, false], [undefined, false]];
  assertEquals(calls(CHAIN), [["native", true], ...others]);
  assertEquals(calls(CHAIN, { aio: "threads" })[0], ["threads", false]);
  assertEquals(calls({ driver: "raw", file: { driver: "file", filename: "/top", cache: {} } })[0], [
    "io_uring",
    undefined,
  ]);
});

Deno.test("the files of a chain on tmpfs are found", async () => {
  using folder = new ImageFolder();
  using memory = new ImageFolder("/dev/shm");
  if (statfsSync(folder.path).type === statfsSync(memory.path).type) return; // nothing to compare with
  const base = folder.file("base.img", 1 << 20);
  const target = memory.overlay("top.qcow2", base, "raw");
  const options = { inspector, prefix: "disk", readOnly: false, allowImages: ["**"] } as const;
  const { graph } = await imageGraph({ format: "qcow2", target }, options);
  const calls = graph.nodes.filter(({ driver }) => driver === "file").map((node) => [node["filename"], node.aio]);
  assertEquals(calls, [[target, "native"], [base, "io_uring"]]);
});

Deno.test("secrets and credentials become objects, one for each file", () => {
  const tree: BlockTree = {
    driver: "qcow2",
    encrypt: { format: "luks", "key-secret": "/keys/a" },
    file: storeTree("nbds://host/x?tls-certificates=/etc/pki"),
    backing: {
      driver: "luks",
      "key-secret": "/keys/a",
      file: storeTree("iscsi://me@h/iqn.x:y/0?password-file=/keys/b"),
    },
  };
  const { nodes, secrets, credentials } = graphOf(tree, OPTIONS);
  assertEquals(secrets, [{ id: "disk-secret0", file: "/keys/a" }, { id: "disk-secret1", file: "/keys/b" }]);
  assertEquals(credentials, [{ id: "disk-tls0", directory: "/etc/pki" }]);
  assertEquals(JSON.stringify(nodes).includes("/keys/"), false);
  assertEquals(nodes.at(-1)!["encrypt"], { format: "luks", "key-secret": "disk-secret0" });
});

Deno.test("a key of Ceph is in its file in base64", () => {
  const { secrets } = graphOf({ driver: "raw", file: storeTree("rbd:p/i:id=me:key-file=/keys/c") }, OPTIONS);
  assertEquals(secrets, [{ id: "disk-secret0", file: "/keys/c", format: "base64" }]);
});

Deno.test("a socket and a configuration are files that the daemon needs", () => {
  const nbd = graphOf({ driver: "raw", file: storeTree("nbd+unix:///x?socket=/run/s") }, OPTIONS);
  assertEquals(nbd.files, [{ path: "/run/s", writable: true }]);
  const rbd = graphOf({ driver: "raw", file: storeTree("rbd:p/i:conf=/etc/ceph/c.conf") }, OPTIONS);
  assertEquals(rbd.files, [{ path: "/etc/ceph/c.conf", writable: false }]);
});

Deno.test("a store that keeps the disk's writes is named, one below a backing file or a read-only disk is not", () => {
  const nbd = { driver: "raw", file: storeTree("nbd://host/x") };
  const local = { driver: "qcow2", file: { driver: "file", filename: "/x" }, backing: nbd };
  assertEquals(graphOf(nbd, OPTIONS).remote, "nbd");
  assertEquals(graphOf(nbd, { ...OPTIONS, readOnly: true }).remote, undefined);
  assertEquals(graphOf(local, OPTIONS).remote, undefined);
});

Deno.test("drivers that lack something are named, also below a backing file", () => {
  const caveats = (uri: string): string[] => {
    const backing = { driver: "raw", file: storeTree(uri) };
    return caveatsOf(graphOf({ driver: "qcow2", file: { driver: "file", filename: "/x" }, backing }, OPTIONS));
  };
  assertMatch(caveats("ssh://h/x").join(), /^QEMU's driver ssh does not connect again: .*--filter=retry/);
  assertMatch(caveats("https://h/x").join(), /^QEMU's driver https can stop answering .*nbdkit's plugin curl/);
  assertEquals(caveats("iscsi://h/iqn.x:y/0"), []);
});

Deno.test("what cannot be written, or must not be shared, is refused", () => {
  const line = (tree: BlockTree, options: Partial<GraphOptions> = {}): string =>
    assertThrows(() => graphOf(tree, { ...OPTIONS, ...options }), XenblkError).line;
  const remedy = "can only be read; attach it read-only, or attach a qcow2 overlay on it";
  const http = { driver: "raw", file: storeTree("https://host/x") };
  assertEquals(line(http), `Cannot write to image qcow2:/top: https ${remedy}`);
  assertEquals(
    line({ driver: "dmg", file: { driver: "file", filename: "/x" } }),
    `Cannot write to image qcow2:/top: dmg ${remedy}`,
  );
  assertEquals(
    line({ driver: "raw", file: storeTree("rbd:p/i@s") }),
    `Cannot write to image qcow2:/top: a snapshot ${remedy}`,
  );
  graphOf(http, { ...OPTIONS, readOnly: true });
  graphOf({ driver: "qcow2", file: { driver: "file", filename: "/x" }, backing: http }, OPTIONS);
  assertEquals(
    line(CHAIN, { shared: true }),
    "Cannot share image qcow2:/top: two writers would damage its format (qcow2); share raw images only",
  );
  const raw = graphOf({ driver: "raw", file: { driver: "file", filename: "/x" } }, { ...OPTIONS, shared: true });
  assertEquals(raw.nodes[0]!["locking"], "off");
});

Deno.test("names of nodes are unique and short enough for every tree", () => {
  const driver = fc.constantFrom("qcow2", "raw", "copy-before-write", "snapshot-access", "host_device");
  const { tree } = fc.letrec<{ tree: BlockTree; leaf: BlockTree }>((tie) => ({
    leaf: fc.record({ driver: fc.constant("file"), filename: fc.constant("/x") }),
    tree: fc.oneof(
      { maxDepth: 5 },
      tie("leaf"),
      fc.record({ driver, file: tie("tree"), backing: tie("tree"), children: fc.array(tie("tree"), { maxLength: 3 }) }),
    ),
  }));
  fc.assert(fc.property(tree, (tree) => {
    const graph = graphOf(tree, { ...OPTIONS, prefix: "a1234567890123456789", readOnly: true });
    const names = graph.nodes.map((node) => node["node-name"]);
    assertEquals([new Set(names).size, names.at(-1)], [names.length, graph.top]);
    assert(names.every((name) => /^[a-z][a-z0-9._-]{0,30}$/i.test(name)));
    // Children are there before those who name them.
    for (const [at, { file }] of graph.nodes.entries()) {
      if (typeof file === "string") assert(names.indexOf(file) < at);
    }
  }));
});

// luks is in chain_test.ts.
Deno.test("the storage daemon takes the graph of every format that qemu-img creates, and opens its files alone", async (context) => {
  using folder = new ImageFolder();
  const key = folder.file("key", new TextEncoder().encode("hunter2"));
  const encrypted = ["--object", `secret,id=s,file=${key}`, "-o"];
  const formats: Record<string, string[]> = {
    "qcow2": ["-o", "extended_l2=on,cluster_size=128k"],
    "qcow": [],
    "vmdk": [],
    "vdi": [],
    "vhdx": [],
    "vpc": [],
    "qed": [],
    "parallels": [],
    "raw": [],
  };
  for (const [format, options] of Object.entries(formats)) {
    await context.step(format, async () => {
      const target = folder.create(`disk.${format}`, format, ...options);
      const name = { format, target };
      for (const readOnly of [false, true]) {
        const { graph } = await imageGraph(name, { inspector, prefix: "vbd51712", readOnly });
        const { sizeBytes } = await assertOpens(graph);
        assert(sizeBytes >= 8 << 20, `${sizeBytes} bytes`);
      }
    });
  }
  await context.step("qcow2 with the old AES encryption", async () => {
    const target = folder.create("aes.qcow2", "qcow2", ...encrypted, "encrypt.format=aes,encrypt.key-secret=s");
    const { graph } = await imageGraph({ format: "qcow2", target, passphraseFile: key }, {
      inspector,
      prefix: "a",
      readOnly: false,
    });
    await assertOpens(graph);
  });
  await context.step("a chain of three", async () => {
    folder.file("base.img", 8 << 20);
    folder.overlay("middle.qcow2", "base.img", "raw");
    const target = folder.overlay("top.qcow2", "middle.qcow2", "qcow2");
    for (const aio of ["io_uring", "threads", "native"] as const) {
      const cache = aio === "native" ? "none" : "writeback";
      const { graph } = await imageGraph({ format: "qcow2", target }, {
        inspector,
        prefix: "d",
        readOnly: false,
        aio,
        cache,
      });
      assertEquals(graph.nodes.length, 6);
      await assertOpens(graph);
    }
  });
});

/** A server of one image by a socket in the folder, until it is disposed. */
async function serveNbd(folder: ImageFolder, path: string, ...more: string[]): Promise<AsyncDisposable> {
  const socket = `${folder.path}/nbd.sock`;
  const args = ["--socket", socket, "--persistent", "--shared=4", "--format=raw", "--export-name=disk", ...more, path];
  const server = new Deno.Command("qemu-nbd", { args }).spawn();
  await eventually(() => [...Deno.readDirSync(folder.path)].some(({ name }) => name === "nbd.sock"), "it listens");
  return server;
}

Deno.test("an NBD export by a Unix socket, raw and as qcow2", async () => {
  using folder = new ImageFolder();
  await using _server = await serveNbd(folder, folder.create("disk.qcow2", "qcow2"));
  const target = `nbd+unix:///disk?socket=${folder.path}/nbd.sock`;
  for (const format of ["raw", "qcow2"]) {
    const { graph } = await imageGraph({ format, target }, { inspector, prefix: "nbd", readOnly: false });
    const { sizeBytes } = await assertOpens(graph);
    assertEquals(sizeBytes === 8 << 20, format === "qcow2");
  }
});

Deno.test({
  name: "an NBD export with TLS, as qcow2 (needs openssl)",
  ignore: !isInstalled("openssl"),
  fn: async () => {
    using folder = new ImageFolder();
    const path = folder.create("disk.qcow2", "qcow2");
    const [own, theirs] = [`${folder.path}/client,1`, `${folder.path}/server`];
    for (const directory of [own, theirs]) Deno.mkdirSync(directory);
    makeCertificates(theirs);
    Deno.copyFileSync(`${theirs}/ca-cert.pem`, `${own}/ca-cert.pem`);
    const tls = `tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir=${theirs}`;
    await using _server = await serveNbd(folder, path, "--object", tls, "--tls-creds=tls");
    const uri = `nbds+unix:///disk?socket=${folder.path}/nbd.sock&tls-certificates=${own}&tls-hostname=`;
    const open = async (target: string): Promise<number> => {
      const { graph } = await imageGraph({ format: "qcow2", target }, { inspector, prefix: "nbd", readOnly: false });
      return (await openByDaemon(graph)).sizeBytes;
    };
    assertEquals(await open(`${uri}nbd.example`), 8 << 20);
    await assertRejects(() => open(`${uri}evil.example`), XenblkError, "certificate");
  },
});

/** A certificate authority, and a certificate of it for `nbd.example`. */
function makeCertificates(directory: string): void {
  const file = (name: string): string => `${directory}/${name}.pem`;
  const make = (name: string, ...more: string[]): void => {
    const request = ["req", "-x509", "-days", "2", "-nodes", "-newkey", "rsa:2048", "-subj", `/CN=${name}`];
    run("openssl", ...request, "-keyout", file(`${name}-key`), "-out", file(`${name}-cert`), ...more);
  };
  make("ca");
  const signer = ["-CA", file("ca-cert"), "-CAkey", file("ca-key")];
  const extensions = ["subjectAltName=DNS:nbd.example", "basicConstraints=critical,CA:FALSE"];
  make("server", ...signer, ...extensions.flatMap((extension) => ["-addext", extension]));
}

function isInstalled(program: string): boolean {
  return new Deno.Command("sh", { args: ["-c", `command -v ${program}`], stdout: "null" }).outputSync().success;
}

Deno.test("the daemon takes the options of stores, whether the stores are there or not", async (context) => {
  using folder = new ImageFolder();
  const key = folder.file("key", new TextEncoder().encode("hunter2"));
  const uris = [
    "nbd://127.0.0.1:1/disk",
    `nbd+unix:///disk?socket=${folder.path}/none`,
    "rbd:pool/image@snap:id=me:conf=/nonexistent:key-file=/nonexistent",
    `iscsi://me@127.0.0.1:1/iqn.x:y/0?password-file=${key}`,
    "nfs://127.0.0.1/x?uid=1",
    "ssh://me@127.0.0.1:1/x?host_key_check=no",
    "http://127.0.0.1:1/x",
    "https://me@127.0.0.1:1/x",
  ];
  for (const uri of uris) {
    await context.step(uri.replace(folder.path, ""), async () => {
      const graph = graphOf({ driver: "raw", file: storeTree(uri) }, { ...OPTIONS, readOnly: true });
      const [error] = await Promise.allSettled([
        openByDaemon({ ...graph, secrets: graph.secrets.map((s) => ({ ...s, file: key })) }),
      ]);
      assertEquals(error.status, "rejected");
      const text = String((error as PromiseRejectedResult).reason);
      // Of a driver that is not installed, or of the connection; not of an option.
      assert(!/[Pp]arameter|[Ii]nvalid|expects|not accept/.test(text) || /driver/.test(text), text);
    });
  }
});
