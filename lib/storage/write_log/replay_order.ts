/**
 * What the Worker that replays a log is told, and what it answers.
 */

import type { PlatformDescriptor } from "../../hypervisor.ts";
import type { DiskAttachment } from "../disk.ts";
import type { LogPlace } from "./log.ts";

/** What the Worker is sent. */
export interface ReplayOrder {
  readonly platform: PlatformDescriptor;
  /** The disk itself, not logged. */
  readonly attachment: DiskAttachment;
  readonly log: LogPlace;
  /** False: the disk has carried everything out, and only has to flush it. */
  readonly writes: boolean;
}

/** What was written again. */
export interface Replayed {
  readonly operations: number;
  readonly bytes: number;
}

/** What the Worker answers. */
export type ReplayAnswer = { readonly replayed: Replayed } | { readonly failure: string };
