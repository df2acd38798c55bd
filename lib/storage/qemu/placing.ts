/**
 * Which files a running daemon can reach: those of its disks, where it has a root directory of its own.
 */

import { XenblkError } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { type AllowedFile, placeFiles, takeFiles } from "./confinement.ts";
import type { DaemonRecord, DiskRecord, RunDirectory } from "./record.ts";

/** The daemon. */
export interface PlacedDaemon {
  /** For messages: `the storage daemon of domain 5 (process 123)`. */
  readonly name: string;
  readonly directory: RunDirectory;
  readonly record: DaemonRecord;
  /** The reason of its end; undefined: it runs. */
  fate(timeoutMs: number): Promise<string | undefined>;
}

/** The files of one daemon. Its calls must not overlap. */
export class DaemonFiles {
  readonly #daemon: PlacedDaemon;
  readonly #logger: Logger;
  readonly #timeoutMs: number | undefined;
  /** Files of a disk that is to come. */
  #early: readonly AllowedFile[] = [];
  /** Paths that are taken out once nobody holds them any more. */
  #left: string[] = [];
  #holds = 0;

  constructor(daemon: PlacedDaemon, logger: Logger, timeoutMs: number | undefined) {
    this.#daemon = daemon;
    this.#logger = logger;
    this.#timeoutMs = timeoutMs;
  }

  /** Lets the daemon reach these files of a disk, too; `name` is the disk's. Rejects with {@linkcode XenblkError}. */
  async place(name: string, files: readonly AllowedFile[]): Promise<void> {
    const { record, directory, name: daemon } = this.#daemon;
    if (!record.rooted) return;
    const present = [...filesOf(Object.values(record.disks)), ...this.#early];
    const missing = files.filter((file) =>
      !present.some(({ path, writable }) => path === file.path && (writable || !file.writable))
    );
    const paths = files.map(({ path }) => path);
    this.#early = this.#early.filter(({ path }) => !paths.includes(path));
    this.#left = this.#left.filter((path) => !paths.includes(path));
    const reason = await placeFiles(record.process, directory.root, missing, this.#timeoutMs);
    if (reason === undefined) return;
    throw new XenblkError(`Cannot open ${name}: its files cannot be given to ${daemon}: ${reason}`, {
      remedy: "check that their storage answers, and that this process may use mount namespaces (CAP_SYS_ADMIN)",
    });
  }

  /** Takes files out of the daemon's reach, except those of some disks. Never rejects: the log has what stays. */
  async take(paths: readonly string[], but: readonly DiskRecord[]): Promise<void> {
    const { record, directory } = this.#daemon;
    if (!record.rooted) return;
    const others = filesOf(but);
    const taken = paths.filter((path) => !others.some((file) => file.path === path));
    if (this.#holds > 0) return void (this.#left = [...this.#left, ...taken]);
    if (await this.#daemon.fate(0) !== undefined) return;
    const reason = await takeFiles(record.process, directory.root, taken);
    if (reason !== undefined) this.#logger.warning(`it can still open ${taken.join(", ")}: ${reason}`);
  }

  /**
   * Lets it reach the files of a disk that is to come, and keeps what disks leave, until the result is called: a guest that
   * waits for an exchange of its image does not wait for this. Rejects as {@linkcode place}.
   */
  async hold(name: string, files: readonly AllowedFile[]): Promise<() => Promise<void>> {
    await this.place(name, files);
    this.#early = [...this.#early, ...files];
    this.#holds++;
    return async () => {
      this.#holds--;
      const early = this.#early.filter((file) => files.includes(file)).map(({ path }) => path);
      this.#early = this.#early.filter((file) => !files.includes(file));
      const left = this.#holds > 0 ? [] : this.#left.splice(0);
      await this.take([...early, ...left], Object.values(this.#daemon.record.disks));
    };
  }
}

function filesOf(disks: readonly DiskRecord[]): readonly AllowedFile[] {
  return disks.flatMap(({ files }) => files);
}
