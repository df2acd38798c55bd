/**
 * Jobs of a real storage daemon's disks, watched as a serving process watches them. No test is in here.
 */

import { SYSTEM_CLOCK } from "../../../lib/clock.ts";
import { Jobs } from "../../../lib/jobs/jobs.ts";
import type { JobKinds, JobReport } from "../../../lib/jobs/job.ts";
import type { DiskDaemon } from "../../../lib/storage/disk.ts";
import { Lines, until } from "../qemu/rig.ts";

/** A serving process, as its jobs see it. Disposing it ends them as its end does. */
export class JobsRig implements AsyncDisposable {
  readonly log = new Lines();
  readonly directory: string;
  /** By the label of their device. */
  readonly disks = new Map<string, { readonly daemon?: DiskDaemon | undefined }>();
  /** Devices that are not there any more. */
  readonly gone = new Set<string>();
  /** Those whose disk gets another image. */
  readonly exchanging = new Set<string>();
  /** Every report, in order. */
  readonly told: JobReport[] = [];
  /** How often the daemons were looked at. */
  looks = 0;
  #jobs: Jobs | undefined;
  readonly #killed = new AbortController();

  constructor(folder: string, readonly kinds: JobKinds) {
    this.directory = `${folder}/jobs`;
  }

  /** Begins to watch. */
  async open(): Promise<Jobs> {
    const jobs = this.#jobs = await Jobs.open({
      directory: this.directory,
      logger: this.log,
      kinds: this.kinds,
      clock: { now: () => performance.now(), sleep: (ms, signal) => this.#sleep(ms, signal) },
      disks: {
        daemonOf: (device) => this.disks.get(device)?.daemon,
        isForeign: () => false,
        isWithoutDaemon: (device) => this.gone.has(device),
        isExchanging: (device) => this.exchanging.has(device),
      },
    });
    jobs.onChange((report) => this.told.push(report));
    return jobs;
  }

  get jobs(): Jobs {
    return this.#jobs!;
  }

  /** From now on it does nothing. */
  kill(): void {
    this.disks.clear();
    this.#killed.abort();
    this.#jobs = undefined;
  }

  /** The report of that job, once it is over. */
  async over(id: string): Promise<JobReport> {
    return await until(
      `${id} ends: ${JSON.stringify(this.#jobs?.reports())}`,
      () => this.#jobs!.reports().find((report) => report.id === id && report.ended !== undefined),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#jobs?.[Symbol.asyncDispose]();
  }

  async #sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.looks++;
    await SYSTEM_CLOCK.sleep(ms, AbortSignal.any([this.#killed.signal, ...(signal === undefined ? [] : [signal])]));
    if (this.#killed.signal.aborted) await new Promise(() => {});
  }
}

/** A label as {@linkcode JobsRig} has it, of a device of the rigs' guest. */
export function deviceOf(vdev: number): string {
  return `vbd3/5/${vdev}`;
}

/** The daemon of a disk that is open. */
export function daemonOf(disk: { readonly daemon?: DiskDaemon | undefined }): DiskDaemon {
  return disk.daemon!;
}
