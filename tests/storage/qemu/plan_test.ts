/**
 * What a daemon is asked for: objects, nodes and the export of a disk.
 */

import { assertEquals } from "@std/assert";
import type { CacheMode } from "../../../lib/storage/disk.ts";
import type { BlockGraph } from "../../../lib/storage/qemu/graph.ts";
import { type AioMode, type DiskPlan, planDisk } from "../../../lib/storage/qemu/plan.ts";
import type { QemuRequest } from "../../../lib/storage/qemu/types.ts";

const GRAPH: BlockGraph = {
  nodes: [
    { "node-name": "f", driver: "file", filename: "/a.qcow2", aio: "io_uring" },
    { "node-name": "b", driver: "file", filename: "/b.raw", aio: "native", cache: { direct: true, "no-flush": false } },
    { "node-name": "top", driver: "qcow2", file: "f", backing: "b" },
  ],
  top: "top",
  files: [{ path: "/a.qcow2", writable: true }],
  secrets: [{ id: "s", file: "/secret" }, { id: "k", file: "/key", format: "base64" }],
  credentials: [{ id: "t", directory: "/tls" }],
};

function plan(more: Partial<QemuRequest> = {}, queues = 4): DiskPlan {
  return planDisk(request(more), { queues, home: "/h" });
}

function request(more: Partial<QemuRequest> = {}): QemuRequest {
  const owner = { guest: 5, device: "vbd3/5/51712" };
  return { graph: GRAPH, readOnly: false, name: "image qcow2:/a.qcow2", owner, ...more };
}

Deno.test("where the host has no io_uring, threads take its place; without Linux AIO files in memory are as others", () => {
  const modes = (aio: AioMode, native: boolean): unknown[] =>
    plan().nodes({ aio, native }).map((node) => [node.aio, node["cache"]]);
  const direct = { direct: true, "no-flush": false };
  const top = [undefined, undefined];
  assertEquals(modes("io_uring", true), [["io_uring", undefined], ["native", direct], top]);
  assertEquals(modes("threads", true), [["threads", undefined], ["native", direct], top]);
  assertEquals(modes("threads", false), [["threads", undefined], ["threads", { ...direct, direct: false }], top]);
});

Deno.test("of the cache modes, write-through is the export's", () => {
  const exported = (cache: CacheMode): unknown => plan({ cache }).export("/s").writethrough;
  assertEquals([exported("writethrough"), exported("none")], [true, undefined]);
});

Deno.test("the daemon is let to all that the graph names, and to no more than it needs", () => {
  assertEquals(plan().files, [
    { path: "/a.qcow2", writable: true },
    { path: "/secret", writable: false },
    { path: "/key", writable: false },
    { path: "/tls", writable: false },
  ]);
});

Deno.test("of a store, the daemon also sees the settings and keys that its library looks for", () => {
  const pathsOf = (driver: string): string[] => {
    const graph = { nodes: [{ "node-name": "top", driver }], top: "top", files: [], secrets: [] };
    return plan({ graph }).files.map(({ path, writable }) => `${path} ${writable}`);
  };
  assertEquals([pathsOf("rbd"), pathsOf("iscsi")], [["/etc/ceph false"], []]);
  const shared = ["ssh_config", "ssh_config.d", "ssh_known_hosts"].map((name) => `/etc/ssh/${name} false`);
  assertEquals(pathsOf("ssh"), [...shared, "/h/.ssh false"]);
});

Deno.test("secrets are files and come before the nodes; the export is of the top node", () => {
  const readable = plan({ readOnly: true });
  assertEquals(readable.objects, [
    { "qom-type": "secret", id: "s", file: "/secret" },
    { "qom-type": "secret", id: "k", format: "base64", file: "/key" },
    { "qom-type": "tls-creds-x509", id: "t", dir: "/tls", endpoint: "client" },
  ]);
  assertEquals(readable.export("/socket"), {
    type: "vhost-user-blk",
    id: "disk-vbd3-5-51712",
    "node-name": "top",
    writable: false,
    "logical-block-size": 512,
    addr: { type: "unix", path: "/socket" },
    "num-queues": 4,
  });
});

Deno.test("what is opened differently is told apart, what is opened by other calls is not", () => {
  const { identity } = plan();
  assertEquals(plan({ name: "image other" }).identity, identity);
  for (const more of [{ cache: "writethrough" as const }, { readOnly: true }, { graph: { ...GRAPH, top: "f" } }]) {
    assertEquals(plan(more).identity === identity, false);
  }
  assertEquals(plan({}, 5).identity === identity, false);
});
