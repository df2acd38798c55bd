/**
 * What the backend and the toolstack side both do with xenstore: recognizing a lost connection, retrying transactions
 * that conflict with other writers, and removing nodes with the directories that become empty.
 */

import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import { XenblkError } from "./errors.ts";
import { XenstoreError, type XenstoreOperations } from "./hypervisor.ts";

/** Tries of a transaction that follow one another at once; then it throws EAGAIN. */
export const MOST_TRANSACTION_TRIES = 5;

/** The pauses of {@linkcode retryConflicts}: from the first to the longest, each twice as long, and all together. */
const FIRST_PAUSE_MS = 5;
const LONGEST_PAUSE_MS = 80;
const RETRIES_MS = 10_000;

/** What to do if xenstored is gone or does not answer. */
export const REACH_XENSTORED = "check that xenstored runs and is not stopped (ps -C xenstored), then try again";

/** What to do about an error of xenstored, by its code. */
const REMEDIES: Readonly<Record<string, string>> = {
  EACCES: "run it in dom0, or in the domain that the node belongs to",
  EPERM: "run it in dom0",
  ENOSPC: "remove nodes that this domain no longer needs, or raise its quota (options of xenstored)",
  E2BIG: "remove what this domain no longer needs, or raise its quota (options of xenstored)",
  EAGAIN: "try again, and see with `xenstore-watch` who keeps writing to these nodes",
  EINVAL: "report this as a defect",
  EDISCONNECTED: REACH_XENSTORED,
};

/** The same failure with what to do about it, as a command or a program reports it. */
export function explainStoreError(error: XenstoreError): XenblkError {
  const remedy = REMEDIES[error.code] ?? "see the log of xenstored";
  return new XenblkError(error.message, { kind: "hypervisor", remedy, cause: error });
}

/** How conflicts are retried. */
export interface RetryOptions {
  /** Aborting it ends the retries; then the promise rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Default: the clock of this process. */
  readonly clock?: Clock;
}

/**
 * The result of `act`, which uses one transaction. While it throws XenstoreError EAGAIN, because others keep writing to
 * the same nodes, it is called again after a pause, for ten seconds at most. The pauses block no thread and have random
 * lengths, so that two who disturb each other part.
 */
export async function retryConflicts<T>(act: () => T, options: RetryOptions = {}): Promise<T> {
  const { signal, clock = SYSTEM_CLOCK } = options;
  const endMs = clock.now() + RETRIES_MS;
  for (let pauseMs = FIRST_PAUSE_MS;; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    try {
      return act();
    } catch (error) {
      const conflict = error instanceof XenstoreError && error.code === "EAGAIN";
      if (!conflict || clock.now() >= endMs) throw error;
      signal?.throwIfAborted();
      await clock.sleep(pauseMs * (0.5 + Math.random()), signal);
    }
  }
}

/**
 * The values of many nodes, read in their order, with one wait for all where the store can do that. In place of a value
 * that cannot be read, as a guest's node that it hides, there is the error.
 */
export function tryReadAll(
  store: XenstoreOperations,
  paths: readonly string[],
): (string | undefined | XenstoreError)[] {
  if (store.readAll !== undefined) return store.readAll(paths);
  return paths.map((path) => {
    try {
      return store.read(path);
    } catch (error) {
      if (error instanceof XenstoreError) return error;
      throw error;
    }
  });
}

/** The same; throws the first error. */
export function readAll(store: XenstoreOperations, paths: readonly string[]): (string | undefined)[] {
  const values = tryReadAll(store, paths);
  return values.map((value) => {
    if (value instanceof XenstoreError) throw value;
    return value;
  });
}

/**
 * Reads nodes below a directory: those that are named at once, others when they are asked for. A node that cannot be read
 * throws its error when it is asked for.
 */
export function readerOf(
  store: XenstoreOperations,
  directory: string,
  names: readonly string[],
): (name: string) => string | undefined {
  const values = tryReadAll(store, names.map((name) => `${directory}/${name}`));
  const known = new Map(names.map((name, index) => [name, values[index]]));
  return (name) => {
    if (!known.has(name)) return store.read(`${directory}/${name}`);
    const value = known.get(name);
    if (value instanceof XenstoreError) throw value;
    return value;
  };
}

/** Whether an error says that the connection to xenstored is lost. */
export function isDisconnection(error: unknown): boolean {
  return error instanceof XenstoreError && error.code === "EDISCONNECTED";
}

/** Removes a node and all below it, then each of its parents below `root` that has no child left. */
export function removeWithEmptyParents(store: XenstoreOperations, path: string, root: string): void {
  store.remove(path);
  for (let parent = parentOf(path); parent.length > root.length; parent = parentOf(parent)) {
    const children = store.list(parent);
    if (children === undefined) continue;
    if (children.length > 0) return;
    store.remove(parent);
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}
