/**
 * What the composition root brings into the verbs: the real hypervisor, opened only when a verb asks. Verbs know these
 * interfaces, never ffi.
 */

import type { Platform, Xenstore } from "../hypervisor.ts";
import type { ImageLocks } from "../storage/image/lock.ts";
import type { NativeFiles } from "../storage/image/medium.ts";

/** The hypervisor that this process runs under. */
export interface NativePlatform extends Platform {
  /** Connects to xenstored. Throws XenblkError (hypervisor) if it cannot be reached. */
  openXenstore(): Xenstore;
  /** Keep other processes from images. */
  readonly imageLocks: ImageLocks;
  /** Looks at files, and says whether io_uring can be used. */
  readonly files: NativeFiles;
}

/** The outside world of a command. */
export interface Host {
  /** Loads what reaches the real hypervisor; a library is opened only when a part of it is asked for. */
  openNativePlatform(): Promise<NativePlatform>;
}
