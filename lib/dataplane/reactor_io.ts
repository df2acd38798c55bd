/**
 * What a composition root gives a reactor besides its platform: the place to sleep and the ways to disks. Interfaces
 * only.
 */

import type { Parker } from "../hypervisor.ts";
import type { UringRefusal } from "../storage/image/medium.ts";
import type { ReactorOptions } from "./reactor.ts";

/** A thread's place to sleep together with the engines that complete there. */
export interface ReactorIo {
  /** Disposed when the reactor is gone. */
  readonly parker: Parker;
  /** For the reactor. */
  readonly options: ReactorOptions;
  /** Why there is no io_uring; undefined: there is. */
  readonly uringRefusal?: UringRefusal;
}
