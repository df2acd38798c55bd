/**
 * What storage needs of a vhost-user-blk client: a way to disks that a storage daemon of another process exports on a
 * Unix socket (QEMU: docs/interop/vhost-user.rst). The client itself is in ffi/vhost; tests bring simulated ones.
 */

import type { DiskAttachment, DiskProperties } from "./disk.ts";

/** Connects to vhost-user-blk exports. */
export interface VhostClient {
  /**
   * Connects to an export, which has one client at a time. Rejects with XenblkError if the daemon does not answer in time,
   * answers something else than the protocol allows, or exports what this backend cannot serve; nothing then stays open.
   */
  connect(options: VhostOptions): Promise<VhostDevice>;
}

/** Which export, and how it is used. */
export interface VhostOptions {
  /** For messages: `image qcow2:/path`. */
  readonly name: string;
  /** The path of the export's Unix socket. */
  readonly socket: string;
  /** Opened for reading only. An export that is read-only although this is false makes a read-only disk. */
  readonly readOnly: boolean;
  /** Most channels at a time; the export must have as many virtqueues. */
  readonly queues: number;
  /** A completed write is durable. Default: flushes make writes durable. */
  readonly writeThrough?: boolean;
  /**
   * An I/O error loses the connection, for the daemon may have lost its storage with what that had not made durable. The
   * request is carried out again after {@linkcode VhostDevice.reconnect}; once it has failed in three connections, it
   * completes with -EIO. In a queue nothing counts that is completed after an error, so such a disk has one channel at a
   * time.
   */
  readonly errorsLose?: boolean;
  /** Gets messages for the operator. */
  readonly warn?: (message: string) => void;
  /** Ends an attempt to connect. */
  readonly signal?: AbortSignal;
}

/**
 * A connected export. Disposing it closes the connection once no channel is open; the daemon goes on and takes another
 * client then. If the connection is lost before, operations that wait fail (see {@linkcode VhostDevice.fail}).
 */
export interface VhostDevice extends AsyncDisposable {
  /** As the export's config space has them: size, sectors, discard limits, read-only. */
  readonly properties: DiskProperties;
  /**
   * Reads the config space again, for instance after a resize. `sizeBytes`: the size that the daemon's monitor reports, for
   * QEMU 7.2 leaves the one in the config space as it was. Rejects with XenblkError; then all stays as it was.
   */
  refresh(sizeBytes?: number): Promise<void>;
  /**
   * Sets one virtqueue up for one channel of the reactor with that number. The virtqueue is free again when its channel
   * is closed. Rejects with XenblkError if all virtqueues are taken or the daemon does not answer.
   */
  attachment(lane: number): Promise<DiskAttachment>;
  /**
   * Resolves, never rejects, with the reason when the connection ends without having been closed here. After {@linkcode
   * reconnect} it is another promise, for the new connection.
   */
  readonly lost: Promise<string>;
  /**
   * After {@linkcode lost}: every operation in flight and every later one completes with -EIO. Until this or {@linkcode
   * reconnect} is called they wait.
   */
  fail(): void;
  /**
   * After {@linkcode lost}: resolves once no channel takes completions of the lost connection any more, and what channels
   * took before was dealt with by their owners. Rejects with XenblkError if a reactor does not get to that in time.
   */
  paused(): Promise<void>;
  /**
   * After {@linkcode lost}: connects to an export of the same image that has taken the place of the lost one. The
   * operations that were in flight are carried out again, from their beginning, then those that came since. Rejects with
   * XenblkError, or with the signal's reason; then the operations go on waiting.
   */
  reconnect(socket: string, signal?: AbortSignal): Promise<void>;
}
