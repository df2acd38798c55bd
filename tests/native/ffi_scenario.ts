/**
 * What the scenarios of the FFI layer share: their type, and acting as one domain or another within one process.
 */

import { openNativePlatform } from "../../ffi/platform.ts";
import type { DomId, EvtchnPort, GrantRef } from "../../lib/hypervisor.ts";

/** A scenario: throws if what its name says is not so. */
export type Scenario = (...args: string[]) => void | Promise<void>;

/** Scenarios by what they show. */
export type Scenarios = Readonly<Record<string, Scenario>>;

/** The platform under test. */
export const platform = openNativePlatform();

/** The backend's domain and two guests. */
export const [DOM0, GUEST, OTHER_GUEST] = [0, 1, 2] as readonly number[] as readonly [DomId, DomId, DomId];

/** What `open` opens belongs to `domain`: the stand-in libraries look at the environment when a handle is opened. */
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
