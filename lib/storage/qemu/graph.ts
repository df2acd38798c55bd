/**
 * What a storage daemon opens for one disk, as QEMU's blockdev-add names it: every node by name, from the files of the
 * last backing image up to the format that the guest sees. No node is left to be opened implicitly, so the daemon opens
 * only what is named here.
 */

import { XenblkError } from "../../errors.ts";
import type { CacheMode } from "../disk.ts";
import { isReadOnlyFormat } from "../image/formats.ts";
import { type BlockTree, childrenOf, localPath, mapOptions, nodesOf, withChildren } from "./tree.ts";

/** One node, as blockdev-add takes it; see QEMU's qapi/block-core.json, BlockdevOptions. */
export interface BlockNode {
  /** Unique in the daemon; at most 31 bytes. */
  readonly "node-name": string;
  /** A protocol (`file`, `host_device`, `nbd`, ...) or a format (`raw`, `qcow2`, ...). */
  readonly driver: string;
  /** The driver's own. */
  readonly [option: string]: unknown;
}

/** A local file or device that the daemon opens. */
export interface GraphFile {
  /** Absolute. */
  readonly path: string;
  /** Opened for writing. */
  readonly writable: boolean;
}

/** A secret that nodes refer to: `--object secret,id=,file=`. Its value is never here. */
export interface GraphSecret {
  /** Unique in the daemon. */
  readonly id: string;
  /** Absolute path of the file that holds it. */
  readonly file: string;
  /** The file holds it in base64, as Ceph writes its keys. Absent: as it is. */
  readonly format?: "base64";
}

/** TLS credentials that nodes refer to: `--object tls-creds-x509,id=,dir=,endpoint=client`. */
export interface GraphCredentials {
  /** Unique in the daemon. */
  readonly id: string;
  /** Absolute path of the directory that holds `ca-cert.pem`, and `client-cert.pem` and `client-key.pem` if needed. */
  readonly directory: string;
}

/** A disk as a storage daemon opens it. Structured-cloneable. */
export interface BlockGraph {
  /** In the order in which blockdev-add must add them. The last one is the disk. */
  readonly nodes: readonly BlockNode[];
  /** The name of the node that is exported. */
  readonly top: string;
  /** For the daemon's confinement, and to find other users of the image. */
  readonly files: readonly GraphFile[];
  /** To be created before the nodes. */
  readonly secrets: readonly GraphSecret[];
  /** To be created before the nodes. Absent: none. */
  readonly credentials?: readonly GraphCredentials[];
  /**
   * The driver of the store that keeps the disk's writes. Its server may restart alone, and what it had answered and not
   * flushed is lost. An `nbd` node then fails at least one request before it connects again by itself. Absent: the writes
   * are kept on this host.
   */
  readonly remote?: string;
}

/** How a tree becomes a graph. */
export interface GraphOptions {
  /** Begins the names of all nodes and objects: a letter, then letters, digits and `-._`, at most 20 in all. */
  readonly prefix: string;
  /** For messages: `qcow2:/srv/disk.qcow2`. */
  readonly label: string;
  /** The guest must not write. */
  readonly readOnly: boolean;
  /** Default: `writeback`. */
  readonly cache?: CacheMode;
  /** Others may write to the image at the same time: QEMU's lock is not taken. For raw images only. */
  readonly shared?: boolean;
  /** How local files are read and written. Default: `io_uring`, and `native` for those {@linkcode inMemory}. */
  readonly aio?: "io_uring" | "threads" | "native";
  /** Paths of the files that their file system keeps in memory: see {@linkcode filesInMemory}. Default: none. */
  readonly inMemory?: ReadonlySet<string>;
  /** Written zeroes free space (`unmap`), or are stored as zeroes without data (`on`). Default: `off`. */
  readonly detectZeroes?: "off" | "on" | "unmap";
}

/** Objects that nodes refer to. */
export interface TreeObjects {
  readonly secrets: readonly GraphSecret[];
  readonly credentials: readonly GraphCredentials[];
}

/** QEMU's limit for node names. */
const MOST_NAME_BYTES = 31;
const PREFIX = /^[a-z][a-z0-9._-]{0,19}$/i;
/** Drivers with the options `aio` and `locking`. */
const HOST = new Set(["file", "host_device", "host_cdrom"]);
/** Stores with a server. */
const STORES = new Set(["nbd", "iscsi", "nfs", "ssh", "rbd", "gluster"]);
/** How long QEMU waits for an NBD server that nothing is written to, in seconds. */
const RECONNECT_S = 600;
/** Stores that cannot be written to. */
const READ_ONLY_STORES = new Set(["http", "https", "ftp", "ftps"]);

/**
 * The graph of a tree that names every file (see chain.ts). Throws {@linkcode XenblkError} if the disk is to be written
 * but cannot be, or is to be shared but has a format.
 */
export function graphOf(tree: BlockTree, options: GraphOptions): BlockGraph {
  const { prefix, readOnly } = options;
  if (!PREFIX.test(prefix)) throw new TypeError(`Cannot name nodes ${prefix}: not a node name`);
  checkUse(tree, options);
  const { tree: named, objects } = withObjects(tree, prefix);
  const nodes: BlockNode[] = [];
  const files: GraphFile[] = [];
  const order = nodesOf(named);
  const add = (node: BlockTree, role: Role): string => {
    const name = `${prefix}-${order.indexOf(node)}-${node.driver}`.slice(0, MOST_NAME_BYTES);
    const names = new Map(
      childrenOf(node).map(({ option, tree: child }) => [
        child,
        add(child, {
          writable: role.writable && option !== "backing",
          isTop: false,
          isBelowFormat: node.driver !== "raw",
        }),
      ]),
    );
    nodes.push({
      ...commonOptions(node, role, options),
      ...withChildren(node, names),
      ...accessOptions(node, role, options),
      "node-name": name,
    });
    files.push(...filesOf(node, role));
    return name;
  };
  const top = add(named, { writable: !readOnly, isTop: true, isBelowFormat: false });
  const remote = readOnly ? undefined : written(tree).find(({ driver }) => STORES.has(driver))?.driver;
  return { nodes, top, files, ...objects, ...(remote === undefined ? {} : { remote }) };
}

/** What QEMU's own driver of a store lacks, and what serves the store without that lack; for the log. */
export function caveatsOf({ nodes }: BlockGraph): string[] {
  const drivers = [...new Set(nodes.map(({ driver }) => driver))];
  return drivers.flatMap((driver) => {
    if (driver === "ssh") {
      return "QEMU's driver ssh does not connect again: when its connection ends, all requests fail until the disk is " +
        "attached anew; nbdkit's plugin ssh with --filter=retry connects again";
    }
    if (driver !== "http" && driver !== "https") return [];
    return `QEMU's driver ${driver} can stop answering when requests are in flight together; nbdkit's plugin curl is safer`;
  });
}

/** The tree with the names of objects in place of their files, and the objects. Each file is one object. */
export function withObjects(
  tree: BlockTree,
  prefix: string,
): { readonly tree: BlockTree; readonly objects: TreeObjects } {
  const secrets = new Map<string, string>();
  const credentials = new Map<string, string>();
  const idOf = (ids: Map<string, string>, path: string, kind: string): string => {
    const id = ids.get(path) ?? `${prefix}-${kind}${ids.size}`;
    ids.set(path, id);
    return id;
  };
  const cephKeys = new Set(nodesOf(tree).filter(({ driver }) => driver === "rbd").map((node) => node["key-secret"]));
  const replaced = mapOptions(tree, (option, value) => {
    if (option.endsWith("-secret")) return idOf(secrets, value, "secret");
    return option === "tls-creds" ? idOf(credentials, value, "tls") : value;
  });
  return {
    tree: replaced,
    objects: {
      secrets: [...secrets].map(([file, id]) => ({ id, file, ...(cephKeys.has(file) ? { format: "base64" } : {}) })),
      credentials: [...credentials].map(([directory, id]) => ({ id, directory })),
    },
  };
}

/** What a chain opens, for the log: `qcow2 /srv/a.qcow2, backed by raw /srv/base.img`. */
export function describeTree(tree: BlockTree): string {
  return childrenOf(tree).reduce((text, { option, tree: child }) => {
    if (option === "file") return `${text} ${describeTree(child)}`;
    return `${text}, ${option === "backing" ? "backed by" : `${option}`} ${describeTree(child)}`;
  }, placeOf(tree));
}

/** What a node is to the disk. */
interface Role {
  /** The disk's writes can reach it. */
  readonly writable: boolean;
  readonly isTop: boolean;
  /** A format keeps its metadata in it. */
  readonly isBelowFormat: boolean;
}

/** What every node gets unless it says otherwise itself. */
function commonOptions(node: BlockTree, { isTop }: Role, options: GraphOptions): Record<string, unknown> {
  const { driver } = node;
  const { cache = "writeback", inMemory, shared, detectZeroes } = options;
  const native = options.aio === undefined && driver === "file" && !("aio" in node || "cache" in node) &&
    inMemory?.has(localPath(node) ?? "") === true;
  const aio = native ? "native" : options.aio ?? "io_uring";
  return {
    cache: { direct: cache === "none" || native, "no-flush": cache === "unsafe" },
    discard: "unmap",
    ...(HOST.has(driver) ? { aio, locking: shared ? "off" : "on" } : {}),
    ...(isTop && detectZeroes !== undefined ? { "detect-zeroes": detectZeroes } : {}),
  };
}

/** What no node can say otherwise. A backing file is opened for writing only when a job of the daemon writes to it. */
function accessOptions(node: BlockTree, role: Role, { readOnly }: GraphOptions): Record<string, unknown> {
  const { driver, file } = node;
  const { writable, isBelowFormat } = role;
  if (driver === "nbd" && writable) {
    // The loss of a server must show as a failed request. Formats ignore discards that fail.
    return { "reconnect-delay": 0, ...(isBelowFormat ? { discard: "ignore" } : {}) };
  }
  if (writable) return {};
  if (driver === "nbd") return { "read-only": true, "reconnect-delay": RECONNECT_S };
  return readOnly || file !== undefined ? { "read-only": true } : { "read-only": false, "auto-read-only": true };
}

function filesOf(node: BlockTree, { writable }: Role): GraphFile[] {
  const path = localPath(node);
  if (path !== undefined) return [{ path, writable }];
  const { server, conf } = node as { server?: { path?: unknown }; conf?: unknown };
  const socket = node.driver === "nbd" && typeof server?.path === "string"
    ? [{ path: server.path, writable: true }]
    : [];
  return typeof conf === "string" && node.driver === "rbd" ? [{ path: conf, writable: false }] : socket;
}

/** Refuses what QEMU would open and then fail at, or damage. */
function checkUse(tree: BlockTree, { label, readOnly, shared }: GraphOptions): void {
  if (shared && tree.driver !== "raw") {
    throw new XenblkError(`Cannot share image ${label}: two writers would damage its format (${tree.driver})`, {
      remedy: "share raw images only",
    });
  }
  if (readOnly) return;
  const nodes = written(tree);
  const readable = nodes.find(({ driver }) => isReadOnlyFormat(driver) || READ_ONLY_STORES.has(driver));
  const snapshot = nodes.some(({ driver, snapshot }) => driver === "rbd" && snapshot !== undefined);
  if (readable === undefined && !snapshot) return;
  const what = readable?.driver ?? "a snapshot";
  throw new XenblkError(`Cannot write to image ${label}: ${what} can only be read`, {
    remedy: "attach it read-only, or attach a qcow2 overlay on it",
  });
}

/** The nodes that the disk's writes can reach. */
function written(tree: BlockTree): BlockTree[] {
  return [tree, ...childrenOf(tree).flatMap(({ option, tree: child }) => option === "backing" ? [] : written(child))];
}

/** A driver and where it reads, without what may be secret. */
function placeOf(tree: BlockTree): string {
  const path = localPath(tree);
  if (path !== undefined) return path;
  const { driver, url, export: name, server, pool, image, portal, target } = tree as
    & BlockTree
    & Record<string, unknown>;
  const { host, path: socket } = (server ?? {}) as { host?: unknown; path?: unknown };
  const parts = [url, host, socket, name, pool, image, portal, target, tree["path"]].filter((part) =>
    typeof part === "string" && part !== ""
  );
  return parts.length === 0 ? driver : `${driver} ${parts.join(" ")}`;
}
