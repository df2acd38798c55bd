/**
 * Tells systemd how a serving process is (sd_notify(3)): that it serves, what it serves, that it is alive, and that it is
 * ending. Any service manager with the same protocol will do.
 */

import type { DeviceReport } from "../backend/status.ts";
import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import type { NativePlatform } from "../host_platform.ts";
import { type Logger, printable } from "../log.ts";
import type { Service } from "../service.ts";
import type { ServiceManager } from "./environment.ts";

/** What is told, and to whom. */
export interface NoticeOptions {
  readonly manager: ServiceManager;
  readonly send: NativePlatform["sendDatagram"];
  readonly service: Pick<Service, "silentMs"> & {
    readonly devices: Pick<Service["devices"], "discovered" | "reports">;
  };
  /** The backend kind. */
  readonly kind: string;
  /** Aborts when the process begins to end. */
  readonly ending: AbortSignal;
  /** How long its guests may then take to close their disks. */
  readonly closingMs: number;
  /** Names of guests, as far as they are known. */
  readonly guests: ReadonlyMap<number, string>;
  readonly logger: Logger;
  /** Absent: this process's. */
  readonly clock?: Clock;
}

/** How often the status is compared with the one that was sent last, and a message that found no room is repeated. */
const LOOK_MS = 5_000;
/** While the process ends, it asks this often for so much more time. */
const ENDING_LOOK_MS = 2_000;
const MORE_TIME_MS = 10_000;
/** It does not ask any more after so long, in addition to the guests' time: then it hangs. */
const MOST_ENDING_MS = 30_000;
/** Signs of life in the time in which one is due. */
const SIGNS_OF_LIFE = 4;

/** Sends messages from its creation until it is disposed. */
export class Notices implements AsyncDisposable {
  readonly #options: NoticeOptions;
  readonly #clock: Clock;
  readonly #over = new AbortController();
  readonly #running: Promise<void>;
  /** Interrupts the pause between two looks. */
  #wake = new AbortController();
  #isReady = false;
  #endingSinceMs: number | undefined;
  /** The last state and status that arrived. */
  #told = "";
  #saidSilent = false;

  constructor(options: NoticeOptions) {
    this.#options = options;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    const wake = (): void => this.#wake.abort();
    this.#over.signal.addEventListener("abort", wake);
    options.ending.addEventListener("abort", wake);
    void options.service.devices.discovered.then(() => {
      this.#isReady = true;
      wake();
    });
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    const { ending, manager } = this.#options;
    while (!this.#over.signal.aborted) {
      this.#wake = new AbortController();
      if (ending.aborted) this.#endingSinceMs ??= this.#clock.now();
      this.#tellState();
      this.#tellAlive();
      const isEnding = this.#endingSinceMs !== undefined;
      const pauseMs = Math.min(
        isEnding ? ENDING_LOOK_MS : LOOK_MS,
        (manager.watchdogMs ?? Infinity) / SIGNS_OF_LIFE,
      );
      await this.#clock.sleep(pauseMs, this.#wake.signal);
    }
  }

  #tellState(): void {
    const { service, kind, guests } = this.#options;
    if (this.#endingSinceMs !== undefined) return this.#tellEnding(this.#endingSinceMs);
    const status = statusLine(service.devices.reports(), kind, guests);
    const message = this.#isReady ? `READY=1\nSTATUS=${status}` : "STATUS=Looking for disks";
    if (message !== this.#told && this.#send(message)) this.#told = message;
  }

  #tellEnding(sinceMs: number): void {
    const { closingMs } = this.#options;
    const message = "STOPPING=1\nSTATUS=Finishing the requests in flight";
    if (message !== this.#told && this.#send(message)) this.#told = message;
    if (this.#clock.now() - sinceMs < MOST_ENDING_MS + closingMs) {
      this.#send(`EXTEND_TIMEOUT_USEC=${MORE_TIME_MS * 1000}`);
    }
  }

  /** The main thread runs, or this would not. */
  #tellAlive(): void {
    const { manager: { watchdogMs }, service, logger } = this.#options;
    if (watchdogMs === undefined) return;
    const silentMs = service.silentMs();
    const isSilent = silentMs > watchdogMs / 2;
    if (!isSilent) this.#send("WATCHDOG=1");
    else if (!this.#saidSilent) {
      const seconds = (silentMs / 1000).toFixed(1);
      logger.error(`a thread that serves rings has not answered for ${seconds} s: the service manager will end us`);
    }
    this.#saidSilent = isSilent;
  }

  /** False if it did not arrive. */
  #send(message: string): boolean {
    const { manager, send } = this.#options;
    return send(manager.socket, new TextEncoder().encode(message)) === 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#running;
  }
}

/** One line about all devices, as `systemctl status` shows it. */
export function statusLine(
  devices: readonly DeviceReport[],
  kind: string,
  guests: ReadonlyMap<number, string> = new Map(),
): string {
  const plural = devices.length === 1 ? "disk" : "disks";
  const connected = devices.filter((device) => device.connected).length;
  const failed = devices.filter(({ error }) => error !== undefined);
  const line = `${devices.length} ${plural} of kind ${kind}, ${connected} connected`;
  const [first] = failed;
  if (first === undefined) return line;
  const guest = guests.get(first.domain) ?? `domain ${first.domain}`;
  return printable(`${line}, ${failed.length} with an error: ${first.name} of ${guest}: ${first.error}`);
}
