/**
 * What a daemon is asked for: the options of nodes and exports that follow from how a disk is served.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { CacheMode } from "../../../lib/storage/disk.ts";
import type { BlockGraph } from "../../../lib/storage/qemu/graph.ts";
import { planDisk } from "../../../lib/storage/qemu/plan.ts";
import type { QemuRequest } from "../../../lib/storage/qemu/types.ts";

const GRAPH: BlockGraph = {
  nodes: [
    { "node-name": "f", driver: "file", filename: "/a.qcow2" },
    { "node-name": "n", driver: "nbd", server: { type: "unix", path: "/run/nbd" } },
    { "node-name": "top", driver: "qcow2", file: "f", backing: "n", discard: "ignore" },
  ],
  top: "top",
  files: [{ path: "/a.qcow2", writable: true }],
  secrets: [{ id: "s", file: "/secret" }],
  credentials: [{ id: "t", directory: "/tls" }],
};

function request(more: Partial<QemuRequest> = {}): QemuRequest {
  const owner = { guest: 5, device: "vbd3/5/51712" };
  return { graph: GRAPH, readOnly: false, name: "image qcow2:/a.qcow2", owner, ...more };
}

Deno.test("each cache mode is QEMU's", () => {
  const optionsOf = (cache?: CacheMode): unknown[] => {
    const plan = planDisk(request(cache === undefined ? {} : { cache }));
    return [...plan.nodes("threads").map((node) => node.cache), plan.export("/s", 4).writethrough];
  };
  const all = (direct: boolean, noFlush: boolean): unknown[] => Array(3).fill({ direct, "no-flush": noFlush });
  assertEquals(optionsOf(), [...all(false, false), undefined]);
  assertEquals(optionsOf("none"), [...all(true, false), undefined]);
  assertEquals(optionsOf("unsafe"), [...all(false, true), undefined]);
  assertEquals(optionsOf("writethrough"), [...all(false, false), true]);
});

Deno.test("files are locked and asynchronous, everything frees what is discarded, and the graph's own options win", () => {
  const [file, nbd, top] = planDisk(request()).nodes("io_uring");
  assertEquals([file!.locking, file!.aio, file!.discard], ["on", "io_uring", "unmap"]);
  assertEquals([nbd!.locking, nbd!.aio, nbd!.discard], [undefined, undefined, "unmap"]);
  assertEquals([top!.aio, top!.discard], [undefined, "ignore"]);
});

Deno.test("the daemon is let to all that the graph names, and to no more than it needs", () => {
  assertEquals(planDisk(request()).files, [
    { path: "/a.qcow2", writable: true },
    { path: "/secret", writable: false },
    { path: "/tls", writable: false },
    { path: "/run/nbd", writable: true },
  ]);
});

Deno.test("secrets are files and come before the nodes; the export is of the top node", () => {
  const plan = planDisk(request({ readOnly: true }));
  assertEquals(plan.objects, [
    { "qom-type": "secret", id: "s", file: "/secret" },
    { "qom-type": "tls-creds-x509", id: "t", dir: "/tls", endpoint: "client" },
  ]);
  assertEquals(plan.export("/socket", 4), {
    type: "vhost-user-blk",
    id: "disk-vbd3-5-51712",
    "node-name": "top",
    writable: false,
    "logical-block-size": 512,
    addr: { type: "unix", path: "/socket" },
    "num-queues": 4,
  });
});

Deno.test("writers can share a raw image only; readers can share any", () => {
  const error = assertThrows(() => planDisk(request({ shared: true })), XenblkError);
  assertEquals(
    error.line,
    "Cannot share image qcow2:/a.qcow2 among writers (mode w!): each would overwrite the metadata of qcow2; use a raw " +
      "image, or mode w or r",
  );
  assertEquals(planDisk(request({ shared: true, readOnly: true })).nodes("threads")[0]!["force-share"], true);
});

Deno.test("what is opened differently is told apart, what is opened by other calls is not", () => {
  const { identity } = planDisk(request());
  assertEquals(planDisk(request({ name: "image other" })).identity, identity);
  for (const more of [{ cache: "none" as const }, { readOnly: true }, { graph: { ...GRAPH, top: "f" } }]) {
    assertEquals(planDisk(request(more)).identity === identity, false);
  }
});
