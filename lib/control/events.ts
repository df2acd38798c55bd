/**
 * What happens to the devices of a process, for those who follow it: compares each device that may have changed with how
 * it was seen before. Without followers it costs nothing.
 */

import type { BackendKind } from "../backend/kind.ts";
import type { DeviceReport } from "../backend/status.ts";
import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import type { ControlEvent } from "./protocol.ts";

/** Changes that follow one another closely are one event. */
const SETTLE_MS = 20;

/** The devices that are watched. */
export type WatchedDevices = Pick<BackendKind, "reports" | "reportOf" | "onChange">;

/** Takes events. */
export type TakeEvent = (event: ControlEvent) => void;

/** The events of the devices of one process. */
export class DeviceEvents implements Disposable {
  readonly #devices: WatchedDevices;
  readonly #clock: Clock;
  readonly #listeners = new Set<TakeEvent>();
  readonly #known = new Map<string, DeviceReport>();
  readonly #changed = new Set<string>();
  readonly #over = new AbortController();
  #watch: Disposable | undefined;
  #looking: Promise<void> | undefined;

  /** `clock`: how long changes may follow one another. */
  constructor(devices: WatchedDevices, clock: Clock = SYSTEM_CLOCK) {
    this.#devices = devices;
    this.#clock = clock;
  }

  /** Calls the listener with each event from now on, until the result is disposed. */
  follow(listener: TakeEvent): Disposable {
    if (this.#listeners.size === 0) this.#begin();
    const own: TakeEvent = (event) => listener(event);
    this.#listeners.add(own);
    return {
      [Symbol.dispose]: (): void => {
        this.#listeners.delete(own);
        if (this.#listeners.size === 0) this.#end();
      },
    };
  }

  /** Ends the looks. */
  [Symbol.dispose](): void {
    this.#over.abort();
    this.#listeners.clear();
    this.#end();
  }

  #begin(): void {
    for (const report of this.#devices.reports()) this.#known.set(report.backendPath, report);
    this.#watch = this.#devices.onChange((path) => {
      this.#changed.add(path);
      this.#looking ??= this.#lookSoon();
    });
  }

  #end(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    this.#known.clear();
    this.#changed.clear();
  }

  async #lookSoon(): Promise<void> {
    await this.#clock.sleep(SETTLE_MS, this.#over.signal);
    this.#looking = undefined;
    for (const path of this.#changed) this.#look(path);
    this.#changed.clear();
  }

  #look(path: string): void {
    const before = this.#known.get(path);
    const now = this.#devices.reportOf(path);
    if (now === undefined) this.#known.delete(path);
    else this.#known.set(path, now);
    for (const event of changes(before, now)) for (const listener of this.#listeners) listener(event);
  }
}

/** What has changed about a device, in the order in which it is told. Undefined: there is no such device. */
export function changes(before: DeviceReport | undefined, now: DeviceReport | undefined): ControlEvent[] {
  const time = new Date().toISOString();
  const device = (now ?? before)?.label;
  if (device === undefined) return [];
  const events: ControlEvent[] = [];
  if (now === undefined) {
    if (before?.connected) events.push({ event: "disconnected", time, device });
    return [...events, { event: "removed", time, device }];
  }
  if (before === undefined) events.push({ event: "added", time, device, report: now });
  const { backendState, frontendState, error } = now;
  if (before !== undefined && (before.backendState !== backendState || before.frontendState !== frontendState)) {
    events.push({ event: "state", time, device, backendState, frontendState });
  }
  const was = before ?? { connected: false, latched: false, error: undefined };
  if (was.connected !== now.connected) {
    events.push({ event: now.connected ? "connected" : "disconnected", time, device });
  }
  events.push(...moves(device, time, before?.reactors, now.reactors));
  if (was.error !== error) {
    events.push(
      error === undefined ? { event: "error-cleared", time, device } : { event: "error", time, device, error },
    );
  }
  if (was.latched !== now.latched) events.push({ event: now.latched ? "latched" : "latch-cleared", time, device });
  return events;
}

/** Each ring that another reactor serves than before. Rings that were opened anew have not moved. */
function moves(
  device: string,
  time: string,
  before: readonly number[] | undefined,
  now: readonly number[] | undefined,
): ControlEvent[] {
  if (before === undefined || before.length !== now?.length) return [];
  return before.flatMap((from, queue) => {
    const to = now[queue]!;
    return to === from ? [] : [{ event: "moved" as const, time, device, queue, from, to }];
  });
}
