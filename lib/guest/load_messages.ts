/**
 * The messages between a load's Worker (load_worker.ts) and the thread that owns it (load_thread.ts): plain data that
 * can be posted.
 */

import type { DomId, EvtchnPort, PlatformDescriptor, WakeToken } from "../hypervisor.ts";
import type { LoadOutcome, LoadSpec, LoadTarget } from "./load_types.ts";
import type { ReplayOutcome, ReplaySpec, SweepSpec } from "./replay_types.ts";

/** To the Worker, which answers each with one {@linkcode LoadReply}, in order. */
export type LoadCommand =
  | { readonly type: "open"; readonly platform: PlatformDescriptor; readonly token: WakeToken }
  | { readonly type: "bind"; readonly backend: DomId }
  | { readonly type: "unbind"; readonly port: EvtchnPort }
  | {
    readonly type: "run";
    readonly target: LoadTarget;
    readonly spec: LoadSpec;
    readonly model: SharedArrayBuffer | undefined;
    readonly progress: SharedArrayBuffer;
  }
  | {
    readonly type: "replay";
    readonly target: LoadTarget;
    readonly spec: ReplaySpec | SweepSpec;
    readonly progress: SharedArrayBuffer;
    /** Of ReplayLatencies. */
    readonly latencies: SharedArrayBuffer;
  }
  | { readonly type: "close" };

/** From the Worker. */
export type LoadReply =
  | { readonly type: "done" }
  | { readonly type: "bound"; readonly port: EvtchnPort }
  | { readonly type: "outcome"; readonly outcome: LoadOutcome }
  | { readonly type: "replayed"; readonly outcome: ReplayOutcome }
  | { readonly type: "failed"; readonly message: string };
