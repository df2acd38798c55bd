/**
 * The jobs of a process that may never have one: what watches them is loaded with the first job, or if an earlier process
 * has left one.
 */

import { isActive, type JobReport } from "./job.ts";
import type { Jobs, JobsOptions } from "./jobs.ts";
import { hasRecords } from "./records.ts";

/** Loads {@linkcode Jobs} when they are needed. */
export class LazyJobs implements AsyncDisposable {
  readonly #options: JobsOptions;
  readonly #listeners = new Set<(report: JobReport) => void>();
  #loading: Promise<Jobs> | undefined;
  #loaded: Jobs | undefined;

  constructor(options: JobsOptions) {
    this.#options = options;
  }

  /** Goes on with what earlier processes have left. Resolves once that is known. */
  async begin(): Promise<void> {
    if (await hasRecords(this.#options.directory)) await this.load();
  }

  /** Those that are known now. */
  reports(): JobReport[] {
    return this.#loaded?.reports() ?? [];
  }

  /** How many of a disk, or of all, are not over. */
  active(device?: string): JobReport[] {
    return this.reports().filter((report) => isActive(report) && (device === undefined || report.device === device));
  }

  /** See {@linkcode Jobs.onChange}. */
  onChange(listener: (report: JobReport) => void): Disposable {
    const own = (report: JobReport): void => listener(report);
    this.#listeners.add(own);
    return { [Symbol.dispose]: (): void => void this.#listeners.delete(own) };
  }

  /** The jobs, loaded. */
  async load(): Promise<Jobs> {
    this.#loading ??= (async (): Promise<Jobs> => {
      const { Jobs } = await import("./jobs.ts");
      const jobs = await Jobs.open(this.#options);
      jobs.onChange((report) => this.#listeners.forEach((listener) => listener(report)));
      return this.#loaded = jobs;
    })();
    return await this.#loading;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await (await this.#loading)?.[Symbol.asyncDispose]();
  }
}
