/**
 * What is wrong with a device at the moment: once in the log, in its status, and in the nodes where people and
 * toolstacks look.
 */

import type { Logger } from "../log.ts";
import type { DeviceNodes } from "./device_nodes.ts";

/** The errors of one device. */
export class DeviceError {
  readonly #log: Logger;
  #reported: string | undefined;
  #failure: string | undefined;

  /** `log` puts the device's label before each line. */
  constructor(log: Logger) {
    this.#log = log;
  }

  /** The last error that was not put right; undefined if there is none. */
  get message(): string | undefined {
    return this.#failure ?? this.#reported;
  }

  /**
   * Logs an error, unless it is the same as before, and writes it into the nodes. `opening`: the image could not be
   * opened. Throws if xenstore fails.
   */
  report(nodes: DeviceNodes, message: string, opening: boolean): void {
    if (message !== this.#reported) this.#log.error(message);
    this.#reported = message;
    nodes.reportError(message, opening);
  }

  /** The reported error is over. The caller removes it from the nodes. */
  clear(): void {
    this.#reported = undefined;
  }

  /** Logs, once, a failure that is retried. It is not written into the nodes: that may be what fails. */
  failed(message: string): void {
    if (message !== this.#failure) this.#log.error(message);
    this.#failure = message;
  }

  /** A retry succeeded. */
  recovered(): void {
    this.#failure = undefined;
  }
}
