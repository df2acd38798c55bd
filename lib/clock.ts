/**
 * The control plane's time: a monotonic clock and a sleep that a signal can end early. Tests and the simulation bring a
 * clock of their own. The data plane parks instead (hypervisor.ts).
 */

/** A monotonic clock, in milliseconds. */
export interface Clock {
  /** Milliseconds since some fixed moment. */
  now(): number;
  /** Resolves after `ms`, or as soon as the signal aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** A thread's own clock begins when the thread does. */
const THREAD_BEGAN_MS = performance.timeOrigin;

/** Milliseconds of a monotonic clock that the threads of this process share, but for steps of the host's clock. */
export function sharedNow(): number {
  return THREAD_BEGAN_MS + performance.now();
}

/** This process's clock. */
export const SYSTEM_CLOCK: Clock = {
  now: () => performance.now(),
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      signal?.addEventListener("abort", end, { once: true });
      // Deno may run other code while it loads its timers at the first setTimeout.
      if (signal?.aborted) end();
    });
  },
};
