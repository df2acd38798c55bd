/**
 * All that a process has of storage daemons: the daemons, the disks that they serve, and what is left of disks that are
 * gone. A process loads this with the first such disk.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import type { JournalStore, PlatformDescriptor } from "../hypervisor.ts";
import { type DaemonServices, imageContext, openDaemonDisk } from "./daemon_disk.ts";
import type { Disk, DiskFile, DiskOwner, DiskRequest } from "./disk.ts";
import { OrphanedDisks } from "./orphans.ts";
import { StorageDaemons } from "./qemu/daemons.ts";
import { daemonsDirectory } from "./qemu/directory.ts";
import type { VhostClient } from "./vhost.ts";
import { KeptLog } from "./write_log/kept_log.ts";
import { writeLogName } from "./write_log/name.ts";

/** What daemons are started with. */
export interface DaemonDisksOptions {
  /** Has the daemons' run directories below it. */
  readonly directory: string;
  /** Where locks and write logs are. */
  readonly journals: JournalStore;
  readonly vhost: VhostClient;
  readonly platform: PlatformDescriptor;
  /** Each disk has a daemon of its own. Default: the disks of a guest share one. */
  readonly perDisk?: boolean;
  /** As whom daemons run. */
  readonly user?: string;
  /** Disks keep a log of the writes that are not flushed. */
  readonly writeLog: boolean;
  readonly warn: (message: string) => void;
  readonly clock?: Clock;
}

/** Disks by storage daemons. Disposing it leaves the daemons running that have disks. */
export class DaemonDisks implements AsyncDisposable {
  readonly #services: DaemonServices;
  readonly #orphans: OrphanedDisks;
  readonly #warn: (message: string) => void;
  readonly #journals: JournalStore;
  readonly #owned = new AsyncDisposableStack();

  constructor(options: DaemonDisksOptions) {
    const { directory, journals, vhost, platform, perDisk, user, writeLog, warn, clock = SYSTEM_CLOCK } = options;
    this.#warn = warn;
    this.#journals = journals;
    const daemons = this.#owned.use(
      new StorageDaemons({
        directory: daemonsDirectory(directory),
        locks: journals,
        vhost,
        ...(perDisk === undefined ? {} : { perDisk }),
        ...(user === undefined ? {} : { user }),
      }),
    );
    const services = { ...imageContext(), daemons, vhost, platform, clock, directory };
    this.#services = { ...services, ...(writeLog ? { logs: journals } : {}) };
    // An earlier process may have kept logs.
    this.#orphans = this.#owned.use(new OrphanedDisks({ ...services, logs: journals }, warn));
  }

  /** See {@linkcode openDaemonDisk}. */
  open(request: DiskRequest): Promise<Disk> {
    return openDaemonDisk(request, this.#services, this.#warn);
  }

  /** See {@linkcode ImageDaemons.prepare}. */
  prepare(owner: DiskOwner, files: readonly DiskFile[]): Promise<AsyncDisposable> {
    return this.#services.daemons.prepare(owner, files);
  }

  /** See {@linkcode OrphanedDisks.end}. */
  endLeftovers(isGone: (device: string) => boolean): Promise<string[]> {
    return this.#orphans.end(isGone);
  }

  /**
   * Ends what a daemon still has of a device that an earlier process served by it, and that is served otherwise by now: it
   * died while the image was exchanged. What is not in its image is kept, for whoever opens that again.
   */
  async discard(owner: DiskOwner): Promise<void> {
    const name = writeLogName(owner.device);
    if (this.#journals.names().includes(name)) {
      using log = new KeptLog(this.#journals, name);
      if (!log.isEmpty) return;
    }
    await this.#services.daemons.discard(owner);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
  }
}
