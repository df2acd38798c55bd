/**
 * Shared by the scenarios of the FFI layer: their type, and a way to act as one domain or another in one process.
 */

import { openNativePlatform } from "../../ffi/platform.ts";
import type { DomId, EvtchnPort, GrantRef } from "../../lib/hypervisor.ts";

/** A scenario. It throws if its name is not true. */
export type Scenario = (...args: string[]) => void | Promise<void>;

/** Scenarios by name. */
export type Scenarios = Readonly<Record<string, Scenario>>;

/** The platform under test. */
export const platform = openNativePlatform();

/** The backend's domain and two guests. */
export const [DOM0, GUEST, OTHER_GUEST] = [0, 1, 2] as readonly number[] as readonly [DomId, DomId, DomId];

/** Opens a handle as `domain`: the stand-in libraries read the domain from the environment when they open a handle. */
export function actingAs<T>(domain: DomId, open: () => T): T {
  Deno.env.set("XENBLK_FAKE_DOMID", String(domain));
  try {
    return open();
  } finally {
    Deno.env.set("XENBLK_FAKE_DOMID", "0");
  }
}

/** A port number as the other side published it. */
export function portOf(value: number): EvtchnPort {
  return value as EvtchnPort;
}

/** A grant reference as the other side published it. */
export function refOf(value: number): GrantRef {
  return value as GrantRef;
}
