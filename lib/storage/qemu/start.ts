/**
 * What storage daemons are started with.
 */

import type { Confinement } from "./confinement.ts";
import type { AioModes } from "./plan.ts";
import type { DaemonProgram } from "./program.ts";
import type { LostDisk } from "./record.ts";

/** What daemons of this process have in common. */
export interface DaemonEnvironment {
  /** How the drivers make system calls; a refusal changes it for all. */
  aio: AioModes;
  /** Limits for tests. */
  readonly startMs?: number;
  readonly requestMs?: number;
}

/** A daemon that is about to be started. */
export interface DaemonStart {
  readonly program: DaemonProgram;
  readonly confinement: Confinement;
  readonly guest: number;
  readonly uuid?: string;
  /** Disks that an earlier daemon lost. */
  readonly lost: Readonly<Record<string, LostDisk>>;
}
