/**
 * What is wrong with a device at the moment: once in the log, in its status, and in the nodes where people and
 * toolstacks look.
 */

import type { Logger } from "../log.ts";
import type { DeviceNodes } from "./device_nodes.ts";

/**
 * What an error is about: each topic has one error at a time.
 *
 * - `latch`: a flush failed; over when the disk is attached again.
 * - `storage`: requests of the guest are not answered; over when they are.
 * - `attempt`: opening or connecting failed, or waits; over when it succeeds.
 * - `disc`: the disc that the toolstack names cannot be opened, and the drive is empty; over when it is changed again.
 * - `change`: the toolstack changed what cannot be changed now; over when the change is taken back or carried out.
 * - `hidden`: the guest keeps its nodes from us.
 */
export type ErrorTopic = "latch" | "storage" | "attempt" | "disc" | "change" | "hidden";

/** In the order in which they are shown. */
const TOPICS: readonly ErrorTopic[] = ["latch", "storage", "attempt", "disc", "change", "hidden"];

/** The errors of one device. */
export class DeviceError {
  readonly #log: Logger;
  readonly #alarms: Logger;
  readonly #reported = new Map<ErrorTopic, string>();
  #failure: string | undefined;

  /** Both put the device's label before each line; `alarms` is not limited, for what happens once in an attachment. */
  constructor(log: Logger, alarms: Logger) {
    this.#log = log;
    this.#alarms = alarms;
  }

  /** What was not put right, most urgent first; undefined if nothing is wrong. */
  get message(): string | undefined {
    return this.#failure ?? this.text;
  }

  /** The same as the nodes say it: without a failure that is retried. */
  get text(): string | undefined {
    const all = TOPICS.flatMap((topic) => this.#reported.get(topic) ?? []);
    return all.length === 0 ? undefined : all.join(". Also: ");
  }

  /** The error of a topic. */
  about(topic: ErrorTopic): string | undefined {
    return this.#reported.get(topic);
  }

  /**
   * Logs an error, unless it is the topic's already, and writes it into the nodes. `opening`: the image could not be
   * opened, and the toolstack is told. Throws if xenstore fails.
   */
  report(nodes: DeviceNodes, topic: ErrorTopic, message: string, opening = false): void {
    if (message !== this.#reported.get(topic)) (topic === "latch" ? this.#alarms : this.#log).error(message);
    this.#reported.set(topic, message);
    nodes.showError(this.text, opening);
  }

  /** The topic's error is over. Returns what is left for the caller to write into the nodes. */
  clear(topic: ErrorTopic): string | undefined {
    this.#reported.delete(topic);
    return this.text;
  }

  /** The topic's error, if there is one, is over: the nodes say so too. Throws if xenstore fails. */
  retract(nodes: DeviceNodes, topic: ErrorTopic): void {
    if (this.#reported.delete(topic)) nodes.showError(this.text);
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
