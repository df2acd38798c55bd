/**
 * The thread that holds a frontend's event channels: an event can be received only by the thread that bound its port,
 * so a ring that a Worker drives has its port bound by that Worker.
 */

import type { DomId, EventChannels, EvtchnPort, Platform } from "../hypervisor.ts";

/** Binds a frontend's ports in the thread that drives its rings. */
export interface EventEndpoint {
  /** Allocates an unbound port for the backend to bind to; one for each ring. */
  bind(backend: DomId): EvtchnPort | Promise<EvtchnPort>;
  unbind(port: EvtchnPort): void | Promise<void>;
}

/** Binds ports in the calling thread. */
export class ThreadEndpoint implements EventEndpoint, Disposable {
  readonly #platform: Platform;
  #events: EventChannels | undefined;
  #ports = 0;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** The open handle; undefined while no port is bound. */
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
