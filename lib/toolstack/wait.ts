/**
 * Waits for a condition on xenstore nodes, with a time limit and an abort signal.
 * It checks the condition when a watch reports a change.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import { XenblkError } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import { isDisconnection, REACH_XENSTORED } from "../xenstore.ts";

/** How long to wait, and how to end the wait early. */
export interface WaitOptions {
  /** The time limit in milliseconds. */
  readonly timeoutMs: number;
  /** Aborting it ends the wait as the timeout does. */
  readonly signal?: AbortSignal;
  /** The clock that measures the time. Default: the clock of this process. */
  readonly clock?: Clock;
}

/**
 * Calls `look` at once, and again whenever a node at or below one of the paths changes, until it returns a value.
 * Resolves with undefined after the timeout or the signal. Rejects with what `look` throws, or with
 * {@linkcode XenblkError} when the connection to xenstored is lost.
 */
export async function waitFor<T>(
  store: Xenstore,
  paths: readonly string[],
  look: () => T | undefined,
  options: WaitOptions,
): Promise<T | undefined> {
  try {
    return await waitOn(store, paths, look, options);
  } catch (error) {
    throw isDisconnection(error) ? lost(error) : error;
  }
}

async function waitOn<T>(
  store: Xenstore,
  paths: readonly string[],
  look: () => T | undefined,
  { timeoutMs, signal, clock = SYSTEM_CLOCK }: WaitOptions,
): Promise<T | undefined> {
  using watches = new DisposableStack();
  const changes = paths.map((path) => watches.use(store.watch(path))[Symbol.asyncIterator]());
  const over = new AbortController();
  const end = signal === undefined ? over.signal : AbortSignal.any([over.signal, signal]);
  const timeout = clock.sleep(timeoutMs, end).then(() => "timeout" as const);
  const next = changes.map((change) => change.next());
  try {
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      const event = await Promise.race([timeout, ...next.map((result, i) => result.then(({ done }) => ({ done, i })))]);
      if (event === "timeout") return undefined;
      if (event.done) throw lost();
      next[event.i] = changes[event.i]!.next();
    }
  } finally {
    over.abort();
  }
}

function lost(cause?: unknown): XenblkError {
  return new XenblkError("Cannot wait any longer: the connection to xenstored is lost", {
    kind: "hypervisor",
    remedy: REACH_XENSTORED,
    cause,
  });
}
