/**
 * A connection to xenstored on which single calls fail. Each read, write, list, removal, watch, question about a domain
 * and commit is one call, in a transaction or outside.
 */

import { type DomId, type Xenstore, XenstoreError, type XenstoreOperations } from "../../lib/hypervisor.ts";

/** What is called, and on which node; a commit has no node, but what it wrote. */
export interface StoreCall {
  readonly what: "read" | "list" | "write" | "remove" | "watch" | "domain" | "commit";
  readonly path: string;
  /** What is written; of a commit all of it, as `path=value`. */
  readonly value?: string;
}

/** The errno that a call fails with; undefined lets it through. */
export type Judge = (call: StoreCall) => string | undefined;

/** The store, but calls for which the judge returns an errno fail before they have any effect. */
export function faultyStore(store: Xenstore, judge: Judge): Xenstore {
  const ask = (what: StoreCall["what"], path: string, value?: string): void => {
    const errno = judge({ what, path, ...(value !== undefined && { value }) });
    if (errno !== undefined) throw new XenstoreError(`Cannot ${what} ${path}: simulated`, errno, path);
  };
  const faulty = (operations: XenstoreOperations, written: string[]): XenstoreOperations => ({
    read: (path) => (ask("read", path), operations.read(path)),
    list: (path) => (ask("list", path), operations.list(path)),
    permissions: (path) => operations.permissions(path),
    setPermissions: (path, permissions) => operations.setPermissions(path, permissions),
    makeDirectory: (path) => operations.makeDirectory(path),
    remove: (path) => (ask("remove", path), operations.remove(path)),
    write: (path, value) => {
      ask("write", path, value);
      operations.write(path, value);
      written.push(`${path}=${value}`);
    },
  });
  return {
    ...faulty(store, []),
    transaction: (body) =>
      store.transaction((transaction) => {
        const written: string[] = [];
        const result = body(faulty(transaction, written));
        ask("commit", "", written.join(" "));
        return result;
      }),
    watch: (path) => (ask("watch", path), store.watch(path)),
    domainPath: (domain) => store.domainPath(domain),
    isDomainIntroduced: (domain: DomId) => (ask("domain", String(domain)), store.isDomainIntroduced(domain)),
    lost: store.lost,
    [Symbol.dispose]: () => store[Symbol.dispose](),
  };
}
