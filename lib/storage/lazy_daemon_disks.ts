/**
 * The disks of storage daemons, in a process that may never have one: what serves them is loaded with the first such disk,
 * or if an earlier process has left one.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { DaemonDisks, DaemonDisksOptions } from "./daemon_disks.ts";
import type { Disk, DiskFile, DiskOwner, DiskRequest } from "./disk.ts";
import { daemonsDirectory, folderOfLock } from "./qemu/directory.ts";
import { writeLogOwner } from "./write_log/name.ts";

/** What is loaded. */
export type LoadedDaemonDisks = Pick<
  DaemonDisks,
  "open" | "prepare" | "endLeftovers" | "discard" | typeof Symbol.asyncDispose
>;

/** Loads {@linkcode DaemonDisks} when they are needed. */
export class LazyDaemonDisks implements AsyncDisposable {
  readonly #options: DaemonDisksOptions;
  readonly #loader: (options: DaemonDisksOptions) => Promise<LoadedDaemonDisks>;
  #disks: Promise<LoadedDaemonDisks> | undefined;
  /** Resolves once the last look for leftovers has begun, or has found that there are none. */
  #looked: Promise<void> = Promise.resolve();
  #ended = false;

  /** `loader`: for tests. */
  constructor(options: DaemonDisksOptions, loader = loadDaemonDisks) {
    this.#options = options;
    this.#loader = loader;
  }

  /** See {@linkcode DaemonDisks.open}. A disk that an earlier process has left is known before any is opened. */
  async open(request: DiskRequest): Promise<Disk> {
    await this.#looked;
    return await (await this.#load()).open(request);
  }

  /** See {@linkcode DaemonDisks.prepare}. */
  async prepare(owner: DiskOwner, files: readonly DiskFile[]): Promise<AsyncDisposable> {
    await this.#looked;
    return await (await this.#load()).prepare(owner, files);
  }

  /** See {@linkcode DaemonDisks.endLeftovers}. Loads nothing where no process has left a daemon or a write log. */
  async endLeftovers(isGone: (device: string) => boolean): Promise<string[]> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#looked = promise;
    try {
      await this.#removeLocks();
      if (this.#disks === undefined && !await this.#mayBeLeft()) return [];
      const ending = (await this.#load()).endLeftovers(isGone);
      resolve();
      return await ending;
    } finally {
      resolve();
    }
  }

  /**
   * See {@linkcode DaemonDisks.discard}. It is not waited for, but what is opened later waits. Loads nothing where the guest
   * has no daemon.
   */
  discard(owner: DiskOwner): void {
    const discarding = this.#discard(owner).catch((error) => {
      if (error instanceof Deno.errors.NotFound || this.#ended) return; // no guest of this host has ever had one
      this.#options.warn(`${owner.device}: cannot end what its storage daemon still has of it: ${errorText(error)}`);
    });
    this.#looked = Promise.all([this.#looked, discarding]).then(() => {});
  }

  async #discard(owner: DiskOwner): Promise<void> {
    for await (const { name } of Deno.readDir(daemonsDirectory(this.#options.directory))) {
      if (name === `${owner.guest}` || name.startsWith(`${owner.guest}.`)) {
        return await (await this.#load()).discard(owner);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    const disks = await this.#disks?.catch(() => undefined);
    await disks?.[Symbol.asyncDispose]();
  }

  #load(): Promise<LoadedDaemonDisks> {
    if (this.#ended) return Promise.reject(new XenblkError("Cannot use a storage daemon: this process ends"));
    if (this.#disks === undefined) {
      const loading = this.#loader(this.#options);
      this.#disks = loading;
      loading.catch(() => this.#disks = undefined); // what was missing may be there next time
    }
    return this.#disks;
  }

  /** Those of processes that were killed before their daemon had a directory. */
  async #removeLocks(): Promise<void> {
    const { directory, journals } = this.#options;
    try {
      for (const name of journals.names()) {
        const folder = folderOfLock(name);
        if (folder === undefined) continue;
        const isThere = await Deno.lstat(`${daemonsDirectory(directory)}/${folder}`).then(() => true, () => false);
        if (!isThere) journals.lock(name)?.[Symbol.dispose](); // which removes it, unless somebody has it
      }
    } catch { /* whoever needs a daemon reports what is wrong */ }
  }

  async #mayBeLeft(): Promise<boolean> {
    const { directory, journals } = this.#options;
    try {
      if (journals.names().some((name) => writeLogOwner(name) !== undefined)) return true;
      for await (const _ of Deno.readDir(daemonsDirectory(directory))) return true;
      return false;
    } catch (error) {
      return !(error instanceof Deno.errors.NotFound); // who looks in earnest reports what else is wrong
    }
  }
}

async function loadDaemonDisks(options: DaemonDisksOptions): Promise<LoadedDaemonDisks> {
  const { DaemonDisks } = await import("./daemon_disks.ts");
  return new DaemonDisks(options);
}
