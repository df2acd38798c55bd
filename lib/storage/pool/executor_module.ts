/**
 * The module that opens a disk in an I/O Worker, as interfaces. A module outside this project can implement it: then the
 * pool serves a disk with calls that block.
 */

import type { Platform } from "../../hypervisor.ts";
import type { Executor } from "../engine/executor.ts";

/** What an I/O Worker needs to open a disk: the module, and whatever that module needs. Structured-cloneable. */
export interface ExecutorDescriptor {
  /** The module's absolute URL, for instance by `import.meta.url`. */
  readonly module: string;
  /** The module's own. */
  readonly [detail: string]: unknown;
}

/** What a module that an {@linkcode ExecutorDescriptor} names exports. */
export interface ExecutorModule {
  /**
   * Opens the disk for the calling I/O Worker, which disposes it. Each Worker of the pool has its own, and they carry
   * out operations at the same time. What it throws is the reason why this Worker does not serve the disk.
   */
  openExecutor(descriptor: ExecutorDescriptor, platform: Platform): Executor;
}
