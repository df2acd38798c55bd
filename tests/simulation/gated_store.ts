/**
 * A connection to the simulated xenstore that the simulation controls: watches deliver one event at a time, on demand;
 * transactions can be made to conflict; writes are reported; the connection can be lost before an answer arrives.
 */

import {
  type DomId,
  type Xenstore,
  XenstoreError,
  type XenstoreOperations,
  type XenstorePermission,
  type XenstoreWatch,
} from "../../lib/hypervisor.ts";

/** What controls the connection. */
interface StoreHost {
  /** Called once per transaction. True: its first attempt conflicts. */
  disturbs(): boolean;
  /** The process has written a node that held `before`; called after the commit, for a transaction. */
  wrote(path: string, before: string | undefined, value: string): void;
  /** Called after a commit. True: the connection is lost before the answer arrives. */
  losesAnswer(): boolean;
  /** Called before each call that is not part of a transaction. True: it took too long, and the connection is lost. */
  hangs(): boolean;
}

/** A connection under the control of the simulation. */
export class GatedStore implements Xenstore {
  readonly lost: Promise<string>;
  readonly #inner: Xenstore;
  readonly #disturber: () => Xenstore;
  readonly #host: StoreHost;
  readonly #gates: GatedWatch[] = [];

  /** `disturber` opens another connection, which causes the conflicts. */
  constructor(inner: Xenstore, disturber: () => Xenstore, host: StoreHost) {
    this.#inner = inner;
    this.#disturber = disturber;
    this.#host = host;
    this.lost = inner.lost;
  }

  /** Watches with an event that is waited for. */
  get deliverable(): GatedWatch[] {
    return this.#gates.filter((gate) => gate.deliverable);
  }

  read(path: string): string | undefined {
    this.#call();
    return this.#inner.read(path);
  }

  list(path: string): string[] | undefined {
    this.#call();
    return this.#inner.list(path);
  }

  write(path: string, value: string): void {
    this.#call();
    const before = this.#inner.read(path);
    this.#inner.write(path, value);
    this.#host.wrote(path, before, value);
  }

  makeDirectory(path: string): void {
    this.#call();
    this.#inner.makeDirectory(path);
  }

  remove(path: string): boolean {
    this.#call();
    return this.#inner.remove(path);
  }

  permissions(path: string): XenstorePermission[] | undefined {
    this.#call();
    return this.#inner.permissions(path);
  }

  setPermissions(path: string, permissions: readonly XenstorePermission[]): void {
    this.#call();
    this.#inner.setPermissions(path, permissions);
  }

  transaction<T>(body: (transaction: XenstoreOperations) => T): T {
    this.#call();
    let disturb = this.#host.disturbs();
    let writes: Write[] = [];
    const result = this.#inner.transaction((transaction) => {
      let looked: string | undefined;
      writes = [];
      const result = body(noting(transaction, (path) => looked ??= path, writes));
      if (disturb && looked !== undefined) this.#touch(looked);
      disturb = false;
      return result;
    });
    for (const [path, before, value] of writes) this.#host.wrote(path, before, value);
    if (writes.length > 0 && this.#host.losesAnswer()) throw new XenstoreError("no answer came", "EDISCONNECTED", "");
    return result;
  }

  watch(path: string): XenstoreWatch {
    this.#call();
    const gate = new GatedWatch(this.#inner.watch(path));
    this.#gates.push(gate);
    return gate;
  }

  domainPath(domain: DomId): string {
    this.#call();
    return this.#inner.domainPath(domain);
  }

  isDomainIntroduced(domain: DomId): boolean {
    this.#call();
    return this.#inner.isDomainIntroduced(domain);
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }

  /** A call begins. Throws if it takes too long. */
  #call(): void {
    if (this.#host.hangs()) throw new XenstoreError("no answer came in time", "EDISCONNECTED", "");
  }

  /** Writes a node unchanged over the other connection, so that a transaction that read it conflicts. */
  #touch(path: string): void {
    using store = this.#disturber();
    const value = store.read(path);
    if (value !== undefined) store.write(path, value);
  }
}

/** A node that was written, what it held before, and its value. */
type Write = readonly [path: string, before: string | undefined, value: string];

/** The operations, with the first read and all writes reported. */
function noting(operations: XenstoreOperations, looked: (path: string) => void, writes: Write[]): XenstoreOperations {
  return {
    read: (path) => {
      looked(path);
      return operations.read(path);
    },
    list: (path) => operations.list(path),
    permissions: (path) => operations.permissions(path),
    setPermissions: (path, permissions) => operations.setPermissions(path, permissions),
    makeDirectory: (path) => operations.makeDirectory(path),
    write: (path, value) => {
      writes.push([path, operations.read(path), value]);
      operations.write(path, value);
    },
    remove: (path) => operations.remove(path),
  };
}

/** A watch that delivers one event per {@linkcode GatedWatch.deliver}. */
export class GatedWatch implements XenstoreWatch {
  readonly #inner: XenstoreWatch;
  readonly #ready: string[] = [];
  #waiting: ((result: IteratorResult<string>) => void) | undefined;
  #ended = false;

  constructor(inner: XenstoreWatch) {
    this.#inner = inner;
    this.#pump();
  }

  /** Whether {@linkcode deliver} would do something. */
  get deliverable(): boolean {
    return this.#waiting !== undefined && this.#ready.length > 0;
  }

  /** Delivers the next event. */
  deliver(): void {
    const waiting = this.#waiting;
    const path = waiting === undefined ? undefined : this.#ready.shift();
    if (path === undefined) return;
    this.#waiting = undefined;
    waiting!({ done: false, value: path });
  }

  [Symbol.asyncIterator](): AsyncIterator<string> {
    return { next: () => this.#next() };
  }

  [Symbol.dispose](): void {
    this.#ready.length = 0;
    this.#inner[Symbol.dispose]();
    this.#end();
  }

  #next(): Promise<IteratorResult<string>> {
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.#waiting = resolve);
  }

  async #pump(): Promise<void> {
    for await (const path of this.#inner) if (!this.#ready.includes(path)) this.#ready.push(path);
    this.#end();
  }

  #end(): void {
    this.#ended = true;
    this.#waiting?.({ done: true, value: undefined });
    this.#waiting = undefined;
  }
}
