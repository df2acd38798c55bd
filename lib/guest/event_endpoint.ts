/**
 * Who holds a frontend's end of its event channel: this thread, or a Worker that drives the ring. It must not know
 * what events mean.
 */

import type { DomId, EventChannels, EvtchnPort, Platform } from "../hypervisor.ts";

/** Who holds the frontend's end of the event channels: the thread that drives the rings. */
export interface EventEndpoint {
  /** Makes a port that the backend may bind to; one for each ring. */
  bind(backend: DomId): EvtchnPort | Promise<EvtchnPort>;
  unbind(port: EvtchnPort): void | Promise<void>;
}

/** Event channels of the thread that the frontend itself runs in. */
export class ThreadEndpoint implements EventEndpoint, Disposable {
  readonly #platform: Platform;
  #events: EventChannels | undefined;
  #ports = 0;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** The handle, while any port is bound. */
  get events(): EventChannels | undefined {
    return this.#events;
  }

  bind(backend: DomId): EvtchnPort {
    this.#events ??= this.#platform.openEventChannels(backend);
    const port = this.#events.bindUnbound(backend);
    this.#ports++;
    return port;
  }

  unbind(port: EvtchnPort): void {
    this.#events?.unbind(port);
    if (--this.#ports === 0) this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#events?.[Symbol.dispose]();
    this.#events = undefined;
    this.#ports = 0;
  }
}
