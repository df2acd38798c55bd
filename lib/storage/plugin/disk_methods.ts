/**
 * What the author of a disk in TypeScript writes: the methods of a disk, and the module that opens it. The module runs in a
 * process of its own, and imports this file by `mod.ts`.
 */

import type { Logger } from "../../log.ts";

/**
 * A disk that a program carries out. Offsets and lengths are in bytes, and multiples of 512; they never reach past the
 * end of the disk. A method is done when it returns, or when the promise that it returns settles; any number of calls are
 * in flight at a time, and may be done in any order. A buffer belongs to the method until then, and to others afterwards.
 * What a method throws is an I/O error of that request, of which the guest sees only that it failed; its `code`, such as
 * "ENOSPC", is in the log.
 */
export interface DiskMethods {
  /** Size of the disk. What is left over behind the last whole sector of 512 bytes is not served. */
  readonly sizeBytes: number;
  /** Fills the buffer with what the disk has from the offset on. */
  read(offset: number, into: Uint8Array): void | Promise<void>;
  /** Writes the buffer's bytes to the offset. Absent: the disk is read-only. */
  write?(offset: number, from: Uint8Array): void | Promise<void>;
  /** Makes durable what writes that are done have written. Absent: a write is durable when it is done. */
  flush?(): void | Promise<void>;
  /** The bytes are not needed any more, and may read as anything. Absent: the guest cannot discard. */
  discard?(offset: number, length: number): void | Promise<void>;
  /** Smallest unit of I/O: 512 (default) or 4096. */
  readonly logicalSectorBytes?: number;
  /** Smallest unit that is cheap to write: a power of two, at least the logical one. Default 4096. */
  readonly physicalSectorBytes?: number;
  /** Smallest range that {@linkcode discard} can free: a multiple of 512. Default: the physical sector. */
  readonly discardGranularityBytes?: number;
  /**
   * Makes the disk so large, or looks how large it has become if no size is given; from then on `sizeBytes` says so.
   * Absent: the disk grows if `sizeBytes`, read again, is larger.
   */
  resize?(sizeBytes?: number): void | Promise<void>;
  /** Called at the end of the disk, when no other method is in flight, and not after a crash. */
  close?(): void | Promise<void>;
}

/** What a disk is opened with. */
export interface DiskModuleContext {
  /** The guest cannot write: `write` and `discard` are not called. */
  readonly readOnly: boolean;
  /** Aborted when the disk is closed: ends what the methods wait for. */
  readonly signal: AbortSignal;
  /** Lines for the log of the program that serves the disk, limited in number. */
  readonly log: Logger;
}

/** A module's disk, as it is given to {@linkcode defineDisk}. */
export interface DiskModuleDefinition {
  /**
   * Opens the disk. `target` is what follows `?` in `plugin:my_disk.ts?target`, empty without one. What it throws is the
   * reason why the disk cannot be attached. Called again in a new process after a crash.
   */
  open(target: string, context: DiskModuleContext): DiskMethods | Promise<DiskMethods>;
  /**
   * Writes that are done outlive a crash of the plugin's process. Default: without `flush` true, with it false. True with a
   * `flush`: it is the system below, such as a file's page cache or a server, that has to flush. False without one: the
   * disk is in the process's memory. Where it is false, a crash with writes that were not flushed fails the disk for good.
   */
  readonly survivesCrash?: boolean;
}

/** A module's default export. */
export interface DefinedDisk extends DiskModuleDefinition {
  /** Set by {@linkcode defineDisk}. */
  readonly kind: "xenblk disk";
}

/**
 * Defines a disk in TypeScript, as the default export of a module.
 *
 * @example
 * ```ts
 * import { defineDisk } from "xenblk";
 *
 * export default defineDisk({
 *   survivesCrash: false, // all is in memory
 *   open: () => {
 *     const data = new Uint8Array(64 * 2 ** 20);
 *     return {
 *       sizeBytes: data.length,
 *       read: (offset, into) => into.set(data.subarray(offset, offset + into.length)),
 *       write: (offset, from) => data.set(from, offset),
 *     };
 *   },
 * });
 * ```
 */
export function defineDisk(definition: DiskModuleDefinition): DefinedDisk {
  return { ...definition, kind: "xenblk disk" };
}

/** Whether a module's default export comes from {@linkcode defineDisk}. */
export function isDefinedDisk(value: unknown): value is DefinedDisk {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "xenblk disk";
}
