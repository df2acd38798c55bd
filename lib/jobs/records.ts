/**
 * The files by which a later process knows of jobs: one for each, written before its daemon begins with it, and kept with
 * its end, so that `job list` tells that after a restart, too. The next job of the same disk and kind replaces it.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { ProcessIdentity } from "../storage/qemu/process.ts";
import type { JobReport } from "./job.ts";

/** Jobs that are over are forgotten after a week, and once there are so many newer ones. */
const KEPT_MS = 7 * 24 * 3_600_000;
const MOST_KEPT = 256;

/** What is known of a job. */
export interface JobRecord {
  /** Of this format. */
  readonly version: 1;
  readonly report: JobReport;
  /** The daemon's name for it. */
  readonly name: string;
  /** The daemon: with its process the job has ended. */
  readonly process: ProcessIdentity;
  readonly details: unknown;
}

/** The folder of jobs, below that of journals. */
export function jobsDirectory(journals: string): string {
  return `${journals}/jobs`;
}

/** Whether there is any record. */
export async function hasRecords(directory: string): Promise<boolean> {
  try {
    for await (const { name } of Deno.readDir(directory)) if (name.endsWith(".json")) return true;
  } catch {
    // none was ever written, or they are not ours to read
  }
  return false;
}

/** The records of one folder. */
export class JobRecords {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** All of them, the oldest first; those that nobody needs any more are removed. Rejects with {@linkcode XenblkError}. */
  async all(): Promise<JobRecord[]> {
    const found: JobRecord[] = [];
    try {
      for await (const { name } of Deno.readDir(this.#directory)) {
        if (!name.endsWith(".json")) continue;
        const record = await readRecord(`${this.#directory}/${name}`);
        if (record !== undefined) found.push(record);
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw this.#cannotKeep(error);
    }
    found.sort((one, other) => one.report.started < other.report.started ? -1 : 1);
    const over = found.filter(({ report }) => report.ended !== undefined);
    const oldest = new Date(Date.now() - KEPT_MS).toISOString();
    const old = new Set(over.filter(({ report }, i) => report.ended! < oldest || i < over.length - MOST_KEPT));
    for (const { report } of old) await this.remove(report.id);
    return found.filter((record) => !old.has(record));
  }

  /** Replaces a job's record as a whole. Rejects with {@linkcode XenblkError}; then the earlier one stays. */
  async write(record: JobRecord): Promise<void> {
    const path = this.#path(record.report.id);
    try {
      await Deno.mkdir(this.#directory, { recursive: true, mode: 0o700 });
      await Deno.writeTextFile(`${path}.new`, `${JSON.stringify(record)}\n`, { mode: 0o600 });
      await Deno.rename(`${path}.new`, path);
    } catch (error) {
      throw this.#cannotKeep(error);
    }
  }

  /** No error if there is none. */
  async remove(id: string): Promise<void> {
    await Deno.remove(this.#path(id)).catch(() => {});
  }

  #path(id: string): string {
    return `${this.#directory}/${id}.json`;
  }

  #cannotKeep(error: unknown): XenblkError {
    return new XenblkError(`Cannot keep the records of jobs in ${this.#directory}: ${errorText(error)}`, {
      cause: error,
      remedy: "free space there and make it writable, or name another directory with XENBLK_JOURNAL_DIR",
    });
  }
}

/** Undefined if it is none of this format. */
async function readRecord(path: string): Promise<JobRecord | undefined> {
  try {
    const record = JSON.parse(await Deno.readTextFile(path)) as JobRecord;
    return record.version === 1 ? record : undefined;
  } catch {
    return undefined; // another process has removed it, or an earlier version of xenblk has written it
  }
}
