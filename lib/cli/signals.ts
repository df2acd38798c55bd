/**
 * INT, TERM and HUP: the first signal asks the command to finish the requests in flight and end; the second ends the process
 * at once.
 */

import { XenblkError } from "../errors.ts";

/** The signals that end a command, each with the exit status. */
const STATUS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** A signal that asks the command to end. */
export type EndSignal = keyof typeof STATUS;

/** The exit status of a command that the signal ended: 128 and the signal's number, as a shell reports it. */
export function signalStatus(signal: EndSignal): number {
  return STATUS[signal];
}

/** A signal ended the work before there was a result. */
export class EndedBySignal extends XenblkError {
  readonly #signal: EndSignal;

  /** `what` is what could not be done: `Cannot convert a.img`. */
  constructor(what: string, signal: EndSignal) {
    super(`${what}: ended by ${signal}`);
    this.#signal = signal;
  }

  override get exitStatus(): number {
    return signalStatus(this.#signal);
  }
}

/**
 * Listens for INT, TERM and HUP; disposing restores the default actions. A program that nohup(1) started goes on
 * ignoring HUP.
 */
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
    // Without a listener Deno would end the process: it listens for HUP itself once there are listeners.
    const ignored = ignoresHangUp() ? "SIGHUP" : undefined;
    this.#listeners = (Object.keys(STATUS) as EndSignal[]).map((signal) => [
      signal,
      signal === ignored ? (): void => {} : (): void => this.#take(signal, resolve),
    ]);
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

const ALL_PERMISSIONS = ["read", "write", "net", "run", "env", "sys", "ffi"] as const;

/** Whether this process was started with HUP ignored. Deno reads that from /proc only with all permissions. */
function ignoresHangUp(): boolean {
  if (!ALL_PERMISSIONS.every((name) => Deno.permissions.querySync({ name }).state === "granted")) return false;
  try {
    const mask = /^SigIgn:\s+([0-9a-f]+)$/m.exec(Deno.readTextFileSync("/proc/self/status"))?.[1] ?? "0";
    return (BigInt(`0x${mask}`) & 1n) !== 0n;
  } catch {
    return false;
  }
}
