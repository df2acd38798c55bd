/**
 * The data plane alone, in a process of its own: rings whose both ends are on one thread (ring_loop.ts), one of them in
 * this thread, or several queues of a device at once, each in a Worker. ring.ts sends commands as JSON lines on standard
 * input and reads the answers from standard error; V8's --trace-gc goes to standard output.
 */

import { createBusyTime } from "../lib/dataplane/busy_time.ts";
import { RingLoop, unreachedLimits } from "./ring_loop.ts";
import type { RingAnswer, RingOrder } from "./ring_processes.ts";
import type { ThreadOrder } from "./ring_thread.ts";

const threads: Worker[] = [];
/** By segments. A process gets orders of one kind, with or without limits. */
const loops = new Map<number, RingLoop>();

/** Collects all garbage, which writes a line to the trace. Lines between two of these come from the loop. */
function collectGarbage(): void {
  (globalThis as unknown as { gc(): void }).gc();
}

function obey({ segments, requests, watchMemory, limited }: RingOrder): RingAnswer {
  const loop = loops.get(segments) ?? new RingLoop(segments, limited ? unreachedLimits() : {});
  loops.set(segments, loop);
  if (watchMemory) collectGarbage();
  const before = Deno.memoryUsage();
  const begin = performance.now();
  loop.run(requests);
  const ns = (performance.now() - begin) * 1e6;

  if (watchMemory) collectGarbage();
  const after = Deno.memoryUsage();
  return {
    ns,
    heapGrowthBytes: after.heapUsed - before.heapUsed,
    residentGrowthBytes: after.rss - before.rss,
  };
}

async function carryOut(order: RingOrder): Promise<RingAnswer> {
  return order.queues === 1 ? obey(order) : await together(order);
}

/** As many queues of one device as the order says, each on a thread of its own. */
async function together({ segments, requests, queues }: RingOrder): Promise<RingAnswer> {
  const busy = createBusyTime();
  while (threads.length < queues) {
    threads.push(new Worker(new URL("./ring_thread.ts", import.meta.url), { type: "module" }));
  }
  const run = async (count: number): Promise<void> => {
    await Promise.all(
      threads.slice(0, queues).map((thread) => answerOf(thread, { segments, requests: count, busy, queues })),
    );
  };
  await run(1); // opens the rings
  const begin = performance.now();
  await run(requests);
  return { ns: (performance.now() - begin) * 1e6, heapGrowthBytes: 0, residentGrowthBytes: 0 };
}

function answerOf(thread: Worker, order: ThreadOrder): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  thread.onmessage = () => resolve();
  thread.onerror = (event) => reject(new Error(event.message));
  thread.postMessage(order);
  return promise;
}

let rest = "";
for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + text).split("\n");
  rest = lines.pop()!;
  for (const line of lines) {
    Deno.stderr.writeSync(new TextEncoder().encode(`${JSON.stringify(await carryOut(JSON.parse(line)))}\n`));
  }
}
for (const thread of threads) thread.terminate();
