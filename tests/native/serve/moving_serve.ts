/**
 * The command, with rings that move from reactor to reactor without a pause between two moves, until so many have moved as
 * MOVES says. Then it prints how many moved and stayed, and for how long nobody served them.
 */

import { main } from "../../../lib/cli/main.ts";
import { WorkerDataPlane } from "../../../lib/dataplane/worker_dataplane.ts";
import type { QueueHandle } from "../../../lib/dataplane/types.ts";
import { openNativePlatform } from "../../../native.ts";

const moves = Number(Deno.env.get("MOVES"));
const open = WorkerDataPlane.prototype.openQueue;
const pausesMs: number[] = [];
const stayed = new Map<string, number>();
let closed = false;

WorkerDataPlane.prototype.openQueue = async function (spec, signal): Promise<QueueHandle> {
  const queue = await open.call(this, spec, signal);
  void keepMoving(this, queue);
  return queue;
};

async function keepMoving(plane: WorkerDataPlane, queue: QueueHandle): Promise<void> {
  while (pausesMs.length < moves && !closed) {
    const result = await plane.move(queue, 1 - queue.reactor!);
    if (result.moved) {
      pausesMs.push(result.pausedMs);
      continue;
    }
    stayed.set(result.reason, (stayed.get(result.reason) ?? 0) + 1);
    await new Promise((resolve) => setTimeout(resolve, 2)); // it may be closed, or the other reactor is starting
  }
  if (closed || pausesMs.length < moves) return;
  closed = true;
  const sorted = pausesMs.toSorted((a, b) => a - b);
  const [median, worst] = [sorted[sorted.length >> 1]!, sorted.at(-1)!];
  const others = [...stayed].map(([reason, count]) => `${count}: ${reason}`).join(", ");
  const pauses = `paused for ${median.toFixed(2)} ms, ${worst.toFixed(2)} at most`;
  Deno.stderr.writeSync(new TextEncoder().encode(`moved ${moves} times, ${pauses}; stayed ${others}\n`));
}

const status = await main(Deno.args, { openNativePlatform }, "0.0.0");
closed = true;
Deno.exit(status);
