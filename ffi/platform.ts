/**
 * The real hypervisor as the main thread sees it: what every thread has, and xenstore, images, and the clients of storage
 * daemons and of disks in TypeScript. Each part opens its library when it is first asked for, so that a process that only
 * reads xenstore never loads libxengnttab.
 */

import type { Xenstore } from "../lib/hypervisor.ts";
import type { NativeFiles } from "../lib/storage/image/medium.ts";
import type { PluginClient } from "../lib/storage/plugin/types.ts";
import type { VhostClient } from "../lib/storage/vhost.ts";
import { sendDatagram } from "./linux/datagram.ts";
import { NativeImageLocks } from "./linux/image_lock.ts";
import { releaseUnused } from "./linux/resident.ts";
import { NativePluginClient } from "./plugin/client.ts";
import { ThreadPlatform } from "./thread_platform.ts";
import { LinuxFiles } from "./uring/image_files.ts";
import { NativeVhostClient } from "./vhost/client.ts";
import { NativeXenstore } from "./xen/xenstore.ts";

/** The hypervisor that this process runs under; its descriptor names the part that Workers need. */
export class NativePlatform extends ThreadPlatform {
  /** Keep other processes from images. */
  readonly imageLocks: NativeImageLocks = new NativeImageLocks();
  /** Looks at files, and says whether io_uring can be used. */
  readonly files: NativeFiles = new LinuxFiles();
  /** Connects to exports of a storage daemon. */
  readonly vhost: VhostClient = new NativeVhostClient();
  /** Starts the processes of disks in TypeScript. */
  readonly plugins: PluginClient = new NativePluginClient();
  /** Reaches the service manager and the system's log. */
  readonly sendDatagram: typeof sendDatagram = sendDatagram;
  /** For once the process has started. */
  readonly releaseUnused: typeof releaseUnused = releaseUnused;

  /** A connection of its own to xenstored. */
  openXenstore(): Xenstore {
    return new NativeXenstore();
  }
}

/** The real platform; nothing is opened yet. */
export function openNativePlatform(): NativePlatform {
  return new NativePlatform();
}

/** See PlatformModule. */
export function openPlatform(): NativePlatform {
  return openNativePlatform();
}
