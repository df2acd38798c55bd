/**
 * Has a daemon flush an image that a job of it has written to: QEMU keeps a part of the image's own tables in its memory,
 * and has no request that flushes. It flushes an image before it opens it with other options, or with the same.
 */

import type { FoundImage, LayerNodes } from "../disk.ts";
import type { QmpObject } from "./qmp.ts";
import type { Execute } from "./removal.ts";

/** How long it may take. The guest's requests wait. */
const FLUSH_MS = 60_000;

/** The image in a file, and its nodes in the daemon. */
export interface FlushedImage {
  readonly path: string;
  readonly nodes: LayerNodes;
}

/** Flushes it; `found` has the options that it was opened with. Rejects as `execute` does; then it may not be flushed. */
export async function flushNode(execute: Execute, found: FoundImage, { path, nodes }: FlushedImage): Promise<void> {
  const file = found.nodes.find(({ filename }) => filename === path)?.["node-name"];
  const opened = found.nodes.find((node) => node["file"] === file);
  if (file === undefined || opened === undefined) throw new Error(`no node of the disk is that of ${path}`);
  const { "auto-read-only": _auto, ...options } = opened;
  const below = await childrenOf(execute, nodes.image);
  const children = Object.keys(options).flatMap((option) => option in below ? [[option, below[option]]] : []);
  const now = { ...options, ...Object.fromEntries(children), "node-name": nodes.image, "read-only": false };
  await execute("blockdev-reopen", { options: [now] }, FLUSH_MS);
}

/** The names of a node's children, by the options that name them. */
async function childrenOf(execute: Execute, node: string): Promise<Readonly<Record<string, string>>> {
  const graph = await execute("x-debug-query-block-graph") as Record<"nodes" | "edges", readonly QmpObject[]>;
  const idOf = graph.nodes.find(({ name }) => name === node)?.["id"];
  const edges = graph.edges.filter(({ parent }) => parent === idOf);
  return Object.fromEntries(edges.map(({ name, child }) => [
    `${name}`,
    `${graph.nodes.find(({ id }) => id === child)?.["name"]}`,
  ]));
}
