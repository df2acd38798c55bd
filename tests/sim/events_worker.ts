/**
 * The other end of events_test.ts: a Worker that binds a port, then for each event copies a shared counter and notifies
 * in return, until the counter is negative. Posts "bound" and "over".
 */

/// <reference lib="deno.worker" />

import type { DomId, EvtchnPort, WakeToken } from "../../lib/hypervisor.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

/** What the Worker is started with. */
export interface EchoStart {
  readonly machine: SharedArrayBuffer;
  readonly domain: number;
  readonly remoteDomain: DomId;
  readonly remotePort: EvtchnPort;
  readonly token: WakeToken;
  /** Word 0 is written by the sender, word 1 by this Worker. */
  readonly counters: SharedArrayBuffer;
}

self.onmessage = ({ data }: MessageEvent<EchoStart>): void => {
  const platform = openSimulatedPlatform(data.machine, data.domain);
  using events = platform.openEventChannels(data.remoteDomain);
  using parker = platform.openParker(data.token);
  parker.watch(events);
  const port = events.bindInterdomain(data.remoteDomain, data.remotePort);
  self.postMessage("bound");
  const counters = new Int32Array(data.counters);
  const ports = new Uint32Array(4);
  while (Atomics.load(counters, 0) >= 0) {
    if (events.take(ports) === 0) {
      parker.park(-1);
      continue;
    }
    Atomics.store(counters, 1, Atomics.load(counters, 0));
    events.notify(port);
  }
  self.postMessage("over");
};
