/**
 * The messages between the control plane and a reactor's Worker. Every message to the Worker is counted in the shared
 * control word and followed by a wake, since a Worker that sleeps in the data plane sees no messages.
 */

import type { PlatformDescriptor, Refusal, WakeToken } from "../hypervisor.ts";
import type { DiskAttachment } from "../storage/disk.ts";
import type { OpenRequest } from "./connection.ts";

/** Index in the control words: messages posted to the Worker so far, modulo 2^32. */
export const CONTROL_POSTED = 0;
/** Bytes of the control words. */
export const CONTROL_BYTES = Int32Array.BYTES_PER_ELEMENT;

/** The states of an open in {@linkcode OpenCommand.begun}: who changes it from waiting decides what becomes of it. */
export const OPEN_WAITING = 0;
/** The Worker maps the ring and opens the channel: only its answer ends that. */
export const OPEN_BEGUN = 1;
/** The control plane no longer wants the queue: the Worker refuses it, and touches none of its memory. */
export const OPEN_ABANDONED = 2;

/** To the Worker: open a queue. */
export interface OpenCommand {
  readonly type: "open";
  readonly id: number;
  readonly request: OpenRequest;
  /** One word, one of the states above. */
  readonly begun: SharedArrayBuffer;
}

/** The first message: what the Worker is. It is not counted, because the Worker does not sleep before it. */
export interface StartMessage {
  readonly type: "start";
  readonly platform: PlatformDescriptor;
  readonly token: WakeToken;
  readonly control: SharedArrayBuffer;
  /** Where it notes how long it sleeps; see reactor_load.ts. */
  readonly load: SharedArrayBuffer;
  /** It may use io_uring. */
  readonly uring: boolean;
}

/** To the Worker. */
export type ReactorCommand =
  | OpenCommand
  /** Load what the attachment needs. `id` is the number of the preparation. */
  | { readonly type: "prepare"; readonly id: number; readonly attachment: DiskAttachment }
  /** Serve the queue no more, once nothing of it is in flight; flush only if asked to. */
  | { readonly type: "release"; readonly id: number; readonly flush: boolean }
  /** Take the requests of a queue that was opened `held`. Unlike `keep`, it has no answer. */
  | { readonly type: "begin"; readonly id: number }
  /** Go on with it after all, unless it was released. */
  | { readonly type: "keep"; readonly id: number }
  | { readonly type: "grow"; readonly id: number; readonly sectors: number }
  | { readonly type: "close"; readonly id: number }
  /** Asks for a sign of life. */
  | { readonly type: "ping" }
  | { readonly type: "exit" };

/** From the Worker. */
export type ReactorEvent =
  /** `uringRefusal`: it has no io_uring, for that reason. `thread`: see ThreadStates; absent if there are none. */
  | { readonly type: "ready"; readonly uringRefusal: Refusal | undefined; readonly thread?: number | undefined }
  | { readonly type: "unavailable"; readonly reason: string; readonly remedy: string | undefined }
  | { readonly type: "opened"; readonly id: number }
  | { readonly type: "refused"; readonly id: number; readonly reason: string }
  | { readonly type: "prepared"; readonly id: number; readonly refusal: string | undefined }
  | { readonly type: "released"; readonly id: number }
  | { readonly type: "kept"; readonly id: number }
  | { readonly type: "grown"; readonly id: number }
  | { readonly type: "closed"; readonly id: number }
  | { readonly type: "stopped"; readonly id: number; readonly reason: string }
  | { readonly type: "latched"; readonly id: number }
  | { readonly type: "warning"; readonly message: string }
  | { readonly type: "debug"; readonly message: string }
  | { readonly type: "alive" }
  | { readonly type: "exited" };
