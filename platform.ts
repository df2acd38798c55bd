/**
 * Opens the platform that a descriptor names, in this thread: by default the real hypervisor. Its module is loaded only
 * when it is asked for, so that a simulated run never loads FFI.
 */

import type { Platform, PlatformDescriptor } from "./lib/hypervisor.ts";
import { openPlatform as open } from "./lib/modules.ts";

/** The hypervisor that this process runs under. */
export const NATIVE_PLATFORM: PlatformDescriptor = { module: new URL("./ffi/platform.ts", import.meta.url).href };

/**
 * Opens a platform; its libraries are opened only when they are first needed. Rejects with {@linkcode XenblkError} if its
 * module cannot be loaded, or with what that module throws.
 */
export function openPlatform(descriptor: PlatformDescriptor = NATIVE_PLATFORM): Promise<Platform> {
  return open(descriptor);
}
