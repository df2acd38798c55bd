/**
 * Part two of the bench: whole backends in processes of their own on a host without a hypervisor, under the same
 * frontend, and fio on the same file. They take turns in each round.
 */

import { errorText } from "../lib/errors.ts";
import { missingParts, NativeXen } from "../tests/native/harness.ts";
import { GuestProcess } from "../tests/native/serve/guest.ts";
import {
  type BackendHost,
  type DiskToServe,
  missingQemu,
  type RunningBackend,
  startQemu,
  startReference,
  startServe,
} from "./backends.ts";
import {
  CASES,
  type DiskCase,
  isQcow2,
  QCOW2_CASES,
  requestShape,
  ringPagesFor,
  type StorageName,
  type SubjectName,
} from "./cases.ts";
import { missingFio, runFio } from "./fio.ts";
import { type LoadedDisk, runGuest } from "./guest.ts";
import type { PackedProgram } from "./packed_program.ts";
import type { Measurement, Sample } from "./samples.ts";
import { findStorage, type Image, makeImage, makeQcow2, missingQemuImg, writeBack } from "./storage.ts";

/** What to measure, and how long. */
export interface DiskPlan {
  readonly storages: readonly StorageName[];
  /** Undefined: those that suit each storage. */
  readonly cases: readonly DiskCase[] | undefined;
  readonly subjects: readonly SubjectName[];
  readonly rounds: number;
  readonly roundMs: number;
  readonly imageBytes: number;
  /** The directory for images that are not in memory. */
  readonly directory: string;
  /** Options of the qcow2 images, as `qemu-img -o` takes them. */
  readonly qcow2: string;
  readonly program: PackedProgram;
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
/** Three filters that let everything pass: what it costs that they could change. */
const IDLE_FILTERS = ["throttle", "delay", "error,rate=0"].map((filter) => `--filter=${filter}`);

/** One side of the comparison on one image. */
interface Subject {
  readonly name: SubjectName;
  /** Files that it writes to. */
  readonly paths: readonly string[];
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
  readonly paths: readonly string[];
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
  /** Each round of writes that allocate has a seed of its own, and so a part of the empty image. */
  #firstSeed = 1;

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
    const missing = isQcow2(storage) ? missingQemuImg() : undefined;
    if (missing !== undefined) return void this.#leftOut.add(`${storage}: ${missing}`);
    this.#storages[storage] = found.description;
    this.#progress(`${storage}: writing the image`);
    try {
      using image = await makeImage(found, this.#plan.imageBytes);
      await using started = new AsyncDisposableStack();
      const subjects = await this.#start(storage, image, started);
      for (const diskCase of this.#cases(storage)) await this.#measureCase(storage, diskCase, subjects);
    } catch (error) {
      this.#failures.push(`${storage}: ${errorText(error)}`);
    }
  }

  #cases(storage: StorageName): readonly DiskCase[] {
    const { cases } = this.#plan;
    if (isQcow2(storage)) return cases ?? QCOW2_CASES;
    const suitable = (cases ?? CASES).filter(({ allocates }) => !allocates);
    if (suitable.length < (cases ?? CASES).length) this.#leftOut.add(`${storage}: writes that allocate need a format`);
    return suitable;
  }

  async #start(storage: StorageName, image: Image, started: AsyncDisposableStack): Promise<Subject[]> {
    const wanted = (name: SubjectName): boolean => this.#plan.subjects.includes(name);
    const subjects: Subject[] = [];
    const backends = this.#plan.subjects.filter((name) => name !== "fio");
    const missing = missingParts();
    if (backends.length > 0 && missing !== undefined) this.#leftOut.add(`backends on the native fakes: ${missing}`);
    else if (backends.length > 0) subjects.push(...await this.#startBackends(storage, image, started));
    const usesFio = wanted("fio") && !isQcow2(storage); // which would read the format's file
    const noFio = usesFio ? missingFio() : undefined;
    if (noFio !== undefined) this.#leftOut.add(`fio: ${noFio}`);
    else if (usesFio) subjects.push(fioSubject(image));
    return subjects;
  }

  async #startBackends(storage: StorageName, image: Image, started: AsyncDisposableStack): Promise<Subject[]> {
    const xen = started.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = started.use(new GuestProcess(xen, GUEST));
    const host: BackendHost = { xen, guest };
    const running: Subject[] = [];
    for (const name of this.#plan.subjects) {
      const onQcow2Only = name === "unlogged" || name === "raw";
      if (name === "fio" || (name === "null" ? this.#nullMeasured : onQcow2Only) && !isQcow2(storage)) continue;
      if ((name === "null" || name === "c") && isQcow2(storage)) continue;
      const missing = name === "qemu" ? missingQemu() : undefined;
      if (missing !== undefined) this.#leftOut.add(`${storage}, ${name}: ${missing}`);
      if (missing !== undefined) continue;
      const disks = this.#disks(storage, name, image, started);
      const backend = await this.#startBackend(`${storage}, ${name}`, () => this.#starter(name, host, image, disks));
      if (backend === undefined) continue;
      started.use(backend);
      if (name === "null") this.#nullMeasured = true;
      running.push(this.#backendSubject(storage, name, disks, backend));
    }
    return running;
  }

  /** What a backend is to serve: a raw image with rings of several sizes, or qcow2 images of its own. */
  #disks(storage: StorageName, name: SubjectName, image: Image, started: AsyncDisposableStack): DiskToServe[] {
    const cases = this.#cases(storage);
    const disk = (key: string, pages: number, params: string, path: string, shared = false): DiskToServe => {
      return { key, pages, params, directPath: image.direct && name !== "null" ? path : undefined, shared };
    };
    if (!isQcow2(storage) || name === "raw") {
      const params = name === "null" ? `null:${this.#plan.imageBytes}` : `aio:${image.path}`;
      const sizes = [...new Set(cases.map(ringPagesFor))];
      return sizes.map((pages) => disk(`${pages}`, pages, params, image.path, name !== "null"));
    }
    const { written, empty } = makeQcow2(image, name, this.#plan.qcow2, started);
    const pages = Math.max(...cases.map(ringPagesFor));
    const disks = [disk("written", pages, `qcow2:${written}`, written), disk("empty", pages, `qcow2:${empty}`, empty)];
    return disks.filter(({ key }) => cases.some(({ allocates }) => allocates === (key === "empty")));
  }

  #starter(
    name: SubjectName,
    host: BackendHost,
    image: Image,
    disks: readonly DiskToServe[],
  ): Promise<RunningBackend> {
    const { program, serveArguments } = this.#plan;
    const cache = image.direct && name !== "null" ? ["--cache", "none"] : [];
    const own = name === "unlogged" ? ["--no-write-log"] : name === "filtered" ? IDLE_FILTERS : [];
    if (name === "qemu") return startQemu(host, disks);
    if (name === "c") return startReference(host, disks);
    const kind = name === "xenblk" ? "vbd3" : `vbd${name}`;
    return startServe(host, program, kind, disks, [...cache, ...own, ...serveArguments]);
  }

  async #startBackend(what: string, start: () => Promise<RunningBackend>): Promise<RunningBackend | undefined> {
    try {
      return await start();
    } catch (error) {
      this.#failures.push(`${what}: ${errorText(error)}`);
      return undefined;
    }
  }

  #backendSubject(
    storage: StorageName,
    name: SubjectName,
    wanted: readonly DiskToServe[],
    { disks, lacks }: RunningBackend,
  ): Subject {
    const prepare = (diskCase: DiskCase): Runner | undefined => {
      if (name === "raw" && diskCase.allocates) return undefined;
      const ofFormat = isQcow2(storage) && name !== "raw";
      const key = ofFormat ? diskCase.allocates ? "empty" : "written" : `${ringPagesFor(diskCase)}`;
      const disk = disks.get(key);
      if (disk !== undefined) return guestRunner(disk, diskCase);
      this.#leftOut.add(`${storage}, ${name}, ${diskCase.name}: ${lacks.get(key)}`);
      return undefined;
    };
    const paths = wanted.map(({ params }) => params.slice(params.indexOf(":") + 1));
    return { name, paths: name === "null" ? [] : [...new Set(paths)], prepare };
  }

  async #measureCase(
    storage: StorageName,
    diskCase: DiskCase,
    subjects: readonly Subject[],
  ): Promise<void> {
    const entrants = subjects.flatMap(({ name, paths, prepare }): Entrant[] => {
      const runner = prepare(diskCase);
      return runner === undefined ? [] : [{ name, paths, runner, samples: [], failed: false }];
    });
    const firstSeed = this.#firstSeed;
    if (diskCase.allocates) this.#firstSeed += 1 + this.#plan.rounds;
    const run = (entrant: Entrant, durationMs: number, seed: number): Promise<Sample | undefined> =>
      this.#runOnce(`${storage}, ${entrant.name}`, diskCase, entrant, durationMs, firstSeed + seed);
    for (const entrant of entrants) if (entrant.runner.warmUp) await run(entrant, WARM_UP_MS, 0);
    for (let round = 0; round < this.#plan.rounds; round++) {
      // Rotate: the first of this round is the last of the next.
      for (let i = 0; i < entrants.length; i++) {
        const entrant = entrants[(i + round) % entrants.length]!;
        this.#progress(`${storage}, ${diskCase.name}, round ${round + 1} of ${this.#plan.rounds}, ${entrant.name}`);
        const sample = await run(entrant, this.#plan.roundMs, round + 1);
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
    diskCase: DiskCase,
    entrant: Entrant,
    durationMs: number,
    seed: number,
  ): Promise<Sample | undefined> {
    if (entrant.failed || this.#plan.signal.aborted) return undefined;
    try {
      const sample = await entrant.runner.run(durationMs, seed);
      if (diskCase.operation === "write") { for (const path of entrant.paths) await writeBack(path); }
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
  return { name: "fio", paths: [image.path], prepare };
}
