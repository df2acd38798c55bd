/**
 * The real hypervisor as the seam's Platform. Each part opens its library when it is first asked for, so that a process
 * that only reads xenstore never loads libxengnttab.
 */

import type {
  DomId,
  EventChannels,
  GrantShares,
  GrantTable,
  JournalStore,
  MemorySpace,
  Parker,
  ParkerOptions,
  Platform,
  PlatformDescriptor,
  ThreadStates,
  Waker,
  WakeToken,
  Xenstore,
} from "../lib/hypervisor.ts";
import type { NativeFiles } from "../lib/storage/image/medium.ts";
import type { PluginClient } from "../lib/storage/plugin/types.ts";
import type { VhostClient } from "../lib/storage/vhost.ts";
import { sendDatagram } from "./linux/datagram.ts";
import { NativeImageLocks } from "./linux/image_lock.ts";
import { JournalFiles } from "./linux/journal_files.ts";
import { nativeMemory } from "./linux/memory.ts";
import { readMonotonicMs } from "./linux/monotonic.ts";
import { NativeParker, NativeWaker, NativeWakeToken } from "./linux/park.ts";
import { nativeThreads } from "./linux/threads.ts";
import { NativePluginClient } from "./plugin/client.ts";
import { openUringParker } from "./uring/engine.ts";
import { LinuxFiles } from "./uring/image_files.ts";
import { NativeVhostClient } from "./vhost/client.ts";
import { NativeEventChannels } from "./xen/evtchn.ts";
import { NativeGrantShares, NativeGrantTable } from "./xen/gnttab.ts";
import { NativeXenstore } from "./xen/xenstore.ts";

/** The hypervisor that this process runs under. Its openers throw XenblkError of kind `hypervisor`. */
export class NativePlatform implements Platform {
  readonly descriptor: PlatformDescriptor = { module: import.meta.url };
  readonly memory: MemorySpace = nativeMemory;
  readonly journals: JournalStore = new JournalFiles();
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
  /** From /proc. */
  readonly threads: ThreadStates = nativeThreads;

  readonly #nowMs = new Float64Array(1);

  /** A connection of its own to xenstored. */
  openXenstore(): Xenstore {
    return new NativeXenstore();
  }

  openGrantTable(guest: DomId): GrantTable {
    return new NativeGrantTable(guest);
  }

  openEventChannels(other: DomId): EventChannels {
    return new NativeEventChannels(other);
  }

  openGrantShares(): GrantShares {
    return new NativeGrantShares();
  }

  createWakeToken(): WakeToken & Disposable {
    return new NativeWakeToken();
  }

  /** With I/O: an io_uring, or a parker without one that says why there is none. */
  openParker(token: WakeToken, { withIo = false }: ParkerOptions = {}): Parker {
    return withIo ? openUringParker(token) : new NativeParker(token);
  }

  openWaker(token: WakeToken): Waker {
    return new NativeWaker(token);
  }

  now(): number {
    this.readClock(this.#nowMs, 0);
    return this.#nowMs[0]!;
  }

  readClock(into: Float64Array, index: number): void {
    readMonotonicMs(into, index);
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
