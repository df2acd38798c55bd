/**
 * The jobs of one process's disks: starts them, watches them by one question per storage daemon, and sees to the end of
 * each, whoever dies meanwhile. A daemon that died has done nothing: the job has failed. A disk that was closed has ended
 * its jobs: they are cancelled. If a process was killed, its daemons went on, and the next process finds their jobs by
 * the records and goes on watching.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Logger } from "../log.ts";
import type { DiskDaemon } from "../storage/disk.ts";
import { identify, isAlive } from "../storage/qemu/process.ts";
import { QmpSilentError } from "../storage/qemu/silence.ts";
import { endsWithin } from "../within.ts";
import { isActive, type JobEnd, type JobKinds, type JobOrder, type JobReport } from "./job.ts";
import { CANCELLED, type DaemonJob, jobsOf, stateOf } from "./daemon_jobs.ts";
import { type JobRecord, JobRecords } from "./records.ts";

/** Between two questions to a daemon that has jobs; and while nobody answers, as before a disk is opened again. */
const LOOK_MS = 250;
const IDLE_LOOK_MS = 2_000;
/** How long a cancelled job may take to end: its target may not answer. */
const CANCEL_MS = 30_000;
/** How long what the process does for a job may go on when its daemon has ended it. */
const FOLLOW_MS = 60_000;
/** How long the ends of jobs may take when the process ends. */
const CLOSE_MS = 5_000;

/** Why a job is over whose disk is not served by a daemon any more. */
const CLOSED = "its disk was closed";

/** The disks of the process. */
export interface JobDisks {
  /** The daemon of a disk that this process has open. */
  daemonOf(device: string): DiskDaemon | undefined;
  /** Another process has the device, or may have it. */
  isForeign(device: string): boolean;
  /** The device is gone, or an image of it is open that no daemon serves: no daemon has a disk of it. */
  isWithoutDaemon(device: string): boolean;
  /** The disk gets another image now. */
  isExchanging(device: string): boolean;
}

/** What the jobs of a process are made of. */
export interface JobsOptions {
  /** Of the records. */
  readonly directory: string;
  readonly disks: JobDisks;
  readonly kinds: JobKinds;
  readonly logger: Logger;
  readonly clock?: Clock;
}

/** A job that is not over. */
interface LiveJob {
  record: JobRecord;
  readonly over: PromiseWithResolvers<JobReport>;
  /** Its disk was open here. */
  held: boolean;
  /** It was asked to end. */
  cancelling: boolean;
  /** Its end is being seen to. */
  ending: boolean;
  /** Its kind was told that it is ready. */
  toldReady: boolean;
  /** Why it could not be completed. */
  failure?: string;
  /** What the process does for it; with why it has given up. */
  following?: Promise<string | undefined> | undefined;
  /** What its kind does since it is ready. */
  completing?: Promise<void>;
}

/** The jobs of one process. */
export class Jobs implements AsyncDisposable {
  readonly #options: JobsOptions;
  readonly #clock: Clock;
  readonly #records: JobRecords;
  readonly #live = new Map<string, LiveJob>();
  /** Those that are over, the oldest first. */
  readonly #past = new Map<string, JobReport>();
  readonly #starting = new Set<string>();
  readonly #listeners = new Set<(report: JobReport) => void>();
  readonly #stop = new AbortController();
  #watching: Promise<void> | undefined;

  private constructor(options: JobsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#records = new JobRecords(options.directory);
  }

  /** Takes over what earlier processes have left. Never rejects for that. */
  static async open(options: JobsOptions): Promise<Jobs> {
    const jobs = new Jobs(options);
    const records = await jobs.#records.all().catch((error): JobRecord[] => {
      options.logger.warning(errorText(error));
      return [];
    });
    for (const record of records) {
      if (isActive(record.report)) jobs.#add(record, false);
      else jobs.#past.set(record.report.id, record.report);
    }
    jobs.#watch();
    return jobs;
  }

  /** Those of this process's disks, and of disks that are gone; those that are over first. */
  reports(): JobReport[] {
    const live = [...this.#live.values()].map(({ record }) => record.report);
    return [...this.#past.values(), ...live].filter(({ device }) => !this.#options.disks.isForeign(device));
  }

  /** Calls the listener when a job begins, has come further, or is over, until the result is disposed. */
  onChange(listener: (report: JobReport) => void): Disposable {
    const own = (report: JobReport): void => listener(report);
    this.#listeners.add(own);
    return { [Symbol.dispose]: (): void => void this.#listeners.delete(own) };
  }

  /**
   * Starts a job; it goes on by itself. Rejects with {@linkcode XenblkError} if it cannot begin, or the disk has another;
   * nothing is then left of it.
   */
  async start<D>(order: JobOrder<D>): Promise<JobReport> {
    const { kind, device, target, note } = order;
    const id = `${device.replaceAll("/", "-")}-${kind}`;
    const others = [...this.#live.values()].map(({ record }) => record.report);
    const other = others.find((report) => report.device === device);
    if (other !== undefined || this.#starting.has(device)) throw isRunning(kind, other);
    if (this.#options.disks.isExchanging(device)) throw isExchanging(kind);
    this.#starting.add(device);
    try {
      const report: JobReport = {
        id,
        kind,
        device,
        ...(target === undefined ? {} : { target }),
        ...(note === undefined ? {} : { note }),
        state: "running",
        doneBytes: 0,
        totalBytes: 0,
        started: new Date().toISOString(),
      };
      const record = await this.#begin(order, report);
      const job = this.#add(record, true);
      job.following = order.follow?.().then(() => undefined, errorText);
      this.#options.logger.info(`${device}: ${kind}${toward(report)} has begun`);
      this.#tell(job.record.report);
      this.#watch();
      return report;
    } finally {
      this.#starting.delete(device);
    }
  }

  /** Ends a job and waits for its end. Rejects with {@linkcode XenblkError}: `not-found`, or it does not end in time. */
  async cancel(id: string): Promise<JobReport> {
    const job = this.#live.get(id);
    if (job === undefined) throw notFound(id, this.#past.get(id));
    const daemon = this.#options.disks.daemonOf(job.record.report.device);
    if (daemon === undefined) {
      throw new XenblkError(`Cannot cancel job ${id}: its disk is not open at present`, {
        remedy: "repeat this once the disk is served again, or detach it, which ends its jobs",
      });
    }
    job.cancelling = true;
    const { record: { process, name, report: { kind, device } } } = job;
    await daemon.run(async (monitor) => {
      if (monitor.pid !== process.pid) return;
      const { cancel } = await this.#options.kinds[kind]?.() ?? {};
      await (cancel?.(monitor, { device, daemon, name }) ?? monitor.execute("job-cancel", { id: name }));
    }).catch((error) => {
      if (this.#live.has(id) && !job.ending) throw error; // else it has just ended
    });
    if (await endsWithin(job.over.promise, CANCEL_MS)) return await job.over.promise;
    throw new XenblkError(`Cannot cancel job ${id}: it has not ended for ${CANCEL_MS / 1000} s`, {
      kind: "timeout",
      remedy: "look at the storage of its target, which does not answer; it ends when that does",
    });
  }

  /** Resolves with the report of a job that is not over once it is. Rejects with {@linkcode XenblkError} (`not-found`). */
  async ended(id: string): Promise<JobReport> {
    const job = this.#live.get(id);
    if (job === undefined) throw notFound(id, this.#past.get(id));
    return await job.over.promise;
  }

  /** After the disks were closed: sees to the ends of their jobs. What a daemon goes on with is left to the next process. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#watching;
    await this.#look();
    const ends = [...this.#live.values()].filter(({ ending }) => ending).map(({ over }) => over.promise);
    await endsWithin(Promise.all(ends), CLOSE_MS);
    this.#listeners.clear();
  }

  #add(record: JobRecord, held: boolean): LiveJob {
    const { id } = record.report;
    const job = {
      record,
      over: Promise.withResolvers<JobReport>(),
      held,
      cancelling: false,
      ending: false,
      toldReady: false,
    };
    this.#past.delete(id);
    this.#live.set(id, job);
    return job;
  }

  /** The record is there before anything is made: a later process learns by it what there may be to remove. */
  async #begin<D>(order: JobOrder<D>, report: JobReport): Promise<JobRecord> {
    const { daemon } = order;
    let record: JobRecord | undefined;
    try {
      if (order.prepare !== undefined) {
        record = await daemon.run(({ pid }) => this.#announce(order, report, pid));
        await order.prepare();
      }
      return await daemon.run(async (monitor) => {
        record = await this.#announce(order, report, monitor.pid);
        await order.begin(monitor, record.name);
        return record;
      });
    } catch (error) {
      if (record === undefined) throw error;
      // One that does not answer may have begun: the looks find out.
      if (error instanceof QmpSilentError) return record;
      throw await this.#undone(record, error);
    }
  }

  async #announce<D>({ daemon, kind, details }: JobOrder<D>, report: JobReport, pid: number): Promise<JobRecord> {
    const process = await identify(pid) ?? { pid, startTime: "", bootId: "" };
    const record = { version: 1, report, name: `${daemon.prefix}${kind}`, process, details } as const;
    await this.#records.write(record);
    return record;
  }

  /** What is left of a job that could not begin is removed; the error to throw. */
  async #undone({ report: { id, device, kind }, details }: JobRecord, error: unknown): Promise<unknown> {
    // What is added to the daemon is removed by `begin` itself.
    await this.#end(kind, { device, details, error: errorText(error) }).catch(() => {}); // it says the same
    await this.#records.remove(id);
    this.#past.delete(id);
    return error;
  }

  /** Looks at the daemons now and then while there are jobs. */
  #watch(): void {
    if (this.#watching !== undefined || this.#live.size === 0) return;
    this.#watching = this.#lookOn().finally(() => this.#watching = undefined);
  }

  async #lookOn(): Promise<void> {
    while (this.#live.size > 0 && !this.#stop.signal.aborted) {
      const answered = await this.#look();
      await this.#clock.sleep(answered ? LOOK_MS : IDLE_LOOK_MS, this.#stop.signal);
    }
  }

  /** Whether any daemon has answered. */
  async #look(): Promise<boolean> {
    const jobs = [...this.#live.values()].filter((job) =>
      !job.ending && !this.#options.disks.isForeign(job.record.report.device)
    );
    const byDaemon = Map.groupBy(jobs, ({ record: { process } }) => process.pid);
    return (await Promise.all([...byDaemon.values()].map((jobs) => this.#lookAt(jobs)))).includes(true);
  }

  /** Asks one daemon about all of its jobs. */
  async #lookAt(jobs: readonly LiveJob[]): Promise<boolean> {
    const { process } = jobs[0]!.record;
    const present = await this.#ask(process.pid, jobs);
    const isDead = present === undefined && !await isAlive(process);
    for (const job of jobs) {
      const { report: { device }, name } = job.record;
      const isOpen = this.#options.disks.daemonOf(device) !== undefined;
      const found = present?.find((each) => each.id === name);
      if (found !== undefined) this.#take(job, found);
      else if (!isOpen && (job.held || this.#options.disks.isWithoutDaemon(device))) this.#over(job, CLOSED);
      else if (isDead) this.#over(job, deathOf(process.pid));
      else if (present !== undefined) this.#over(job, "its storage daemon knows nothing of it: the disk was closed");
      job.held ||= isOpen;
    }
    return present !== undefined;
  }

  /** What the daemon says of its jobs, by whichever disk of them it has open. Undefined: it does not say anything. */
  async #ask(pid: number, jobs: readonly LiveJob[]): Promise<readonly DaemonJob[] | undefined> {
    for (const device of new Set(jobs.map(({ record }) => record.report.device))) {
      const daemon = this.#options.disks.daemonOf(device);
      const asked = daemon?.run(async (monitor) => monitor.pid === pid ? await jobsOf(monitor) : undefined);
      const answer = await asked?.catch(() => undefined);
      if (answer !== undefined) return answer;
    }
    return undefined;
  }

  #take(job: LiveJob, found: DaemonJob): void {
    const { report } = job.record;
    const { doneBytes, totalBytes } = found;
    const state = stateOf(found);
    const now = { ...report, doneBytes, totalBytes, state: state === "over" ? report.state : state };
    const isNews = now.doneBytes !== report.doneBytes || now.totalBytes !== report.totalBytes ||
      now.state !== report.state;
    job.record = { ...job.record, report: now };
    if (state === "over") this.#over(job, found.error, true);
    else if (isNews) this.#tell(now);
    if (found.stopped !== undefined && !job.cancelling) void this.#giveUp(job, found.stopped);
    else if (state === "ready" && !job.toldReady) void this.#complete(job);
  }

  /** Ends a job that cannot be completed; without a reason if it was to end. */
  async #giveUp(job: LiveJob, failure: string | undefined): Promise<void> {
    const { id } = job.record.report;
    if (failure !== undefined) job.failure = failure;
    if (this.#live.has(id) && !job.ending) await this.cancel(id).catch(() => {}); // it is over by now
  }

  async #complete(job: LiveJob): Promise<void> {
    const { report: { kind, device }, name, details } = job.record;
    const daemon = this.#options.disks.daemonOf(device);
    if (daemon === undefined) return;
    job.toldReady = true;
    const complete = async (): Promise<void> =>
      await (await this.#options.kinds[kind]?.())?.ready?.({ device, daemon, name, details });
    try {
      await (job.completing = complete());
    } catch (error) {
      await this.#giveUp(job, job.cancelling ? undefined : errorText(error)); // it fails because it is to end
    }
  }

  #over(job: LiveJob, error: string | undefined, byDaemon = false): void {
    if (job.ending) return;
    job.ending = true;
    void this.#finish(job, error, byDaemon);
  }

  /** Waits for what the process does for a job that is over: it decides how it ended, or knows why it could not complete it. */
  async #settle(job: LiveJob, reason: string | undefined): Promise<void> {
    const { following } = job;
    if (following !== undefined && await endsWithin(following, FOLLOW_MS)) {
      const gaveUp = await following;
      // Else the reason is the daemon's, or that of whoever cancelled it.
      if (gaveUp !== undefined && reason === CANCELLED && !job.cancelling) job.failure ??= gaveUp;
    }
    await job.completing?.catch((error) => {
      if (!job.cancelling) job.failure ??= errorText(error);
    });
  }

  async #finish(job: LiveJob, reason: string | undefined, byDaemon: boolean): Promise<void> {
    await this.#settle(job, reason);
    const error = job.failure ?? reason;
    const isCancelled = job.failure === undefined && error !== undefined &&
      (job.cancelling || error === CANCELLED || error === CLOSED);
    const { logger, disks } = this.#options;
    const { report: { id, kind, device }, details, name } = job.record;
    const daemon = byDaemon ? disks.daemonOf(device) : undefined;
    let failure = error;
    let note = job.record.report.note;
    try {
      const end = { device, details, ...(daemon && { daemon }), ...(error === undefined ? {} : { error }) };
      if (await (await this.#options.kinds[kind]?.())?.succeeded?.(end) === true) failure = undefined;
      else note = await this.#end(kind, end) ?? note;
    } catch (reason) {
      // Whatever was to be done in a daemon that died meanwhile says that it cannot be reached.
      const { process } = job.record;
      failure = !byDaemon || await isAlive(process) ? errorText(reason) : deathOf(process.pid);
    }
    const report: JobReport = {
      ...job.record.report,
      state: failure === undefined ? "completed" : isCancelled ? "cancelled" : "failed",
      ...(failure === undefined ? {} : { error: failure }),
      ...(note === undefined ? {} : { note }),
      ended: new Date().toISOString(),
    };
    await this.#records.write({ ...job.record, report }).catch((also) => logger.warning(errorText(also)));
    await daemon?.run((monitor) => monitor.execute("job-dismiss", { id: name })).catch(() => {});
    this.#live.delete(id);
    this.#past.set(id, report);
    const line = `${device}: ${kind}${toward(report)} ${report.state}${failure === undefined ? "" : `: ${failure}`}`;
    if (report.state === "failed") logger.warning(line);
    else logger.info(line);
    this.#tell(report);
    job.over.resolve(report);
  }

  async #end(kind: string, end: JobEnd): Promise<string | undefined> {
    const load = this.#options.kinds[kind];
    if (load === undefined) throw new XenblkError(`Cannot end a job of kind ${kind}: another version has begun it`);
    return await (await load()).end(end);
  }

  #tell(report: JobReport): void {
    for (const listener of this.#listeners) listener(report);
  }
}

function deathOf(pid: number): string {
  return `its storage daemon (process ${pid}) died`;
}

function toward({ target }: JobReport): string {
  return target === undefined ? "" : ` to ${target}`;
}

function isRunning(kind: string, other: JobReport | undefined): XenblkError {
  const [what, id] = other === undefined ? ["job", "JOB"] : [other.kind, other.id];
  return new XenblkError(`Cannot start a ${kind}: the disk has a ${what} that is running`, {
    remedy: `wait for it (\`xenblk job list\`), or end it with \`xenblk job cancel ${id}\``,
  });
}

/** It would end with the image that the disk has now. */
function isExchanging(kind: string): XenblkError {
  return new XenblkError(`Cannot start a ${kind}: the disk gets another image now`, {
    remedy: "repeat it once that is over, see `xenblk show`",
  });
}

function notFound(id: string, past: JobReport | undefined): XenblkError {
  if (past !== undefined) return new XenblkError(`Cannot find a job ${id} that is running: it has ${past.state}`);
  return new XenblkError(`Cannot find job ${id}`, { kind: "not-found", remedy: "see `xenblk job list`" });
}
