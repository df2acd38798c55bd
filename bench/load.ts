/**
 * How busy the machine is with other things, before the run and after it. On a busy machine absolute figures say little.
 */

/** The machine at one moment. */
export interface LoadReading {
  /** The load average over the last minute; the bench itself raises it. */
  readonly average: number;
  /** Processors that were in use, by anything. */
  readonly busyCpus: number;
}

/** The machine before and after a run, while nothing of the bench ran. */
export interface MachineLoad {
  readonly before: LoadReading;
  readonly after: LoadReading;
}

/** An idle machine has a load average below this before the run, and less in use than this, before and after. */
const IDLE_AVERAGE = 1;
const IDLE_CPUS = 0.1;
/** How long processors are watched. */
const WATCH_MS = 1000;
const TICKS_PER_SECOND = 100;

/** Watches the machine for a second. */
export async function readLoad(): Promise<LoadReading> {
  const [average] = Deno.loadavg();
  const [ticks, begun] = [busyTicks(), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
  const seconds = (performance.now() - begun) / 1000;
  return { average: average!, busyCpus: (busyTicks() - ticks) / TICKS_PER_SECOND / seconds };
}

/** Whether nothing else disturbed the run, as far as its two ends show. */
export function wasIdle({ before, after }: MachineLoad): boolean {
  return before.average < IDLE_AVERAGE && before.busyCpus < IDLE_CPUS && after.busyCpus < IDLE_CPUS;
}

/** One line: `Load average 0.17; in use by others: 0.01 CPUs before the run, 0.02 after it: the machine was idle`. */
export function loadLine(load: MachineLoad): string {
  const { before, after } = load;
  const inUse = `${before.busyCpus.toFixed(2)} CPUs before the run, ${after.busyCpus.toFixed(2)} after it`;
  const verdict = wasIdle(load) ? "the machine was idle" : "the machine was NOT idle, so figures are rough";
  return `Load average ${before.average.toFixed(2)}; in use by others: ${inUse}: ${verdict}`;
}

function busyTicks(): number {
  return parseBusyTicks(Deno.readTextFileSync("/proc/stat"));
}

/** Ticks in which the processors did something, of a /proc/stat: all but idle, and waiting for I/O. Guests count once. */
export function parseBusyTicks(stat: string): number {
  const [user, nice, system, , , irq, softirq, steal] = /^cpu +(.*)$/m.exec(stat)![1]!.split(" ").map(Number);
  return [user, nice, system, irq, softirq, steal].reduce<number>((sum, ticks) => sum + (ticks ?? 0), 0);
}
