/**
 * The part of the real hypervisor that a Worker needs: memory, grants, event channels, and places to sleep. It is a
 * module of its own, so that no Worker loads what only the main thread uses, such as xenstore's protocol. Each part opens
 * its library when it is first asked for.
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
} from "../lib/hypervisor.ts";
import { JournalFiles } from "./linux/journal_files.ts";
import { nativeMemory } from "./linux/memory.ts";
import { readMonotonicMs } from "./linux/monotonic.ts";
import { NativeParker, NativeWaker, NativeWakeToken } from "./linux/park.ts";
import { nativeThreads } from "./linux/threads.ts";
import { openUringParker } from "./uring/engine.ts";
import { NativeEventChannels } from "./xen/evtchn.ts";
import { NativeGrantShares, NativeGrantTable } from "./xen/gnttab.ts";

/** The hypervisor as every thread sees it. Its openers throw XenblkError of kind `hypervisor`. */
export class ThreadPlatform implements Platform {
  readonly descriptor: PlatformDescriptor = { module: import.meta.url };
  readonly memory: MemorySpace = nativeMemory;
  readonly journals: JournalStore = new JournalFiles();
  /** From /proc. */
  readonly threads: ThreadStates = nativeThreads;

  readonly #nowMs = new Float64Array(1);

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

/** See PlatformModule. */
export function openPlatform(): ThreadPlatform {
  return new ThreadPlatform();
}
