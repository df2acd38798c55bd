/**
 * The real xenstore: xenstored's operations behind the seam's Xenstore. Watches are xenstore_dispatcher.ts; the
 * connection, its errors and its loss are xenstore_connection.ts.
 */

import type { DomId, Xenstore, XenstoreOperations, XenstorePermission, XenstoreWatch } from "../../lib/hypervisor.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import { MOST_TRANSACTION_TRIES } from "../../lib/xenstore.ts";
import { type StoreRequest, XenstoreConnection } from "./xenstore_connection.ts";
import { WatchDispatcher } from "./xenstore_dispatcher.ts";
import { decodeFields, decodeText, XS } from "./xenstore_wire.ts";

/** XBT_NULL: outside any transaction. */
const NO_TRANSACTION = 0;

/** How often a list that changes while it is read is begun. Each takes milliseconds, and so waits a signal. */
const MOST_LIST_TRIES = 20;

/** How permissions are written: a letter, then the domain id. */
const LETTERS = { n: [false, false], r: [true, false], w: [false, true], b: [true, true] } as const;

/** The operations of one transaction, or of none. */
class StoreOperations implements XenstoreOperations {
  readonly #connection: XenstoreConnection;
  readonly #transaction: number;

  constructor(connection: XenstoreConnection, transaction: number) {
    this.#connection = connection;
    this.#transaction = transaction;
  }

  /** Bytes that are no UTF-8 (a guest may write any) read as U+FFFD. */
  read(path: string): string | undefined {
    const value = this.#find({ type: XS.READ, action: "read", path, fields: [path] });
    return value === undefined ? undefined : decodeText(value);
  }

  readAll(paths: readonly string[]): (string | undefined | XenstoreError)[] {
    const requests = paths.map((path) => checked({ type: XS.READ, action: "read", path, fields: [path] }));
    return this.#connection.requestAll(requests, this.#transaction).map((reply) => {
      if (!(reply instanceof XenstoreError)) return decodeText(reply);
      return reply.code === "ENOENT" ? undefined : reply;
    });
  }

  list(path: string): string[] | undefined {
    try {
      const names = this.#find({ type: XS.DIRECTORY, action: "list", path, fields: [path] });
      return names === undefined ? undefined : decodeFields(names);
    } catch (error) {
      if (!(error instanceof XenstoreError && error.code === "E2BIG")) throw error;
      return this.#listParts(path);
    }
  }

  /** In a transaction nobody needs to wait for it before the commit. */
  write(path: string, value: string): void {
    const request = checked({ type: XS.WRITE, action: "write", path, fields: [path], rest: value });
    if (this.#transaction === NO_TRANSACTION) this.#connection.request(request);
    else this.#connection.post(request, this.#transaction);
  }

  makeDirectory(path: string): void {
    this.#ask({ type: XS.MKDIR, action: "create", path, fields: [path] });
  }

  /** xenstored answers that it removed a missing node too, if only the parent is there; so look first. */
  remove(path: string): boolean {
    if (this.permissions(path) === undefined) return false;
    return this.#find({ type: XS.RM, action: "remove", path, fields: [path] }) !== undefined;
  }

  permissions(path: string): XenstorePermission[] | undefined {
    const entries = this.#find({ type: XS.GET_PERMS, action: "read the permissions of", path, fields: [path] });
    return entries === undefined ? undefined : decodeFields(entries).map((entry) => {
      const [read, write] = LETTERS[entry[0] as keyof typeof LETTERS] ?? LETTERS.n;
      return { domain: Number(entry.slice(1)) as DomId, read, write };
    });
  }

  setPermissions(path: string, permissions: readonly XenstorePermission[]): void {
    const entries = permissions.map(({ domain, read, write }) =>
      `${read ? (write ? "b" : "r") : write ? "w" : "n"}${domain}`
    );
    this.#ask({ type: XS.SET_PERMS, action: "set the permissions of", path, fields: [path, ...entries] });
  }

  /**
   * A list that is longer than a message, in parts; all over again if it changes meanwhile, but not for ever: the guest
   * that the directory belongs to can change it faster than it is read. Then throws XenstoreError EAGAIN.
   */
  #listParts(path: string): string[] | undefined {
    let generation: string | undefined;
    for (let names = "", tries = 1; tries <= MOST_LIST_TRIES;) {
      const part = this.#find({ type: XS.DIRECTORY_PART, action: "list", path, fields: [path, String(names.length)] });
      if (part === undefined) return undefined;
      // The generation, then names, each followed by a NUL, then one more NUL behind the last name.
      const [current, ...more] = decodeFields(part);
      if (generation !== undefined && current !== generation) {
        generation = undefined;
        names = "";
        tries++;
        continue;
      }
      generation = current;
      const last = more.at(-1) === "";
      names += (last ? more.slice(0, -1) : more).map((name) => `${name}\0`).join("");
      if (last) return names.split("\0").slice(0, -1);
    }
    throw new XenstoreError(`Cannot list ${path}: it changes all the time`, "EAGAIN", path);
  }

  /** The reply, or undefined if there is no such node. */
  #find(request: StoreRequest): Uint8Array | undefined {
    try {
      return this.#ask(request);
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "ENOENT") return undefined;
      throw error;
    }
  }

  #ask(request: StoreRequest): Uint8Array {
    return this.#connection.request(checked(request), this.#transaction);
  }
}

/** A path that the protocol can carry. Throws XenstoreError. */
function checked(request: StoreRequest): StoreRequest {
  const { action, path } = request;
  if (!path.includes("\0")) return request;
  throw new XenstoreError(`Cannot ${action} ${JSON.stringify(path)}: not a valid xenstore path`, "EINVAL", path);
}

/** What one try of a transaction came to. */
type Attempt<T> =
  | { readonly committed: true; readonly value: T }
  | { readonly committed: false; readonly conflict: XenstoreError | undefined };

/** A connection to xenstored. */
export class NativeXenstore extends StoreOperations implements Xenstore {
  readonly #connection: XenstoreConnection;
  readonly #dispatcher: WatchDispatcher;
  /** xenstored makes them of the number alone. */
  readonly #domainPaths = new Map<DomId, string>();

  /** Throws XenblkError of kind `hypervisor` if xenstored cannot be reached. */
  constructor() {
    const connection = new XenstoreConnection();
    super(connection, NO_TRANSACTION);
    this.#connection = connection;
    this.#dispatcher = new WatchDispatcher(connection);
  }

  /** Tries again at once when another commit came between, a few times, then throws XenstoreError EAGAIN. */
  transaction<T>(body: (transaction: XenstoreOperations) => T): T {
    let conflict: XenstoreError | undefined;
    for (let tries = 1; tries <= MOST_TRANSACTION_TRIES; tries++) {
      const outcome = this.#attempt(body);
      if (outcome.committed) return outcome.value;
      conflict = outcome.conflict;
    }
    throw conflict ?? new XenstoreError(
      `Cannot commit a transaction: other writers came between ${MOST_TRANSACTION_TRIES} times`,
      "EAGAIN",
      "",
    );
  }

  watch(path: string): XenstoreWatch {
    return this.#dispatcher.watch(path);
  }

  domainPath(domain: DomId): string {
    const known = this.#domainPaths.get(domain) ?? this.#askDomainPath(domain);
    this.#domainPaths.set(domain, known);
    return known;
  }

  #askDomainPath(domain: DomId): string {
    const about = { action: "find the path", path: `of domain ${domain}` };
    return decodeText(this.#connection.request({ type: XS.GET_DOMAIN_PATH, ...about, fields: [String(domain)] }));
  }

  isDomainIntroduced(domain: DomId): boolean {
    const about = { action: "find out whether xenstored knows", path: `domain ${domain}` };
    const answer = this.#connection.request({ type: XS.IS_DOMAIN_INTRODUCED, ...about, fields: [String(domain)] });
    return decodeText(answer) === "T";
  }

  /** Asking for it keeps the process alive until this connection is disposed or lost. */
  get lost(): Promise<string> {
    this.#dispatcher.start();
    return this.#connection.lost;
  }

  async answers(): Promise<void> {
    this.#dispatcher.start();
    const reason = await Promise.race([this.#connection.answers(), this.#connection.lost]);
    if (reason !== undefined) throw new XenstoreError(`Cannot reach xenstored: ${reason}`, "EDISCONNECTED", "");
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
    const about = { action: "use a transaction of", path: "xenstored" };
    const started = this.#connection.request({ type: XS.TRANSACTION_START, ...about, fields: [""] });
    const transaction = Number(decodeText(started));
    const end = (commit: "T" | "F"): StoreRequest => ({ type: XS.TRANSACTION_END, ...about, fields: [commit] });
    let value: T;
    try {
      value = body(new StoreOperations(this.#connection, transaction));
      this.#connection.settle();
    } catch (error) {
      this.#connection.forgetPosted();
      this.#connection.notify(end("F"), transaction);
      if (error instanceof XenstoreError && error.code === "EIO") return { committed: false, conflict: error };
      throw error;
    }
    try {
      this.#connection.request(end("T"), transaction);
      return { committed: true, value };
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "EAGAIN") return { committed: false, conflict: undefined };
      throw error;
    }
  }
}
