/**
 * What a program that serves or attaches disks needs from the host: the hypervisor, its xenstore, and the locks that keep
 * other processes from an image. `openNativePlatform` opens the real one; tests bring a simulated one.
 */

import type { DomId, Platform, Xenstore } from "./hypervisor.ts";
import { type ImageLocks, ProcessImageLocks } from "./storage/image/lock.ts";
import type { NativeFiles } from "./storage/image/medium.ts";
import type { PluginClient } from "./storage/plugin/types.ts";
import type { VhostClient } from "./storage/vhost.ts";

/** A hypervisor with its xenstore. */
export interface HostPlatform extends Platform {
  /** Opens a connection of its own to xenstored. Throws {@linkcode XenblkError} (`hypervisor`) if none answers. */
  openXenstore(): Xenstore;
  /** Keep other processes from images that are served. Absent: only this process's own disks exclude each other. */
  readonly imageLocks?: ImageLocks;
  /** System calls on files, and io_uring. Absent: engine `file` serves. */
  readonly files?: NativeFiles;
  /** Reaches disks that a storage daemon exports. Absent: only raw images can be served. */
  readonly vhost?: VhostClient;
  /** Runs disks in TypeScript, each in a process of its own. Absent: they cannot be served. */
  readonly plugins?: PluginClient;
}

/** The hypervisor that this process runs under. Its parts throw {@linkcode XenblkError} (`hypervisor`) when opened. */
export interface NativePlatform extends HostPlatform {
  /** Locks as QEMU takes them: they keep QEMU away too. */
  readonly imageLocks: ImageLocks;
  /** Linux's system calls. */
  readonly files: NativeFiles;
  /** By Unix sockets and shared memory. */
  readonly vhost: VhostClient;
  /** By Deno, with descriptors of shared memory. */
  readonly plugins: PluginClient;
  /**
   * Sends one datagram to a Unix socket, named by its path, or by `@` and an abstract name. Never waits. Returns 0 or a
   * negative errno: EAGAIN if the receiver has no room for it now.
   */
  sendDatagram(socket: string, bytes: Uint8Array<ArrayBuffer>): number;
  /** Gives back the memory that only the start of the process needed. */
  releaseUnused(): void;
}

/** The locks among the disks of this process, by the platform that they are on. */
const PROCESS_LOCKS = new WeakMap<HostPlatform, ImageLocks>();

/**
 * Locks on images, shared by all services of this process on a platform, that hold beyond the process where the platform
 * has such locks. `warn` receives the images that other processes cannot be kept from.
 */
export function imageLocksOf(platform: HostPlatform, warn: (message: string) => void): ImageLocks {
  const within = PROCESS_LOCKS.get(platform) ?? new ProcessImageLocks(undefined, warn);
  PROCESS_LOCKS.set(platform, within);
  const beyond = new ProcessImageLocks(platform.imageLocks, warn);
  return {
    async tryLock(image, use): Promise<AsyncDisposable | string> {
      const lock = await within.tryLock(image, use);
      if (typeof lock === "string") return lock;
      await using undo = new AsyncDisposableStack();
      undo.use(lock);
      const outer = await beyond.tryLock(image, use);
      if (typeof outer === "string") return outer;
      undo.use(outer);
      return undo.move();
    },
  };
}

/**
 * Opens and closes a grant table and event channels, before anything is promised to a guest. Throws
 * {@linkcode XenblkError} (`hypervisor`) that says which library or device is missing.
 */
export function checkDataPath(platform: Platform): void {
  // The domain is only named, not talked to.
  const guest = 0 as DomId;
  platform.openGrantTable(guest)[Symbol.dispose]();
  platform.openEventChannels(guest)[Symbol.dispose]();
}
