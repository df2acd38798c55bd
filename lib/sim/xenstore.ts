/**
 * A simulated xenstored in one thread: connections of domains to one tree of nodes, transactions that conflict, watches
 * that are delivered asynchronously, and domains that come and go. It can be ended and started again, with or without
 * its contents, and it can be frozen, so that it answers nobody.
 */

import {
  type DomId,
  type Xenstore,
  XenstoreError,
  type XenstoreOperations,
  type XenstorePermission,
  type XenstoreWatch,
} from "../hypervisor.ts";
import { MOST_TRANSACTION_TRIES } from "../xenstore.ts";
import {
  absolutePath,
  access,
  domainPath,
  NodeOperations,
  type OperationsTarget,
  type StoreChange,
  storeError,
} from "./store_operations.ts";
import { isAtOrBelow, StoreOverlay, StoreTree } from "./store_tree.ts";
import { SimulatedWatch } from "./store_watch.ts";

const DOMAIN_0 = 0 as DomId;
const OWNED_BY_DOMAIN_0: readonly XenstorePermission[] = [{ domain: DOMAIN_0, read: false, write: false }];
const SPECIAL = ["@introduceDomain", "@releaseDomain"] as const;
type SpecialWatch = typeof SPECIAL[number];

/** The simulated xenstored: makes connections, and introduces and releases domains. */
export class SimulatedStore {
  readonly #tree = new StoreTree();
  readonly #connections = new Set<Connection>();
  readonly #domains = new Set<DomId>();
  #stopped: string | undefined;
  /** Ends when the store answers again; undefined while it answers. */
  #frozen: PromiseWithResolvers<void> | undefined;

  constructor() {
    this.#reset();
  }

  /** Opens a connection of the domain. Throws XenstoreError EDISCONNECTED while the store is stopped. */
  connect(domain: DomId): Xenstore {
    if (this.#stopped !== undefined) throw new XenstoreError(this.#stopped, "EDISCONNECTED", "");
    const connection = new Connection({
      domain,
      tree: this.#tree,
      changed: (changes) => this.#changed(changes),
      ownedNodes: (owner) => this.#ownedNodes(owner),
      isIntroduced: (other) => this.#domains.has(other),
      frozen: () => this.#frozen?.promise,
      closed: () => this.#connections.delete(connection),
    });
    this.#connections.add(connection);
    return connection;
  }

  /** Creates a guest as a toolstack does: its nodes with libxl's permissions, then the introduction. */
  createGuest(domain: DomId, name = `guest-${domain}`): void {
    using store = this.connect(DOMAIN_0);
    const home = domainPath(domain);
    const readable = [...OWNED_BY_DOMAIN_0, { domain, read: true, write: false }];
    store.transaction((transaction) => {
      transaction.makeDirectory(home);
      transaction.setPermissions(home, readable);
      for (const directory of ["device", "device/vbd"]) transaction.makeDirectory(`${home}/${directory}`);
      for (const directory of ["data", "error", "attr"]) {
        transaction.makeDirectory(`${home}/${directory}`);
        transaction.setPermissions(`${home}/${directory}`, [{ domain, read: false, write: false }]);
      }
      transaction.write(`${home}/name`, name);
      transaction.write(`${home}/domid`, String(domain));
    });
    this.introduceDomain(domain);
  }

  /** The domain exists from now on: fires @introduceDomain. */
  introduceDomain(domain: DomId): void {
    this.#domains.add(domain);
    this.#fireSpecial("@introduceDomain");
  }

  /** The domain has ended: breaks its connections, removes its nodes, and fires @releaseDomain. */
  releaseDomain(domain: DomId): void {
    this.#domains.delete(domain);
    this.disconnect(domain, `domain ${domain} was released`);
    if (this.#stopped !== undefined) return;
    using store = this.connect(DOMAIN_0);
    for (const path of this.#tree.paths()) {
      if (this.#tree.get(path)?.permissions[0]?.domain === domain) store.remove(path);
    }
    this.#fireSpecial("@releaseDomain");
  }

  /** Breaks all connections of a domain, as when its socket closes. The store keeps running. */
  disconnect(domain: DomId, reason: string): void {
    for (const connection of [...this.#connections]) if (connection.domain === domain) connection.lose(reason);
  }

  /** xenstored ends: all connections are lost, and none can be opened. */
  stop(reason = "xenstored ended"): void {
    this.#stopped = reason;
    for (const connection of [...this.#connections]) connection.lose(reason);
    this.thaw();
  }

  /** xenstored runs again: with its nodes and domains, or empty. */
  start(options: { readonly empty?: boolean } = {}): void {
    this.#stopped = undefined;
    if (options.empty) this.#reset();
  }

  /**
   * xenstored is stopped, as by SIGSTOP: clients can connect, but no call is answered. In place of the wait, a call loses
   * its connection at once. Watches deliver nothing.
   */
  freeze(): void {
    this.#frozen ??= Promise.withResolvers<void>();
  }

  /** xenstored goes on with the nodes that it had. */
  thaw(): void {
    this.#frozen?.resolve();
    this.#frozen = undefined;
  }

  #reset(): void {
    this.#tree.clear();
    this.#domains.clear();
    this.#domains.add(DOMAIN_0);
    this.#tree.set("/", { value: "", permissions: OWNED_BY_DOMAIN_0, children: [] });
    using store = this.connect(DOMAIN_0);
    store.makeDirectory("/tool/xenstored");
    store.write("/local/domain/0/name", "Domain-0");
    store.write("/local/domain/0/domid", "0");
  }

  #ownedNodes(owner: DomId): number {
    return this.#tree.paths().filter((path) => this.#tree.get(path)?.permissions[0]?.domain === owner).length;
  }

  #changed(changes: readonly StoreChange[]): void {
    for (const connection of this.#connections) connection.deliver(changes);
  }

  #fireSpecial(name: SpecialWatch): void {
    for (const connection of this.#connections) connection.deliverSpecial(name);
  }
}

/** What a connection needs of the store. */
interface ConnectionHost {
  readonly domain: DomId;
  readonly tree: StoreTree;
  readonly changed: (changes: readonly StoreChange[]) => void;
  readonly ownedNodes: (owner: DomId) => number;
  readonly isIntroduced: (domain: DomId) => boolean;
  /** Resolves when the store answers again; undefined while it answers. */
  readonly frozen: () => Promise<void> | undefined;
  readonly closed: () => void;
}

/** A watch of a connection. */
interface Registration {
  readonly watch: SimulatedWatch;
  /** Absolute, or a special name. */
  readonly path: string;
  /** Length of the prefix to cut off: a watch of a relative path yields relative paths. */
  readonly prefixLength: number;
}

class Connection implements Xenstore {
  readonly domain: DomId;
  readonly lost: Promise<string>;
  readonly #host: ConnectionHost;
  readonly #direct: NodeOperations;
  readonly #watches = new Set<Registration>();
  readonly #announceLoss: (reason: string) => void;
  #closed: string | undefined;

  constructor(host: ConnectionHost) {
    this.#host = host;
    this.domain = host.domain;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.lost = promise;
    this.#announceLoss = resolve;
    this.#direct = new NodeOperations({ ...this.#target, view: host.tree, changed: host.changed });
  }

  read(path: string): string | undefined {
    return this.#direct.read(path);
  }

  list(path: string): string[] | undefined {
    return this.#direct.list(path);
  }

  write(path: string, value: string): void {
    this.#direct.write(path, value);
  }

  makeDirectory(path: string): void {
    this.#direct.makeDirectory(path);
  }

  remove(path: string): boolean {
    return this.#direct.remove(path);
  }

  permissions(path: string): XenstorePermission[] | undefined {
    return this.#direct.permissions(path);
  }

  setPermissions(path: string, permissions: readonly XenstorePermission[]): void {
    this.#direct.setPermissions(path, permissions);
  }

  transaction<T>(body: (transaction: XenstoreOperations) => T): T {
    for (let attempt = 0; attempt < MOST_TRANSACTION_TRIES; attempt++) {
      this.#assertOpen("");
      const view = new StoreOverlay(this.#host.tree);
      const changes: StoreChange[] = [];
      let over = false;
      const assertOpen = (path: string): void => {
        this.#assertOpen(path);
        if (over) throw storeError("ENOENT", "the transaction is over", path);
      };
      const changed = (more: readonly StoreChange[]): void => void changes.push(...more);
      try {
        const result = body(new NodeOperations({ ...this.#target, view, assertOpen, changed }));
        this.#assertOpen("");
        if (!view.commit()) continue;
        this.#host.changed(changes);
        return result;
      } finally {
        over = true;
      }
    }
    throw storeError("EAGAIN", `a transaction conflicted ${MOST_TRANSACTION_TRIES} times`, "");
  }

  watch(path: string): XenstoreWatch {
    this.#assertOpen(path);
    const special = SPECIAL.some((name) => name === path);
    const absolute = special ? path : absolutePath(path, this.domain);
    const watch = new SimulatedWatch(() => this.#watches.delete(registration));
    const registration = { watch, path: absolute, prefixLength: absolute.length - path.length };
    this.#watches.add(registration);
    watch.push(path);
    return watch;
  }

  domainPath(domain: DomId): string {
    return domainPath(domain);
  }

  isDomainIntroduced(domain: DomId): boolean {
    this.#assertOpen("");
    return this.#host.isIntroduced(domain);
  }

  async answers(): Promise<void> {
    const reason = await Promise.race([this.#host.frozen(), this.lost]);
    if (reason !== undefined) throw new XenstoreError(`xenstore does not answer: ${reason}`, "EDISCONNECTED", "");
  }

  [Symbol.dispose](): void {
    if (this.#closed === undefined) this.#close("the connection was closed");
  }

  /** The store breaks the connection. */
  lose(reason: string): void {
    if (this.#closed !== undefined) return;
    this.#close(reason);
    this.#announceLoss(reason);
  }

  /** Fires the watches on these changes, if this domain may read the nodes. */
  deliver(changes: readonly StoreChange[]): void {
    for (const { path, exact, readableBy } of changes) {
      if (!readableBy.some((permissions) => access(permissions, this.domain).read)) continue;
      for (const { watch, path: watched, prefixLength } of this.#watches) {
        if (exact ? path === watched : isAtOrBelow(path, watched)) watch.push(path.slice(prefixLength));
      }
    }
  }

  /** Fires special watches, which only domain 0 may set (xenstored's default since Xen 4.15). */
  deliverSpecial(name: SpecialWatch): void {
    if (this.domain !== DOMAIN_0) return;
    for (const { watch, path } of this.#watches) if (path === name) watch.push(name);
  }

  get #target(): Omit<OperationsTarget, "view" | "changed"> {
    return {
      caller: this.domain,
      assertOpen: (path) => this.#assertOpen(path),
      ownedNodes: this.#host.ownedNodes,
    };
  }

  #close(reason: string): void {
    this.#closed = reason;
    this.#host.closed();
    for (const { watch } of this.#watches) watch.end();
    this.#watches.clear();
  }

  #assertOpen(path: string): void {
    if (this.#host.frozen() !== undefined) this.lose("xenstored has not answered in time");
    if (this.#closed !== undefined) {
      throw new XenstoreError(`xenstore is not connected: ${this.#closed}`, "EDISCONNECTED", path);
    }
  }
}
