/**
 * A hypervisor from outside the project, built on the public API alone. It wraps another platform and counts, in each
 * thread, how often the platform and the guests' grant tables are opened.
 */

import { openPlatform as open, type Platform, type PlatformDescriptor } from "../../../mod.ts";

/** Names the platform in front of another one. */
export interface CountingDescriptor extends PlatformDescriptor {
  readonly inner: PlatformDescriptor;
  /** Words: how often it was opened by its descriptor, and how many grant tables were opened. */
  readonly counters: SharedArrayBuffer;
}

/** The platform, counting, as this thread has it. */
export function counting(inner: Platform, counters: SharedArrayBuffer): Platform {
  const descriptor: CountingDescriptor = { module: import.meta.url, inner: inner.descriptor, counters };
  return {
    descriptor,
    memory: inner.memory,
    journals: inner.journals,
    openGrantTable: (guest) => {
      Atomics.add(new Int32Array(counters), 1, 1);
      return inner.openGrantTable(guest);
    },
    openEventChannels: (other) => inner.openEventChannels(other),
    openGrantShares: () => inner.openGrantShares(),
    createWakeToken: () => inner.createWakeToken(),
    openParker: (token, options) => inner.openParker(token, options),
    openWaker: (token) => inner.openWaker(token),
    now: () => inner.now(),
  };
}

/** See PlatformModule. */
export async function openPlatform({ inner, counters }: CountingDescriptor): Promise<Platform> {
  Atomics.add(new Int32Array(counters), 0, 1);
  return counting(await open(inner), counters);
}
