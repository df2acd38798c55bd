/**
 * A hypervisor from outside the project, on its public face alone: another one's, whose threads count how often they
 * open it and the guests' grant tables.
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
