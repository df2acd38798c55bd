/**
 * The messages between the Worker that writes a trace (writer_worker.ts) and the thread that owns it (writer.ts).
 */

import type { TraceSession } from "./format.ts";

/** To the Worker, once. It ends when the shared memory says so. */
export interface WriteTrace {
  readonly path: string;
  readonly session: TraceSession;
  /** Absent: no limit. */
  readonly limitBytes?: number;
  readonly memory: SharedArrayBuffer;
}

/** From the Worker: first `open` or `failed`, then warnings, and `closed` at the end. */
export type TraceReply =
  | { readonly type: "open" }
  | { readonly type: "failed"; readonly message: string; readonly remedy: string | undefined }
  | { readonly type: "warning"; readonly message: string }
  | { readonly type: "closed" };
