/**
 * The two ends of a ring in two Workers over shared memory. This tests what a single thread cannot show: the order in
 * which one processor sees the writes of another. Each end sleeps whenever the ring's rules allow it, and is woken only
 * when the rules demand it, so a lost wake-up fails the test. Every field of every request and response is checked.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { assertEquals, assertGreater } from "@std/assert";
import { type AbiName } from "../../lib/blkif/abi.ts";
import { CONTROL, type StressReport, type StressStart } from "./ring_stress_worker.ts";

const REQUESTS = 500_000;
/** Run at least, however long it takes: the indices must wrap, and each end must sleep often. */
const FEWEST_REQUESTS = 10_000;
const DURATION_MS = 1000;
/** Longer than a Worker ever waits on a busy machine. */
const PATIENCE_MS = 15_000;

/** A fresh ring of shared memory whose indices are about to wrap. */
function freshRing(pages: number): SharedArrayBuffer {
  const ring = new SharedArrayBuffer(pages * PAGE_BYTES);
  const start = -1000;
  new Int32Array(ring, 0, 4).set([start, start + 1, start, start + 1]);
  return ring;
}

/** Runs both ends and returns their reports. */
async function stress(abi: AbiName, pages: number, seed: number): Promise<Record<StressStart["role"], StressReport>> {
  const ring = freshRing(pages);
  const control = new SharedArrayBuffer(CONTROL.words * 4);
  const run = (role: StressStart["role"]): { worker: Worker; report: Promise<StressReport> } => {
    const worker = new Worker(new URL("./ring_stress_worker.ts", import.meta.url), { type: "module", name: role });
    const report = new Promise<StressReport>((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<StressReport>): void => resolve(data);
      worker.onerror = (event): void => reject(new Error(event.message));
    });
    const load = { requests: REQUESTS, fewest: FEWEST_REQUESTS, durationMs: DURATION_MS, patienceMs: PATIENCE_MS };
    worker.postMessage({ role, abi, ring, control, seed: seed + role.length, ...load } satisfies StressStart);
    return { worker, report };
  };
  const [frontend, backend] = [run("frontend"), run("backend")];
  try {
    return { frontend: await frontend.report, backend: await backend.report };
  } finally {
    frontend.worker.terminate();
    backend.worker.terminate();
  }
}

for (const [abi, pages] of [["x86_64-abi", 1], ["x86_32-abi", 1], ["x86_64-abi", 4]] as const) {
  Deno.test(`two Workers on one ring lose no request, no response and no wake-up: ${abi}, ${pages} pages`, async () => {
    const seed = Date.now() % 100_000;
    const { frontend, backend } = await stress(abi, pages, seed);
    assertEquals([frontend.failure, backend.failure], [undefined, undefined], `seed ${seed}`);
    assertEquals(backend.requests, frontend.requests);
    assertGreater(frontend.requests, 2000, "the indices wrapped");
    for (const { sleeps, notified, saved } of [frontend, backend]) {
      assertGreater(Math.min(sleeps, notified, saved), 50);
    }
  });
}
