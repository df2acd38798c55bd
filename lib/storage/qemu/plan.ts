/**
 * What a daemon is asked for to open and export one disk: the graph's objects and nodes, and the export (QEMU:
 * qapi/block-core.json, qapi/block-export.json). No node is kept in reserve for later jobs: in QEMU 7.2 the export moves
 * by itself to the overlay of a blockdev-snapshot and to the target of a completed blockdev-mirror, while it is used.
 */

import type { AllowedFile } from "./confinement.ts";
import type { BlockGraph, BlockNode } from "./graph.ts";
import type { QmpObject } from "./qmp.ts";
import { fileName } from "./record.ts";
import type { QemuRequest } from "./types.ts";

/** The unit of I/O of every export: that of the blkif protocol. */
const LOGICAL_BLOCK_BYTES = 512;

/** How the nodes of files make system calls, unless they say otherwise. */
export type AioMode = "io_uring" | "threads";

/** What the host lets daemons use. */
export interface AioModes {
  readonly aio: AioMode;
  /** Linux AIO where a node asks for it, as one of a file in memory does: it needs O_DIRECT there (Linux 6.6). */
  readonly native: boolean;
}

/** One disk, in QEMU's terms. */
export interface DiskPlan {
  /** Of what is opened and how: two requests with the same text are served by the same nodes. */
  readonly identity: string;
  /** As in DiskRecord. */
  readonly durable: boolean;
  /** As in DiskRecord. */
  readonly graph?: BlockGraph;
  /** It is in a daemon of its own, which is killed with all that it holds when its store may have lost something. */
  readonly fragile: boolean;
  /** For object-add. */
  readonly objects: readonly QmpObject[];
  readonly objectIds: readonly string[];
  /** For blockdev-add, in that order. */
  readonly nodes: (modes: AioModes) => readonly BlockNode[];
  readonly nodeNames: readonly string[];
  readonly exportId: string;
  /** For block-export-add; `top` is the disk's node, if it is not the plan's. */
  readonly export: (socket: string, top?: string) => QmpObject;
  /** See QemuRequest. */
  readonly tag?: string;
  /** What the daemon has to reach. */
  readonly files: readonly AllowedFile[];
}

/** What a plan depends on beside the request. */
export interface PlanContext {
  /** Virtqueues of the export. */
  readonly queues: number;
  /** The home directory of the user of this process, and of its daemons. */
  readonly home: string | undefined;
}

/** The plan for a request. */
export function planDisk(request: QemuRequest, { queues, home }: PlanContext): DiskPlan {
  const { graph, readOnly, cache, owner, tag } = request;
  const durable = readOnly || cache === "writethrough";
  const { nodes, files, secrets, credentials = [], top } = graph;
  const objects = [
    ...secrets.map(({ file, ...rest }) => ({ "qom-type": "secret", ...rest, file })),
    ...credentials.map(({ id, directory }) => ({
      "qom-type": "tls-creds-x509",
      id,
      dir: directory,
      endpoint: "client",
    })),
  ];
  const exportId = `disk-${fileName(owner.device)}`;
  const exported = {
    type: "vhost-user-blk",
    id: exportId,
    "node-name": top,
    writable: !readOnly,
    "logical-block-size": LOGICAL_BLOCK_BYTES,
    "num-queues": queues,
    ...(cache === "writethrough" ? { writethrough: true } : {}),
  };
  return {
    identity: JSON.stringify([objects, nodes, exported]),
    durable,
    ...(durable ? {} : { graph }),
    fragile: isFragile(graph),
    ...(tag === undefined ? {} : { tag }),
    objects,
    objectIds: objects.map(({ id }) => id),
    nodes: (modes) => nodes.map((node) => withModes(node, modes)),
    nodeNames: nodes.map((node) => node["node-name"]),
    exportId,
    export: (path, node = top) => ({ ...exported, "node-name": node, addr: { type: "unix", path } }),
    files: [
      ...files,
      ...secrets.map(({ file }) => ({ path: file, writable: false })),
      ...credentials.map(({ directory }) => ({ path: directory, writable: false })),
      ...nodes.flatMap((node) => settingsOf(node, home)).map((path) => ({ path, writable: false })),
    ],
  };
}

/** Whether a failed request can mean that the store has lost writes that it had answered. */
export function isFragile({ remote }: BlockGraph): boolean {
  return remote === "nbd";
}

/** What to use after a refusal; undefined if the error is about something else. */
export function modesAfter(description: string, { aio, native }: AioModes): AioModes | undefined {
  if (native && /O_DIRECT|native AIO|aio=native/.test(description)) return { aio, native: false };
  return aio === "io_uring" && /io_uring/.test(description) ? { aio: "threads", native } : undefined;
}

/** A node as the host lets daemons open it. */
export function withModes(node: BlockNode, { aio, native }: AioModes): BlockNode {
  if (node.aio === "native" && !native) {
    return { ...node, aio, cache: { ...node["cache"] as Record<string, boolean>, direct: false } };
  }
  return node.aio === "io_uring" ? { ...node, aio } : node;
}

/** What all users of ssh share, without the host's own keys, which are in the same directory. */
const SSH_SETTINGS = ["ssh_config", "ssh_config.d", "ssh_known_hosts"].map((name) => `/etc/ssh/${name}`);

/** Where the library of a store looks for its settings and keys. */
function settingsOf({ driver }: BlockNode, home: string | undefined): string[] {
  if (driver === "rbd") return ["/etc/ceph"];
  if (driver !== "ssh") return [];
  return home === undefined ? SSH_SETTINGS : [...SSH_SETTINGS, `${home}/.ssh`];
}
