/**
 * The real xenstore: libxenstore behind the seam's Xenstore. Watches are xenstore_dispatcher.ts, errors and loss are
 * xenstore_connection.ts.
 */

import { EAGAIN, ENOENT } from "../../lib/errno.ts";
import type { DomId, Xenstore, XenstoreOperations, XenstorePermission, XenstoreWatch } from "../../lib/hypervisor.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import { clearErrno, cString, errno, libc } from "../linux/libc.ts";
import { XenstoreConnection } from "./xenstore_connection.ts";
import { WatchDispatcher } from "./xenstore_dispatcher.ts";

/** XBT_NULL: outside any transaction. */
const NO_TRANSACTION = 0;
/** XS_PERM_READ and XS_PERM_WRITE of xenstore_lib.h. */
const PERM_READ = 1;
const PERM_WRITE = 2;
const PERMISSION_WORDS = 2;
const POINTER_BYTES = 8;

/** Conflicts after which a transaction fails: other clients keep writing to its nodes. */
const MAX_TRANSACTION_TRIES = 100;
/** The first tries follow at once; then this thread sleeps a little longer each time, to let the others finish. */
const TRIES_WITHOUT_PAUSE = 5;
const LONGEST_PAUSE_MS = 20;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The operations of one transaction, or of none. */
class StoreOperations implements XenstoreOperations {
  readonly #connection: XenstoreConnection;
  readonly #transaction: number;
  /** Where the library writes lengths and counts. */
  readonly #count = new Uint32Array(1);

  constructor(connection: XenstoreConnection, transaction: number) {
    this.#connection = connection;
    this.#transaction = transaction;
  }

  /** Bytes that are no UTF-8 (a guest may write any) read as U+FFFD. */
  read(path: string): string | undefined {
    const { xs_read } = this.#connection.symbols;
    const value = xs_read(this.#handle("read", path), this.#transaction, pathBytes("read", path), this.#count);
    if (value === null) return this.#absent("read", path);
    const bytes = new Uint8Array(this.#count[0]!);
    Deno.UnsafePointerView.copyInto(value, bytes);
    libc().free(value);
    return decoder.decode(bytes);
  }

  list(path: string): string[] | undefined {
    const { xs_directory } = this.#connection.symbols;
    const names = xs_directory(this.#handle("list", path), this.#transaction, pathBytes("list", path), this.#count);
    if (names === null) return this.#absent("list", path);
    const view = new Deno.UnsafePointerView(names);
    const result: string[] = [];
    for (let index = 0; index < this.#count[0]!; index++) {
      const name = view.getPointer(index * POINTER_BYTES);
      if (name !== null) result.push(Deno.UnsafePointerView.getCString(name));
    }
    libc().free(names);
    return result;
  }

  write(path: string, value: string): void {
    const { xs_write } = this.#connection.symbols;
    const bytes = encoder.encode(value);
    const handle = this.#handle("write", path);
    if (!xs_write(handle, this.#transaction, pathBytes("write", path), bytes, bytes.length)) {
      throw this.#connection.error("write", path);
    }
  }

  makeDirectory(path: string): void {
    const { xs_mkdir } = this.#connection.symbols;
    if (!xs_mkdir(this.#handle("create", path), this.#transaction, pathBytes("create", path))) {
      throw this.#connection.error("create", path);
    }
  }

  /** xenstored answers that it removed a missing node too, if only the parent is there; so look first. */
  remove(path: string): boolean {
    const { xs_rm } = this.#connection.symbols;
    if (this.permissions(path) === undefined) return false;
    if (xs_rm(this.#handle("remove", path), this.#transaction, pathBytes("remove", path))) return true;
    this.#absent("remove", path);
    return false;
  }

  permissions(path: string): XenstorePermission[] | undefined {
    const action = "read the permissions of";
    const { xs_get_permissions } = this.#connection.symbols;
    const handle = this.#handle(action, path);
    const entries = xs_get_permissions(handle, this.#transaction, pathBytes(action, path), this.#count);
    if (entries === null) return this.#absent(action, path);
    const words = new Uint32Array(PERMISSION_WORDS * this.#count[0]!);
    Deno.UnsafePointerView.copyInto(entries, words);
    libc().free(entries);
    return Array.from({ length: this.#count[0]! }, (_, index) => {
      const flags = words[PERMISSION_WORDS * index + 1]!;
      const domain = words[PERMISSION_WORDS * index]! as DomId;
      return { domain, read: (flags & PERM_READ) !== 0, write: (flags & PERM_WRITE) !== 0 };
    });
  }

  setPermissions(path: string, permissions: readonly XenstorePermission[]): void {
    const action = "set the permissions of";
    const words = new Uint32Array(PERMISSION_WORDS * permissions.length);
    permissions.forEach(({ domain, read, write }, index) => {
      words.set([domain, (read ? PERM_READ : 0) | (write ? PERM_WRITE : 0)], PERMISSION_WORDS * index);
    });
    const { xs_set_permissions } = this.#connection.symbols;
    const handle = this.#handle(action, path);
    if (!xs_set_permissions(handle, this.#transaction, pathBytes(action, path), words, permissions.length)) {
      throw this.#connection.error(action, path);
    }
  }

  #handle(action: string, path: string): Deno.PointerObject {
    return this.#connection.handle(action, path);
  }

  /** Undefined if the call that failed just now found no such node; throws for every other reason. */
  #absent(action: string, path: string): undefined {
    const reason = errno();
    if (reason !== ENOENT) throw this.#connection.error(action, path, reason);
  }
}

/** What one try of a transaction came to. */
type Attempt<T> =
  | { readonly committed: true; readonly value: T }
  | { readonly committed: false; readonly conflict: XenstoreError | undefined };

/** A connection to xenstored through libxenstore. */
export class NativeXenstore extends StoreOperations implements Xenstore {
  readonly #connection: XenstoreConnection;
  readonly #dispatcher: WatchDispatcher;

  /** Throws XenblkError of kind `hypervisor` if the library is missing or xenstored cannot be reached. */
  constructor() {
    const connection = new XenstoreConnection();
    super(connection, NO_TRANSACTION);
    this.#connection = connection;
    this.#dispatcher = new WatchDispatcher(connection);
  }

  /**
   * Tries again at once when another commit came between, then with pauses that block this thread; after 100 tries
   * (about two seconds) throws XenstoreError EAGAIN. `body` must do nothing but store operations.
   */
  transaction<T>(body: (transaction: XenstoreOperations) => T): T {
    let conflict: XenstoreError | undefined;
    for (let tries = 1; tries <= MAX_TRANSACTION_TRIES; tries++) {
      const outcome = this.#attempt(body);
      if (outcome.committed) return outcome.value;
      conflict = outcome.conflict;
      if (tries > TRIES_WITHOUT_PAUSE) {
        libc().poll(null, 0n, Math.min(tries - TRIES_WITHOUT_PAUSE, LONGEST_PAUSE_MS));
      }
    }
    throw conflict ?? new XenstoreError(
      `Cannot commit a transaction: other writers came between ${MAX_TRANSACTION_TRIES} times`,
      "EAGAIN",
      "",
    );
  }

  watch(path: string): XenstoreWatch {
    return this.#dispatcher.watch(path);
  }

  domainPath(domain: DomId): string {
    const what = `of domain ${domain}`;
    const { symbols } = this.#connection;
    const path = symbols.xs_get_domain_path(this.#connection.handle("tell the path", what), domain);
    if (path === null) throw this.#connection.error("tell the path", what);
    const text = Deno.UnsafePointerView.getCString(path);
    libc().free(path);
    return text;
  }

  isDomainIntroduced(domain: DomId): boolean {
    const action = "tell whether xenstored knows";
    const what = `domain ${domain}`;
    const handle = this.#connection.handle(action, what);
    clearErrno();
    if (this.#connection.symbols.xs_is_domain_introduced(handle, domain)) return true;
    const reason = errno();
    if (reason !== 0) throw this.#connection.error(action, what, reason);
    return false;
  }

  /**
   * Asking for it keeps the process alive until this connection is disposed or lost. Throws XenstoreError if xenstored
   * refuses the watch that it takes to notice the loss.
   */
  get lost(): Promise<string> {
    try {
      this.#dispatcher.watchForLoss();
    } catch (error) {
      if (!(error instanceof XenstoreError && error.code === "EDISCONNECTED")) throw error;
    }
    return this.#connection.lost;
  }

  /** Ends every watch, then closes the connection. */
  [Symbol.dispose](): void {
    this.#dispatcher[Symbol.dispose]();
    this.#connection[Symbol.dispose]();
  }

  /**
   * Runs and commits once; not committed means that another client's commit conflicted. xenstored shows a transaction
   * its own changes beside others' newer ones, and says EIO where the two do not fit: `conflict`, if it was that.
   */
  #attempt<T>(body: (transaction: XenstoreOperations) => T): Attempt<T> {
    const action = "use a transaction of";
    const { symbols } = this.#connection;
    const handle = this.#connection.handle(action, "xenstored");
    const transaction = symbols.xs_transaction_start(handle);
    if (transaction === NO_TRANSACTION) throw this.#connection.error(action, "xenstored");
    let value: T;
    try {
      value = body(new StoreOperations(this.#connection, transaction));
    } catch (error) {
      if (this.#connection.isUsable) symbols.xs_transaction_end(handle, transaction, true);
      if (error instanceof XenstoreError && error.code === "EIO") return { committed: false, conflict: error };
      throw error;
    }
    if (symbols.xs_transaction_end(handle, transaction, false)) return { committed: true, value };
    const reason = errno();
    if (reason === EAGAIN) return { committed: false, conflict: undefined };
    throw this.#connection.error(action, "xenstored", reason);
  }
}

/** A path as C takes it. */
function pathBytes(action: string, path: string): Uint8Array<ArrayBuffer> {
  if (!path.includes("\0")) return cString(path);
  throw new XenstoreError(`Cannot ${action} ${JSON.stringify(path)}: not a valid xenstore path`, "EINVAL", path);
}
