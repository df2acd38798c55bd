/**
 * What a process's Workers cost, as /proc tells: how often each was put to sleep and woken, and its processor time. It
 * must not know what the Workers do.
 */

/** Deno names the thread of a Worker so; the others are the runtime's. */
const WORKER_NAME = /^worker-/;
/** Units of processor time in /proc. */
const TICK_MS = 10;

/** One Worker's share so far. */
export interface WorkerUsage {
  /** Times that it slept, which is once for each time that something woke it. */
  readonly sleeps: number;
  readonly cpuMs: number;
}

/** By thread id, each Worker of the process that there is now. */
export function workerUsage(pid: number): Map<number, WorkerUsage> {
  const usage = new Map<number, WorkerUsage>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    const task = `/proc/${pid}/task/${name}`;
    try {
      if (!WORKER_NAME.test(Deno.readTextFileSync(`${task}/comm`))) continue;
      const sleeps = /^voluntary_ctxt_switches:\s+(\d+)/m.exec(Deno.readTextFileSync(`${task}/status`))![1];
      // The name in the second field may have spaces: count from behind it. utime and stime are fields 14 and 15.
      const fields = Deno.readTextFileSync(`${task}/stat`).split(") ").at(-1)!.split(" ");
      usage.set(Number(name), { sleeps: Number(sleeps), cpuMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // a thread ended meanwhile
    }
  }
  return usage;
}

/**
 * Waits for a stretch of so many milliseconds in which no Worker was woken more than once or used more than two ticks of
 * processor time. Throws Error, with what they did last, if none comes in time.
 */
export async function workersRest(pid: number, stretchMs = 3000, timeoutMs = 60_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  let before = workerUsage(pid);
  while (true) {
    await new Promise((resolve) => setTimeout(resolve, stretchMs));
    const after = workerUsage(pid);
    const spent = [...after].map(([thread, { sleeps, cpuMs }]) => {
      const { sleeps: sleptBefore, cpuMs: cpuBefore } = before.get(thread) ?? { sleeps: 0, cpuMs: 0 };
      return { thread, sleeps: sleeps - sleptBefore, cpuMs: cpuMs - cpuBefore };
    });
    if (spent.every(({ sleeps, cpuMs }) => sleeps <= 1 && cpuMs <= 2 * TICK_MS)) return;
    if (performance.now() > end) {
      throw new Error(`the Workers do not rest: in ${stretchMs} ms ${JSON.stringify(spent)}`);
    }
    before = after;
  }
}
