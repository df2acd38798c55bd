/**
 * What the control plane and an I/O Worker say to each other. Every message to the Worker is also counted in the
 * Doorbell, because a Worker that sleeps or works sees no messages: the count tells it to let them in.
 */

import type { PlatformDescriptor, WakeToken } from "../../hypervisor.ts";
import type { ExecutorDescriptor } from "./executor_module.ts";

/**
 * To an I/O Worker, in this order: `start`; a lane before its queues; a disk before its queues. A Worker opens a disk when
 * it takes the disk's first job, or at once by `open`: a disk that hangs when it is opened then holds up no more Workers
 * than its jobs may.
 */
export type IoCommand =
  | {
    readonly type: "start";
    readonly request: number;
    readonly platform: PlatformDescriptor;
    readonly doorbell: SharedArrayBuffer;
    readonly worker: number;
    /** See activity.ts. */
    readonly activity: SharedArrayBuffer;
  }
  | { readonly type: "lane"; readonly lane: number; readonly token: WakeToken }
  | {
    readonly type: "disk";
    readonly disk: number;
    readonly executor: ExecutorDescriptor;
    /** See disk_load.ts. */
    readonly load: SharedArrayBuffer;
  }
  | { readonly type: "open"; readonly request: number; readonly disk: number }
  | { readonly type: "queue"; readonly disk: number; readonly lane: number; readonly buffer: SharedArrayBuffer }
  | { readonly type: "close"; readonly request: number; readonly disk: number }
  | { readonly type: "stop"; readonly request: number };

/** Why an I/O Worker could not do something. */
export interface IoFailure {
  readonly message: string;
  readonly remedy?: string;
}

/**
 * From an I/O Worker: the request of that number is done, or failed with this reason; or the Worker does not serve a disk,
 * for that reason, and leaves its jobs to the others.
 */
export type IoAnswer =
  | { readonly request: number; readonly failure?: IoFailure }
  | { readonly disk: number; readonly failure: IoFailure };
