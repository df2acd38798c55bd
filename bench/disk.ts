/**
 * Part two of the bench: whole backends in processes of their own on a host without a hypervisor, under the same
 * frontend, and fio on the same file. They take turns in each round.
 */

import { errorText } from "../lib/errors.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { GuestProcess } from "../tests/native/serve/guest.ts";
import { type BackendHost, missingQemu, type RunningBackend, startQemu, startServe } from "./backends.ts";
import { type DiskCase, requestShape, ringPagesFor, type StorageName, type SubjectName } from "./cases.ts";
import { missingFio, runFio } from "./fio.ts";
import { type LoadedDisk, runGuest } from "./guest.ts";
import type { Measurement, Sample } from "./samples.ts";
import { findStorage, type Image, makeImage, writeBack } from "./storage.ts";

/** What to measure, and how long. */
export interface DiskPlan {
  readonly storages: readonly StorageName[];
  readonly cases: readonly DiskCase[];
  readonly subjects: readonly SubjectName[];
  readonly rounds: number;
  readonly roundMs: number;
  readonly imageBytes: number;
  /** The directory for images that are not in memory. */
  readonly directory: string;
  /** More arguments for `serve`. */
  readonly serveArguments: readonly string[];
  /** Ends the run after the current round. */
  readonly signal: AbortSignal;
}

/** All of part two. */
export interface DiskReport {
  readonly measurements: readonly Measurement[];
  /** Storages by name, in words. */
  readonly storages: Readonly<Partial<Record<StorageName, string>>>;
  /** Parts that were not measured, and why. */
  readonly leftOut: readonly string[];
  /** Failures, as messages. */
  readonly failures: readonly string[];
}

const GUEST = 7;
const WARM_UP_MS = 300;

/** One side of the comparison on one image. */
interface Subject {
  readonly name: SubjectName;
  /** Undefined if the subject cannot serve the case; the report then lists the reason. */
  prepare(diskCase: DiskCase): Runner | undefined;
}

interface Runner {
  readonly remark: string | undefined;
  readonly warmUp: boolean;
  run(durationMs: number, seed: number): Promise<Sample>;
}

/** A subject of one case, and its samples so far. */
interface Entrant {
  readonly name: SubjectName;
  readonly runner: Runner;
  readonly samples: Sample[];
  failed: boolean;
}

/** Runs part two. `progress` is called with what is measured next. */
export async function runDisk(plan: DiskPlan, progress: (text: string) => void): Promise<DiskReport> {
  const bench = new DiskBench(plan, progress);
  for (const storage of plan.storages) {
    if (plan.signal.aborted) break;
    await bench.measureStorage(storage);
  }
  return bench.report();
}

class DiskBench {
  readonly #plan: DiskPlan;
  readonly #progress: (text: string) => void;
  readonly #measurements: Measurement[] = [];
  readonly #storages: Partial<Record<StorageName, string>> = {};
  readonly #leftOut = new Set<string>();
  readonly #failures: string[] = [];
  /** The subject with a null disk is the same on every storage, so it is measured once. */
  #nullMeasured = false;

  constructor(plan: DiskPlan, progress: (text: string) => void) {
    this.#plan = plan;
    this.#progress = progress;
  }

  report(): DiskReport {
    const leftOut = [...this.#leftOut];
    return { measurements: this.#measurements, storages: this.#storages, leftOut, failures: this.#failures };
  }

  async measureStorage(storage: StorageName): Promise<void> {
    const found = findStorage(storage, this.#plan.directory);
    if (typeof found === "string") return void this.#leftOut.add(`${storage}: ${found}`);
    this.#storages[storage] = found.description;
    this.#progress(`${storage}: writing the image`);
    try {
      using image = await makeImage(found, this.#plan.imageBytes);
      await using started = new AsyncDisposableStack();
      const subjects = await this.#start(storage, image, started);
      for (const diskCase of this.#plan.cases) await this.#measureCase(storage, image, diskCase, subjects);
    } catch (error) {
      this.#failures.push(`${storage}: ${errorText(error)}`);
    }
  }

  async #start(storage: StorageName, image: Image, started: AsyncDisposableStack): Promise<Subject[]> {
    const wanted = (name: SubjectName): boolean => this.#plan.subjects.includes(name);
    const subjects: Subject[] = [];
    const backends = this.#plan.subjects.filter((name) => name !== "fio");
    const missing = missingParts();
    if (backends.length > 0 && missing !== undefined) this.#leftOut.add(`backends on the native fakes: ${missing}`);
    else if (backends.length > 0) subjects.push(...await this.#startBackends(storage, image, started));
    const noFio = wanted("fio") ? missingFio() : undefined;
    if (noFio !== undefined) this.#leftOut.add(`fio: ${noFio}`);
    else if (wanted("fio")) subjects.push(fioSubject(image));
    return subjects;
  }

  async #startBackends(storage: StorageName, image: Image, started: AsyncDisposableStack): Promise<Subject[]> {
    const { cases, subjects, imageBytes, serveArguments } = this.#plan;
    const xen = started.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = started.use(new GuestProcess(xen, GUEST));
    const host: BackendHost = { xen, guest, ringPages: [...new Set(cases.map(ringPagesFor))] };
    const plan = { params: `aio:${image.path}`, directPath: image.direct ? image.path : undefined };
    const serveArgs = [...(image.direct ? ["--cache", "none"] : []), ...serveArguments];
    const nothing = { params: `null:${imageBytes}`, directPath: undefined };
    const starters: Readonly<Partial<Record<SubjectName, () => Promise<RunningBackend>>>> = {
      xenblk: () => startServe(host, "vbd3", plan, serveArgs),
      qemu: () => startQemu(host, plan),
      null: () => startServe(host, "vbdnull", nothing, serveArguments),
    };
    const running: Subject[] = [];
    for (const name of subjects) {
      const start = starters[name];
      if (start === undefined || (name === "null" && this.#nullMeasured)) continue;
      const missing = name === "qemu" ? missingQemu() : undefined;
      if (missing !== undefined) this.#leftOut.add(`${storage}, ${name}: ${missing}`);
      if (missing !== undefined) continue;
      const backend = await this.#startBackend(`${storage}, ${name}`, start);
      if (backend === undefined) continue;
      started.use(backend);
      if (name === "null") this.#nullMeasured = true;
      running.push(this.#backendSubject(storage, name, backend));
    }
    return running;
  }

  async #startBackend(what: string, start: () => Promise<RunningBackend>): Promise<RunningBackend | undefined> {
    try {
      return await start();
    } catch (error) {
      this.#failures.push(`${what}: ${errorText(error)}`);
      return undefined;
    }
  }

  #backendSubject(storage: StorageName, name: SubjectName, { disks, lacks }: RunningBackend): Subject {
    const prepare = (diskCase: DiskCase): Runner | undefined => {
      const pages = ringPagesFor(diskCase);
      const disk = disks.get(pages);
      if (disk !== undefined) return guestRunner(disk, diskCase);
      this.#leftOut.add(`${storage}, ${name}, ${diskCase.name}: ${lacks.get(pages)}`);
      return undefined;
    };
    return { name, prepare };
  }

  async #measureCase(
    storage: StorageName,
    image: Image,
    diskCase: DiskCase,
    subjects: readonly Subject[],
  ): Promise<void> {
    const entrants = subjects.flatMap(({ name, prepare }): Entrant[] => {
      const runner = prepare(diskCase);
      return runner === undefined ? [] : [{ name, runner, samples: [], failed: false }];
    });
    const run = (entrant: Entrant, durationMs: number, seed: number): Promise<Sample | undefined> =>
      this.#runOnce(`${storage}, ${entrant.name}`, image, diskCase, entrant, durationMs, seed);
    for (const entrant of entrants) if (entrant.runner.warmUp) await run(entrant, WARM_UP_MS, 1);
    for (let round = 0; round < this.#plan.rounds; round++) {
      // Rotate: the first of this round is the last of the next.
      for (let i = 0; i < entrants.length; i++) {
        const entrant = entrants[(i + round) % entrants.length]!;
        this.#progress(`${storage}, ${diskCase.name}, round ${round + 1} of ${this.#plan.rounds}, ${entrant.name}`);
        const sample = await run(entrant, this.#plan.roundMs, round + 2);
        if (sample !== undefined) entrant.samples.push(sample);
      }
    }
    for (const { name: subject, runner: { remark }, samples } of entrants) {
      if (samples.length === 0) continue;
      const at = subject === "null" ? undefined : storage;
      this.#measurements.push({ storage: at, case: diskCase, subject, remark, samples });
    }
  }

  /** Undefined after an interrupt or a failure of this entrant; the others continue. */
  async #runOnce(
    what: string,
    image: Image,
    diskCase: DiskCase,
    entrant: Entrant,
    durationMs: number,
    seed: number,
  ): Promise<Sample | undefined> {
    if (entrant.failed || this.#plan.signal.aborted) return undefined;
    try {
      const sample = await entrant.runner.run(durationMs, seed);
      if (diskCase.operation === "write") await writeBack(image.path);
      return sample;
    } catch (error) {
      entrant.failed = true;
      this.#failures.push(`${what}: ${errorText(error)}`);
      return undefined;
    }
  }
}

function guestRunner(disk: LoadedDisk, diskCase: DiskCase): Runner {
  const shape = requestShape(diskCase, disk.mostSegments);
  const split = shape.blockBytes !== diskCase.blockBytes;
  return {
    remark: split
      ? `blocks are split into requests of ${shape.blockBytes / 1024} KiB, ${shape.depth} in flight`
      : undefined,
    warmUp: true,
    run: (durationMs, seed) => runGuest(disk, diskCase, durationMs, seed),
  };
}

function fioSubject(image: Image): Subject {
  const prepare = (diskCase: DiskCase): Runner => ({
    remark: undefined,
    warmUp: false,
    run: (durationMs, seed) => runFio(image, diskCase, durationMs, seed),
  });
  return { name: "fio", prepare };
}
