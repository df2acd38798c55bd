/**
 * The control plane's time: a monotonic clock and a sleep that can be cut short. Injected, so that a test or a
 * simulation owns time. The data plane parks instead (hypervisor.ts); wall-clock time is nowhere needed.
 */

/** Milliseconds that only go forward, and waiting for them. */
export interface Clock {
  /** Milliseconds since some fixed moment. */
  now(): number;
  /** Resolves after `ms`, or as soon as the signal aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
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
