/**
 * INT, TERM and HUP: the first signal asks the command to finish the requests in flight and end; the second ends the process
 * at once.
 */

/** The signals that end a command, each with the exit status. */
const STATUS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** A signal that asks the command to end. */
export type EndSignal = keyof typeof STATUS;

/** Listens for INT, TERM and HUP; disposing restores the default actions. */
export class DrainSignals implements Disposable {
  readonly #controller = new AbortController();
  readonly #force: (status: number) => void;
  readonly #listeners: readonly (readonly [EndSignal, () => void])[];
  #received: EndSignal | undefined;

  /** Resolves with the first signal. */
  readonly drain: Promise<EndSignal>;

  /** `force` ends the process; tests pass their own. */
  constructor(force: (status: number) => void = (status) => Deno.exit(status)) {
    this.#force = force;
    const { promise, resolve } = Promise.withResolvers<EndSignal>();
    this.drain = promise;
    this.#listeners = (Object.keys(STATUS) as EndSignal[]).map((signal) => [signal, () => this.#take(signal, resolve)]);
    for (const [signal, listener] of this.#listeners) Deno.addSignalListener(signal, listener);
  }

  /** Aborts with the first signal; the reason is an AbortError that names it. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The first signal; undefined if none came. */
  get received(): EndSignal | undefined {
    return this.#received;
  }

  /** Restores the default actions of INT, TERM and HUP. */
  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) Deno.removeSignalListener(signal, listener);
  }

  #take(signal: EndSignal, resolve: (signal: EndSignal) => void): void {
    if (this.#received !== undefined) {
      this.#force(STATUS[signal]);
      return;
    }
    this.#received = signal;
    this.#controller.abort(new DOMException(`ended by ${signal}`, "AbortError"));
    resolve(signal);
  }
}
