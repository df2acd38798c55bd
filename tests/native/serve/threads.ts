/**
 * What the Workers of a process cost, as /proc reports it: how often each of them went to sleep and was woken, and its
 * processor time.
 */

/** Deno's name for the thread of a Worker. The other threads belong to the runtime. */
const WORKER_NAME = /^worker-/;
/** Units of processor time in /proc. */
const TICK_MS = 10;

/** The usage of one Worker so far. */
export interface WorkerUsage {
  /** How often it went to sleep, which is how often something woke it. */
  readonly sleeps: number;
  readonly cpuMs: number;
}

/** The usage of each current Worker of the process, by thread id. */
export function workerUsage(pid: number): Map<number, WorkerUsage> {
  const usage = new Map<number, WorkerUsage>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    const task = `/proc/${pid}/task/${name}`;
    try {
      if (!WORKER_NAME.test(Deno.readTextFileSync(`${task}/comm`))) continue;
      const sleeps = /^voluntary_ctxt_switches:\s+(\d+)/m.exec(Deno.readTextFileSync(`${task}/status`))![1];
      // Fields are counted after the second one, because that is a name with spaces. utime and stime are 14 and 15.
      const fields = Deno.readTextFileSync(`${task}/stat`).split(") ").at(-1)!.split(" ");
      usage.set(Number(name), { sleeps: Number(sleeps), cpuMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // the thread has ended
    }
  }
  return usage;
}

/**
 * Waits for a period of `stretchMs` in which no Worker wakes more than once or uses more than two ticks of processor
 * time. Throws Error with the usage in the last period if none comes within `timeoutMs`.
 */
export async function workersIdle(pid: number, stretchMs = 3000, timeoutMs = 60_000): Promise<void> {
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
      throw new Error(`the Workers are not idle: in ${stretchMs} ms ${JSON.stringify(spent)}`);
    }
    before = after;
  }
}

/** Waits until the process has at most so many Workers: file threads end when they are idle. */
export async function workersAtMost(pid: number, count: number, timeoutMs = 30_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  for (let workers = workerUsage(pid).size; workers > count; workers = workerUsage(pid).size) {
    if (performance.now() > end) throw new Error(`there are ${workers} Workers, not ${count}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
