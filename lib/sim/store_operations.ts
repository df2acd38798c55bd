/**
 * The operations of one domain on the simulated xenstore's nodes, by xenstored's rules: path syntax, limits,
 * permissions and their inheritance, and the watch events that a change causes. Used directly and inside transactions.
 */

import { type DomId, XenstoreError, type XenstoreOperations, type XenstorePermission } from "../hypervisor.ts";
import { baseName, childPath, type NodeContent, type NodeView, parentPath } from "./store_tree.ts";

/** XENSTORE_PAYLOAD_MAX (xs_wire.h): bytes of one message. */
const PAYLOAD_MAX_BYTES = 4096;
/** XENSTORE_ABS_PATH_MAX and XENSTORE_REL_PATH_MAX. */
const ABSOLUTE_PATH_MAX = 3072;
const RELATIVE_PATH_MAX = 2048;
/** Bytes of a guest's node, by xenstored's default quota. */
const GUEST_ENTRY_MAX_BYTES = 2048;
/** Nodes that a guest may own, by xenstored's default quota. */
const GUEST_NODES_MAX = 1000;

const VALID_PATH = /^(\/|(\/[A-Za-z0-9\-_@]+)+)$/;
const encoder = new TextEncoder();

/** A change that fires watches. */
export interface StoreChange {
  readonly path: string;
  /**
   * Fires only watches on this very node: it was removed with a parent, and the parent's own change fires the others.
   */
  readonly exact: boolean;
  /** Fires watches of domains that may read under any of these. */
  readonly readableBy: readonly (readonly XenstorePermission[])[];
}

/** `/local/domain/<domid>`. */
export function domainPath(domain: DomId): string {
  return `/local/domain/${domain}`;
}

/** The absolute path; a relative one starts at the domain's home. Throws EINVAL for an invalid path. */
export function absolutePath(path: string, caller: DomId): string {
  const relative = !path.startsWith("/");
  const absolute = relative ? `${domainPath(caller)}/${path}` : path;
  if (!VALID_PATH.test(absolute) || absolute.length > ABSOLUTE_PATH_MAX) throw storeError("EINVAL", "no path", path);
  if (relative && path.length > RELATIVE_PATH_MAX) throw storeError("EINVAL", "too long a relative path", path);
  return absolute;
}

/** An error with the code that xenstored reports. */
export function storeError(code: string, why: string, path: string): XenstoreError {
  return new XenstoreError(`xenstore node ${path}: ${why} (${code})`, code, path);
}

/** What a domain may do under these permissions. Domain 0 and the owner may do everything. */
export function access(
  permissions: readonly XenstorePermission[],
  caller: DomId,
): { readonly read: boolean; readonly write: boolean; readonly owner: boolean } {
  const [owner] = permissions;
  if (caller === 0 || owner?.domain === caller) return { read: true, write: true, owner: true };
  const entry = permissions.find(({ domain }, i) => i > 0 && domain === caller) ?? owner;
  return { read: entry?.read ?? false, write: entry?.write ?? false, owner: false };
}

type Right = "read" | "write" | "owner";

/** What the operations work on, and for which domain. */
export interface OperationsTarget {
  readonly view: NodeView;
  readonly caller: DomId;
  /** Throws if the connection or the transaction has ended; called first. */
  readonly assertOpen: (path: string) => void;
  /** Number of nodes that a domain owns in the whole store. */
  readonly ownedNodes: (domain: DomId) => number;
  readonly changed: (changes: readonly StoreChange[]) => void;
}

/** See {@linkcode XenstoreOperations}. */
export class NodeOperations implements XenstoreOperations {
  readonly #target: OperationsTarget;
  readonly #view: NodeView;
  readonly #caller: DomId;

  constructor(target: OperationsTarget) {
    this.#target = target;
    this.#view = target.view;
    this.#caller = target.caller;
  }

  read(path: string): string | undefined {
    return this.#node(this.#resolve(path), "read")?.value;
  }

  list(path: string): string[] | undefined {
    return this.#node(this.#resolve(path), "read")?.children.slice();
  }

  write(path: string, value: string): void {
    const absolute = this.#resolve(path);
    const lengthBytes = encoder.encode(value).length;
    if (lengthBytes + path.length + 1 > PAYLOAD_MAX_BYTES) throw storeError("E2BIG", "too long a value", path);
    if (this.#caller !== 0 && lengthBytes > GUEST_ENTRY_MAX_BYTES) throw storeError("ENOSPC", "over quota", path);
    const node = this.#node(absolute, "write");
    if (node === undefined) this.#create(absolute, value);
    else this.#view.set(absolute, { ...node, value });
    this.#announce([absolute]);
  }

  makeDirectory(path: string): void {
    const absolute = this.#resolve(path);
    if (this.#node(absolute, "write") !== undefined) return;
    this.#create(absolute, "");
    this.#announce([absolute]);
  }

  remove(path: string): boolean {
    const absolute = this.#resolve(path);
    if (absolute === "/") throw storeError("EINVAL", "the root cannot be removed", path);
    const node = this.#node(absolute, "write");
    if (node === undefined) return false;
    const parent = parentPath(absolute);
    const above = this.#view.get(parent);
    const changes: StoreChange[] = [];
    this.#delete(absolute, node, above, false, changes);
    if (above !== undefined) {
      const name = baseName(absolute);
      this.#view.set(parent, { ...above, children: above.children.filter((child) => child !== name) });
    }
    this.#target.changed(changes);
    return true;
  }

  permissions(path: string): XenstorePermission[] | undefined {
    return this.#node(this.#resolve(path), "read")?.permissions.slice();
  }

  setPermissions(path: string, permissions: readonly XenstorePermission[]): void {
    const absolute = this.#resolve(path);
    const [owner] = permissions;
    if (owner === undefined) throw storeError("EINVAL", "permissions name no owner", path);
    const node = this.#node(absolute, "owner");
    if (node === undefined) throw storeError("ENOENT", "there is no such node", path);
    if (this.#caller !== 0 && owner.domain !== node.permissions[0]?.domain) {
      throw storeError("EPERM", "only domain 0 may change the owner", path);
    }
    this.#view.set(absolute, { ...node, permissions: permissions.map((entry) => ({ ...entry })) });
    this.#target.changed([{ path: absolute, exact: false, readableBy: [node.permissions, permissions] }]);
  }

  #resolve(path: string): string {
    this.#target.assertOpen(path);
    return absolutePath(path, this.#caller);
  }

  /**
   * The node, if it exists. Throws EACCES unless the caller has the right to it, or else to the nearest existing
   * parent.
   */
  #node(path: string, right: Right): NodeContent | undefined {
    const node = this.#view.get(path);
    let nearest = node;
    for (let above = path; nearest === undefined && above !== "/";) {
      above = parentPath(above);
      nearest = this.#view.get(above);
    }
    if (!access(nearest?.permissions ?? [], this.#caller)[right]) {
      throw storeError("EACCES", `domain ${this.#caller} is not permitted`, path);
    }
    return node;
  }

  /** Creates the node and its missing parents; they inherit permissions, but a guest owns what it creates. */
  #create(path: string, value: string): void {
    const parent = parentPath(path);
    if (this.#view.get(parent) === undefined) this.#create(parent, "");
    const above = this.#view.get(parent)!;
    const [owner, ...others] = above.permissions;
    const guest = this.#caller !== 0;
    if (guest && this.#target.ownedNodes(this.#caller) >= GUEST_NODES_MAX) {
      throw storeError("ENOSPC", `domain ${this.#caller} owns ${GUEST_NODES_MAX} nodes already`, path);
    }
    const permissions = guest ? [{ ...owner!, domain: this.#caller }, ...others] : above.permissions;
    this.#view.set(path, { value, permissions, children: [] });
    this.#view.set(parent, { ...above, children: [...above.children, baseName(path)] });
  }

  #delete(
    path: string,
    node: NodeContent,
    parent: NodeContent | undefined,
    exact: boolean,
    changes: StoreChange[],
  ): void {
    for (const child of node.children) {
      const below = childPath(path, child);
      const content = this.#view.get(below);
      if (content !== undefined) this.#delete(below, content, node, true, changes);
    }
    this.#view.set(path, undefined);
    changes.push({ path, exact, readableBy: [node.permissions, parent?.permissions ?? []] });
  }

  #announce(paths: readonly string[]): void {
    this.#target.changed(paths.map((path) => ({
      path,
      exact: false,
      readableBy: [this.#view.get(path)?.permissions ?? [], this.#view.get(parentPath(path))?.permissions ?? []],
    })));
  }
}
