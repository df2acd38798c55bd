/**
 * What a reactor needs to use one channel of a plugin's disk. Structured-cloneable.
 */

import type { DiskAttachment } from "../../lib/storage/disk.ts";

/** Names a channel, for the module channel.ts. */
export interface PluginAttachment extends DiskAttachment {
  /** For messages: `image plugin:/path/my_disk.ts`. */
  readonly name: string;
  /** See DeviceControl, and PluginNotes. */
  readonly control: SharedArrayBuffer;
  readonly notes: SharedArrayBuffer;
  readonly channel: number;
  readonly lease: number;
  /** Where the shared memory is mapped in this process. */
  readonly address: number;
  /** Eventfds: wakes the plugin's process, wakes the reactor, tells the control plane. */
  readonly bellFd: number;
  readonly callFd: number;
  readonly newsFd: number;
  /** False: a completed write is durable, and flushes need no plugin. */
  readonly flushes: boolean;
  /** An answered write is lost with the process until it is flushed. */
  readonly losesWrites: boolean;
  /** Writes and discards are refused. */
  readonly readOnly: boolean;
  readonly discards: boolean;
  readonly requestTimeoutMs: number;
  /** While there is no process, operations fail. False: they wait for the next one. */
  readonly failsWhenLost: boolean;
}
