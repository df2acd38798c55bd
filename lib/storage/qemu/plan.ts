/**
 * What a daemon is asked for to open and export one disk: the graph's objects and nodes with the options that follow
 * from how the disk is served (QEMU: qapi/block-core.json, qapi/block-export.json).
 */

import { XenblkError } from "../../errors.ts";
import type { AllowedFile } from "./confinement.ts";
import type { BlockNode } from "./graph.ts";
import type { QmpObject } from "./qmp.ts";
import { fileName } from "./record.ts";
import type { QemuRequest } from "./types.ts";

/** The unit of I/O of every export: that of the blkif protocol. */
const LOGICAL_BLOCK_BYTES = 512;

/** Drivers that make system calls on a file or a device. */
const FILE_DRIVERS = new Set(["file", "host_device"]);

/** How these make them. */
export type AioMode = "io_uring" | "threads";

/** One disk, in QEMU's terms. */
export interface DiskPlan {
  /** Of what is opened and how: two requests with the same text are served by the same nodes. */
  readonly identity: string;
  readonly readOnly: boolean;
  /** For object-add. */
  readonly objects: readonly QmpObject[];
  readonly objectIds: readonly string[];
  /** For blockdev-add, in that order. */
  readonly nodes: (aio: AioMode) => readonly BlockNode[];
  readonly nodeNames: readonly string[];
  readonly exportId: string;
  /** For block-export-add. */
  readonly export: (socket: string, queues: number) => QmpObject;
  /** What the daemon has to reach. */
  readonly files: readonly AllowedFile[];
}

/** The plan for a request. Throws {@linkcode XenblkError} (usage) for a use that the image's format does not allow. */
export function planDisk(request: QemuRequest): DiskPlan {
  const { graph, readOnly, cache = "writeback", name, owner, shared = false } = request;
  const { secrets, credentials = [], top } = graph;
  const driver = graph.nodes.find((node) => node["node-name"] === top)?.driver;
  if (shared && !readOnly && driver !== "raw") {
    throw new XenblkError(
      `Cannot share ${name} among writers (mode w!): each would overwrite the metadata of ${driver}`,
      {
        kind: "usage",
        remedy: "use a raw image, or mode w or r",
      },
    );
  }
  const common = {
    discard: "unmap",
    cache: { direct: cache === "none", "no-flush": cache === "unsafe" },
    ...(shared && readOnly ? { "force-share": true } : {}),
  };
  const nodes = graph.nodes.map((node): BlockNode => ({ ...common, ...ownFile(node) }));
  const objects = [
    ...secrets.map(({ id, file }) => ({ "qom-type": "secret", id, file })),
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
    ...(cache === "writethrough" ? { writethrough: true } : {}),
  };
  return {
    identity: JSON.stringify([objects, nodes, exported]),
    readOnly,
    objects,
    objectIds: objects.map(({ id }) => id),
    nodes: (aio) => nodes.map((node) => FILE_DRIVERS.has(node.driver) ? { aio, ...node } : node),
    nodeNames: nodes.map((node) => node["node-name"]),
    exportId,
    export: (path, queues) => ({ ...exported, addr: { type: "unix", path }, "num-queues": queues }),
    files: [
      ...graph.files,
      ...secrets.map(({ file }) => ({ path: file, writable: false })),
      ...credentials.map(({ directory }) => ({ path: directory, writable: false })),
      ...nodes.flatMap(serverSocket),
    ],
  };
}

/** QEMU's locks keep other processes from the file, or it is not opened: they also fence a daemon that died. */
function ownFile(node: BlockNode): BlockNode {
  return FILE_DRIVERS.has(node.driver) ? { locking: "on", ...node } : node;
}

/** The Unix socket of a server that a node connects to. */
function serverSocket({ server }: BlockNode): AllowedFile[] {
  const { type, path } = (server ?? {}) as QmpObject;
  return type === "unix" && typeof path === "string" ? [{ path, writable: true }] : [];
}
