/**
 * The simulated xenstore's data: nodes by path, and the overlay of a transaction. Conflicts are found as xenstored
 * finds them: every node that a transaction accessed must have the same generation when it commits.
 */

import type { XenstorePermission } from "../hypervisor.ts";

/** The content of a node; immutable. */
export interface NodeContent {
  readonly value: string;
  readonly permissions: readonly XenstorePermission[];
  readonly children: readonly string[];
}

/** Nodes by absolute path. */
export interface NodeView {
  get(path: string): NodeContent | undefined;
  /** Undefined removes the node. The caller updates the parent's list of children. */
  set(path: string, content: NodeContent | undefined): void;
}

interface StoredNode {
  readonly content: NodeContent;
  /** A new number for each change; 0: the node does not exist. */
  readonly generation: number;
}

/** The committed nodes. */
export class StoreTree implements NodeView {
  readonly #nodes = new Map<string, StoredNode>();
  #generation = 0;

  get(path: string): NodeContent | undefined {
    return this.#nodes.get(path)?.content;
  }

  set(path: string, content: NodeContent | undefined): void {
    if (content === undefined) this.#nodes.delete(path);
    else this.#nodes.set(path, { content, generation: ++this.#generation });
  }

  generation(path: string): number {
    return this.#nodes.get(path)?.generation ?? 0;
  }

  paths(): string[] {
    return [...this.#nodes.keys()];
  }

  clear(): void {
    this.#nodes.clear();
  }
}

/** A transaction's view: its own writes over the committed nodes. */
export class StoreOverlay implements NodeView {
  readonly #tree: StoreTree;
  /** Generation of each node when the transaction first accessed it. */
  readonly #seen = new Map<string, number>();
  readonly #written = new Map<string, NodeContent | undefined>();

  constructor(tree: StoreTree) {
    this.#tree = tree;
  }

  get(path: string): NodeContent | undefined {
    if (this.#written.has(path)) return this.#written.get(path);
    this.#look(path);
    return this.#tree.get(path);
  }

  set(path: string, content: NodeContent | undefined): void {
    this.#look(path);
    this.#written.set(path, content);
  }

  /** Commits all writes. False, and no write is committed, if an accessed node has changed since. */
  commit(): boolean {
    for (const [path, generation] of this.#seen) if (this.#tree.generation(path) !== generation) return false;
    for (const [path, content] of this.#written) this.#tree.set(path, content);
    return true;
  }

  #look(path: string): void {
    if (!this.#seen.has(path)) this.#seen.set(path, this.#tree.generation(path));
  }
}

/** Path of the parent; that of `/` is `/`. */
export function parentPath(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}

/** Last component of a path. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Path of a child. */
export function childPath(path: string, child: string): string {
  return path === "/" ? `/${child}` : `${path}/${child}`;
}

/** Whether `path` is `above` or below it. */
export function isAtOrBelow(path: string, above: string): boolean {
  return path === above || above === "/" || path.startsWith(`${above}/`);
}
