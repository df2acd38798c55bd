/**
 * Has the data plane look at the load of its reactors again and again, and says in the log what it moves.
 */

import type { Clock } from "../clock.ts";
import { errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import type { WorkerDataPlane } from "./worker_dataplane.ts";

/** How often the load of the reactors is looked at: at most one ring moves each time. */
const LOAD_LOOK_MS = 1_000;

/** Looks until it is disposed. Who listens to the log learns of each move, and of the first look that fails. */
export function balanceLoad(dataPlane: Pick<WorkerDataPlane, "balance">, clock: Clock, logger: Logger): Disposable {
  const end = new AbortController();
  let hasFailed = false;
  const look = async (): Promise<void> => {
    try {
      const move = await dataPlane.balance();
      if (move === undefined) return;
      const { label, from, to } = move;
      const what = `${label}: reactor ${from} is full, ${to} has room`;
      logger.debug(
        move.moved ? `${what}: moved, paused for ${move.pausedMs.toFixed(1)} ms` : `${what}, but: ${move.reason}`,
      );
    } catch (error) {
      // The disks are served wherever they are: a fault here must not end the process.
      if (!hasFailed) logger.warning(`cannot look at the load of the threads that serve rings: ${errorText(error)}`);
      hasFailed = true;
    }
  };
  const lookOn = async (): Promise<void> => {
    for (;;) {
      await clock.sleep(LOAD_LOOK_MS, end.signal);
      if (end.signal.aborted) return;
      await look();
    }
  };
  void lookOn();
  return { [Symbol.dispose]: () => end.abort() };
}
