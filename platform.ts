/**
 * Opens the platform that a descriptor names, in this thread: the composition root that brings the two sides of the
 * hypervisor's seam in by dynamic imports, so that a simulated run never loads FFI, nor a real one the simulation.
 */

import type { Platform, PlatformDescriptor } from "./lib/hypervisor.ts";

/** Opens the platform; its Xen libraries are opened only when they are first needed. */
export async function openPlatform(descriptor: PlatformDescriptor): Promise<Platform> {
  if (descriptor.kind === "native") {
    const { openNativePlatform } = await import("./ffi/platform.ts");
    return openNativePlatform();
  }
  const { openSimulatedPlatform } = await import("./lib/sim/platform.ts");
  return openSimulatedPlatform(descriptor.machine, descriptor.domain);
}
