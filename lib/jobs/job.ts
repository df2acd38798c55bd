/**
 * Long work of a storage daemon on a live disk, such as a backup: what is told of it, what whoever starts it gives, and
 * what each kind of work does when it is over. The daemon carries a job out; the process that serves the disk watches it.
 * A daemon goes on with its job when that process is killed, and the next process watches it to its end.
 */

import type { DaemonMonitor, DiskDaemon } from "../storage/disk.ts";

/**
 * Where a job is. `ready`: all is copied, and what the guest writes goes to both sides until the job is told to complete.
 * The last three are ends.
 */
export type JobState = "running" | "ready" | "completed" | "failed" | "cancelled";

/** A job, as people and programs see it. */
export interface JobReport {
  /** Of the disk and the kind, so unique on this host: `vbd3-5-51712-backup`. The next job of both has the same. */
  readonly id: string;
  /** `backup`, ... */
  readonly kind: string;
  /** The disk's label: `vbd3/5/51712`. */
  readonly device: string;
  /** What it writes to, or reads, for people. Absent: nothing but the disk. */
  readonly target?: string;
  readonly state: JobState;
  /** What is done, of what is known to be done; the guest's writes may make the total grow. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Why it failed, or was cancelled. */
  readonly error?: string;
  /** What has to be known of its result, such as why a backup became a full one. */
  readonly note?: string;
  /** The wall clock, in ISO 8601. */
  readonly started: string;
  readonly ended?: string;
}

/** A job to start. */
export interface JobOrder<D> {
  readonly kind: string;
  readonly device: string;
  readonly daemon: DiskDaemon;
  readonly target?: string;
  readonly note?: string;
  /** For the end of the job, perhaps in a later process: plain data, written to a file. */
  readonly details: D;
  /**
   * Makes what the job needs beside its daemon, and what {@linkcode JobKind.end} removes. What it rejects with is the order's
   * error. Absent: nothing.
   */
  prepare?(): Promise<void>;
  /**
   * Starts the daemon's job of that name, in turn with all else about the guest's disks: with `auto-dismiss` false, so
   * that its end is not missed. What it rejects with is the order's error, after {@linkcode JobKind.end}.
   */
  begin(monitor: DaemonMonitor, name: string): Promise<void>;
  /**
   * What this process does for the job once it has begun; the job is over after that. If it rejects and has cancelled the
   * daemon's job, the job has failed for that reason. Absent: nothing.
   */
  follow?(): Promise<unknown>;
}

/** A job that is over for its daemon, or with it. */
export interface JobEnd {
  readonly device: string;
  /** The disk's daemon, if it has done the job. Absent: it died, or has closed the disk. */
  readonly daemon?: DiskDaemon;
  /** As in the order. */
  readonly details: unknown;
  /** Why it has not done its work. Absent: it has. */
  readonly error?: string;
}

/** A job that has copied all, and goes on until it is told to complete. */
export interface ReadyJob {
  readonly device: string;
  readonly daemon: DiskDaemon;
  /** The daemon's name for it. */
  readonly name: string;
  readonly details: unknown;
}

/** What a kind of job does. */
export interface JobKind {
  /**
   * Completes a job that is ready; called once in each process. If it rejects, the job is cancelled. Absent: such a job
   * waits for somebody else.
   */
  ready?(job: ReadyJob): Promise<void>;
  /** Has the daemon's job end soon. Absent: QEMU's `job-cancel` does. Rejects with XenblkError. */
  cancel?(monitor: DaemonMonitor, job: Omit<ReadyJob, "details">): Promise<void>;
  /** Whether the work of a job is done although its daemon says otherwise. Absent: it is not. */
  succeeded?(end: JobEnd): Promise<boolean>;
  /**
   * Puts the result in place, or removes what there is of it. A process may be killed meanwhile: the next one calls it
   * again, with the same. Resolves with a note for the report, if there is one. Rejects with XenblkError if there is no
   * result, with the reason that is told: the job has then failed, and nothing is left to do.
   */
  end(end: JobEnd): Promise<string | undefined>;
}

/** The kinds by name; each is loaded when there is a job of it. */
export type JobKinds = Readonly<Record<string, () => Promise<JobKind>>>;

/** Whether a job is not over. */
export function isActive({ state }: Pick<JobReport, "state">): boolean {
  return state === "running" || state === "ready";
}
