/**
 * What storage needs of whoever runs disks in TypeScript: a process for each, whose channels reach it by shared memory. The
 * processes are made in ffi/plugin; tests bring simulated ones.
 */

import type { Logger } from "../../log.ts";
import type { DiskAttachment, DiskProperties, VolatileContent } from "../disk.ts";
import type { PluginSettings } from "./settings.ts";

/** Starts processes of plugins. */
export interface PluginClient {
  /**
   * Starts a process, which imports the module and opens the disk. Rejects with XenblkError, which has the plugin's own
   * message and place, if that fails or takes too long; nothing then stays.
   */
  start(options: PluginOptions): Promise<PluginProcess>;
}

/** Which disk, and how its process is run. */
export interface PluginOptions {
  /** For messages: `image plugin:/path/my_disk.ts`. */
  readonly name: string;
  /** Absolute path of the module. */
  readonly module: string;
  /** For the module's `open`. */
  readonly target: string;
  /** Opened for reading only. A disk without `write` is read-only although this is false. */
  readonly readOnly: boolean;
  /** Memory, permissions and limits. */
  readonly settings: PluginSettings;
  /** Gets what the plugin logs and prints, limited in number, and what is worth knowing of its process. */
  readonly log: Logger;
  /** Ends an attempt to start. */
  readonly signal?: AbortSignal;
}

/**
 * A disk in TypeScript, with the process that runs it now. Disposing it ends the process once no channel is open;
 * operations that wait then fail (see {@linkcode PluginProcess.fail}). It flushes before; disposing rejects with
 * XenblkError if answered writes may be lost.
 */
export interface PluginProcess extends AsyncDisposable {
  /** As the plugin has them: size, sectors, discard, read-only. */
  readonly properties: DiskProperties;
  /** Which answered writes end with the process; undefined: none do. */
  readonly loses: VolatileContent["loses"] | undefined;
  /** Of the process that runs now, or ran last. */
  readonly pid: number;
  /** For one channel of the reactor with that number. Rejects with XenblkError if all channels are taken. */
  attachment(lane: number): Promise<DiskAttachment>;
  /** Asks for the size again, or has the disk made so large before. Rejects with XenblkError; then all stays as it was. */
  refresh(sizeBytes?: number): Promise<void>;
  /**
   * Resolves, never rejects, with the reason, as the end of a sentence, when the process has ended without having been
   * asked to: it crashed, was killed, had no memory left, hung or broke the protocol. It is dead by then. After {@linkcode
   * restart} it is another promise, for the new process.
   */
  readonly lost: Promise<string>;
  /**
   * After {@linkcode lost}: whether writes that were answered may be lost, because the plugin has not flushed them and does
   * not survive a crash. Resolves once no channel takes completions of the dead process any more.
   */
  unflushed(): Promise<boolean>;
  /**
   * After {@linkcode lost}: starts another process. The operations that were in flight are carried out again, from their
   * beginning, then those that came since. Rejects with XenblkError; then the operations go on waiting.
   */
  restart(signal?: AbortSignal): Promise<void>;
  /** Every operation in flight and every later one completes with -EIO. Until then they wait, or as the settings say. */
  fail(): void;
}
