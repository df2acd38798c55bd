/**
 * Writes what a log holds to its disk again, and flushes it: in a Worker of its own, since the disk may not answer. After
 * that the log has nothing that the disk could lose.
 */

import { XenblkError } from "../../errors.ts";
import { endsWithin } from "../../within.ts";
import type { ReplayAnswer, Replayed, ReplayOrder } from "./replay_order.ts";

/** How long a replay may take. The largest log is written in far less on any disk that answers. */
const LIMIT_MS = 60_000;
/** How long the Worker may take to let go of a disk that has failed. */
const END_MS = 2_000;

/** The disk has reported an error. */
export class ReplayRefusedError extends XenblkError {}

/** The disk that a log is replayed to. */
export interface ReplayTarget {
  /** For messages: `image qcow2:/path`. */
  readonly name: string;
  /** Resolves with the reason if the disk is lost: it then completes nothing any more. */
  readonly lost: Promise<string>;
  /** Makes everything that waits for the disk complete with an error, so that the Worker lets go of it. */
  fail(): void;
}

/**
 * Replays the log to a disk that no channel writes to. Rejects with {@linkcode ReplayRefusedError} if the disk reports an
 * error, and with {@linkcode XenblkError} if it is lost or does not answer in time; then it has failed. In any case the log
 * stays as it is.
 */
export async function replayLog(
  order: ReplayOrder,
  { name, lost, fail }: ReplayTarget,
  limitMs: number = LIMIT_MS,
): Promise<Replayed> {
  const worker = new Worker(new URL("./replay_worker.ts", import.meta.url), { type: "module", name: "write log" });
  const answer = Promise.withResolvers<ReplayAnswer>();
  worker.onmessage = ({ data }: MessageEvent<ReplayAnswer>): void => answer.resolve(data);
  worker.onerror = (event): void => {
    event.preventDefault();
    answer.resolve({ failure: event.message });
  };
  const late = Promise.withResolvers<string>();
  const timer = setTimeout(() => late.resolve(`the disk has not completed it within ${limitMs / 1000} s`), limitMs);
  const silence = Promise.race([lost, late.promise]).then((failure) => ({ failure, isSilent: true }));
  try {
    worker.postMessage(order);
    const result = await Promise.race([answer.promise, silence]);
    if ("replayed" in result) return result.replayed;
    const isSilent = "isSilent" in result;
    if (isSilent) {
      fail();
      await endsWithin(answer.promise, END_MS);
    }
    throw new (isSilent ? XenblkError : ReplayRefusedError)(
      `Cannot write again to ${name} what its last flush did not cover: ${result.failure}`,
      {
        remedy: "check its storage; the log is kept, and is written again at the next attempt",
      },
    );
  } finally {
    clearTimeout(timer);
    worker.terminate();
  }
}
