/**
 * Writes what a log holds to its disk again, and flushes it: in a Worker of its own, since the disk may not answer. After
 * that the log has nothing that the disk could lose.
 */

import { XenblkError } from "../../errors.ts";
import type { ReplayAnswer, Replayed, ReplayOrder } from "./replay_order.ts";

/** How long a replay may take. The largest log is written in far less on any disk that answers. */
const LIMIT_MS = 60_000;

/**
 * Replays the log to a disk that no channel writes to. `name` is the disk's, for messages. Rejects with {@linkcode
 * XenblkError} if the disk reports an error or does not answer in time; then the log stays as it is.
 */
export async function replayLog(order: ReplayOrder, name: string, limitMs: number = LIMIT_MS): Promise<Replayed> {
  const worker = new Worker(new URL("./replay_worker.ts", import.meta.url), { type: "module", name: "write log" });
  const answer = Promise.withResolvers<ReplayAnswer>();
  const refuse = (failure: string): void => answer.resolve({ failure });
  worker.onmessage = ({ data }: MessageEvent<ReplayAnswer>): void => answer.resolve(data);
  worker.onerror = (event): void => {
    event.preventDefault();
    refuse(event.message);
  };
  const timer = setTimeout(() => refuse(`the disk has not completed it within ${limitMs / 1000} s`), limitMs);
  try {
    worker.postMessage(order);
    const result = await answer.promise;
    if ("replayed" in result) return result.replayed;
    throw new XenblkError(`Cannot write again to ${name} what its last flush did not cover: ${result.failure}`, {
      remedy: "check its storage; the log is kept, and is written again at the next attempt",
    });
  } finally {
    clearTimeout(timer);
    worker.terminate();
  }
}
