/**
 * Fuzzing with structured requests: batches of random requests, mostly valid, on the real queue. After each batch every
 * request has exactly one response, the correct one; disk and pages hold what they must, and no canary has changed. A
 * seed replays a run, and a failing run is minimised.
 */

import type { AbiName } from "../../lib/blkif/abi.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import { Random } from "../../lib/guest/random.ts";
import type { ChannelOpener } from "../../lib/storage/disk.ts";
import { ABI_NAMES, GRANT_MODES, openMemory, PAGE, SECTOR_SIZES, type SectorBytes, World } from "../hardening/world.ts";
import type { WireAnswer, WireRequest } from "../hardening/wire.ts";
import { LateChannel } from "./late_channel.ts";
import { Model } from "./model.ts";
import { type Facts, FLUSH, judge, RequestGenerator } from "./requests.ts";

const SOURCES = 8;
const TARGETS = 8;

/** How the queue is set up; determines the whole run. */
export interface Setting {
  readonly abi: AbiName;
  readonly grants: GrantMode;
  readonly sectorBytes: SectorBytes;
  readonly readOnly: boolean;
  readonly ringPages: number;
  readonly maxRequests: number;
  readonly maxPersistentGrants: number;
  readonly startIndex: number;
  readonly sectors: number;
  /** Most segments offered for indirect requests; 0: not offered. */
  readonly indirectSegments: number;
  /** Discards are offered. */
  readonly discard: boolean;
  /** Completions come late and out of order. */
  readonly delayed: boolean;
  /** For requests, data and delays. */
  readonly seed: number;
}

/** A random setting. */
export function randomSetting(random: Random): Setting {
  const large = random.chance(0.1);
  return {
    sectors: large ? 2304 : 256,
    indirectSegments: large ? 256 : random.pick([0, 1, 12, 32, 100, 256]),
    discard: random.chance(0.7),
    abi: random.pick(ABI_NAMES),
    grants: random.pick(GRANT_MODES),
    sectorBytes: random.chance(0.7) ? 512 : random.pick(SECTOR_SIZES),
    readOnly: random.chance(0.15),
    ringPages: random.pick([1, 1, 1, 2, 4, 16]),
    maxRequests: random.chance(0.5) ? 512 : random.between(1, 40),
    maxPersistentGrants: random.chance(0.5) ? 1056 : random.between(1, 16),
    startIndex: random.chance(0.5) ? 0 : random.pick([2 ** 31 - 20, 2 ** 32 - 20, random.next()]),
    delayed: random.chance(0.3),
    seed: random.next(),
  };
}

/** One run: a queue, its guest and the model. */
export class StructuredRun implements Disposable {
  readonly world: World;
  readonly #random: Random;
  readonly #facts: Facts;
  readonly #model: Model;
  readonly #generator: RequestGenerator;
  readonly #sourcePages: readonly Uint8Array[];
  /** A request that needs a batch of its own: it is the next batch. */
  #postponed: WireRequest | undefined;

  constructor(setting: Setting) {
    const random = new Random(setting.seed);
    this.#random = random;
    this.world = new World({
      ...setting,
      dataPages: SOURCES + TARGETS,
      ...(setting.delayed ? { openChannel: delayingChannel(random) } : {}),
    });
    const { data, readOnly, lists, revoked, foreign } = this.world.grants;
    this.#facts = {
      sectors: BigInt(this.world.properties.sectors),
      readOnly: setting.readOnly,
      alignment: setting.sectorBytes / 512,
      sources: data.refs.slice(0, SOURCES),
      targets: data.refs.slice(SOURCES),
      readOnlyPages: readOnly.refs,
      lists: lists.refs,
      indirectSegments: setting.indirectSegments,
      discard: setting.discard,
      bad: [0, 7, 1023, 2 ** 31, 2 ** 32 - 1, revoked, foreign.refs[0]!],
    };
    const pages = new Map<number, Uint8Array>();
    data.refs.forEach((ref, i) => pages.set(ref, this.world.page(i)));
    readOnly.refs.forEach((ref, i) => pages.set(ref, readOnly.view.subarray(i * PAGE, (i + 1) * PAGE)));
    this.#sourcePages = this.#facts.sources.map((ref) => pages.get(ref)!);
    // With persistent grants some reads go to the mapped page at once and others are copied later.
    const unordered = setting.delayed || setting.grants === "persistent";
    this.#model = new Model(this.#facts, { disk: this.world.disk, pages }, unordered);
    this.#generator = new RequestGenerator(random, this.#facts);
  }

  /** The next batch. A flush with data is a batch of its own: its order among others is not determined. */
  nextBatch(): WireRequest[] {
    const batch: WireRequest[] = [];
    const most = this.#random.chance(0.1) ? 32 : this.#random.between(1, 16);
    while (batch.length < most) {
      const request = this.#postponed ?? this.#generator.next();
      this.#postponed = undefined;
      if (!flushesData(request)) batch.push(request);
      else if (batch.length === 0) return [request];
      else {
        this.#postponed = request;
        return batch;
      }
    }
    return batch;
  }

  /** Serves a batch. Throws Error if a response, the disk or a page is not as it must be. */
  serve(batch: readonly WireRequest[]): void {
    this.#writePages();
    const world = this.world;
    world.send(...batch);
    const answers = world.answers();
    if (world.connection.queue.broken !== undefined) throw new Error("the ring was stopped");
    compareAnswers(batch.map((request) => expected(request, this.#facts)), answers);
    this.#model.apply(batch);
    this.#model.compare();
    if (this.#random.chance(0.05)) world.connection.queue.releaseIdle();
  }

  [Symbol.dispose](): void {
    this.world[Symbol.dispose]();
  }

  #writePages(): void {
    const page = this.#random.below(SOURCES);
    const words = new Int32Array(this.#sourcePages[page]!.buffer, this.#sourcePages[page]!.byteOffset, PAGE / 4);
    const first = this.#random.next();
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(first + i, 0x9E3779B1);
    this.#model.refresh(this.#facts.sources[page]!);
  }
}

/** A channel whose completions come up to three reaps late. */
function delayingChannel(random: Random): ChannelOpener {
  return (attachment, options) => new LateChannel(openMemory(attachment, options), () => random.below(4));
}

function flushesData(request: WireRequest): boolean {
  return request.form === "direct" && request.operation === FLUSH && request.count !== 0 &&
    request.segments.length > 0;
}

function expected(request: WireRequest, facts: Facts): WireAnswer {
  const echo = request.form === "direct" ? request.operation : request.form === "discard" ? 5 : +(request.inner === 1);
  return { id: request.id, operation: echo, status: judge(request, facts).status };
}

/** Each request must have one response, in any order. */
function compareAnswers(wanted: readonly WireAnswer[], got: readonly WireAnswer[]): void {
  const key = ({ id, operation, status }: WireAnswer): string => `id ${id}, operation ${operation}, status ${status}`;
  const [left, right] = [wanted.map(key).sort(), got.map(key).sort()];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    if (left[i] !== right[i]) throw new Error(`expected answer ${left[i] ?? "none"}, got ${right[i] ?? "none"}`);
  }
}

/** A failure, in the form of the corpus. */
export interface StructuredFind {
  readonly kind: "structured";
  readonly setting: Setting;
  readonly error: string;
  readonly batches: readonly (readonly WireRequest[])[];
}

/** Serves the batches. Returns the error, or undefined. */
export function replay(setting: Setting, batches: readonly (readonly WireRequest[])[]): string | undefined {
  using run = new StructuredRun(setting);
  try {
    for (const batch of batches) run.serve(batch);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Serves about `requests` requests. Returns the first failure, minimised by leaving out batches and requests. */
export function fuzzStructured(setting: Setting, requests: number): StructuredFind | undefined {
  const batches: WireRequest[][] = [];
  using run = new StructuredRun(setting);
  for (let served = 0; served < requests;) {
    const batch = run.nextBatch();
    batches.push(batch);
    served += batch.length;
    try {
      run.serve(batch);
    } catch (error) {
      return shrink(setting, batches, (error as Error).message);
    }
  }
  return undefined;
}

function shrink(setting: Setting, batches: WireRequest[][], error: string): StructuredFind {
  let best: WireRequest[][] = batches;
  const fails = (candidate: WireRequest[][]): boolean => {
    const failed = replay(setting, candidate) !== undefined;
    if (failed) best = candidate;
    return failed;
  };
  for (let length = 1; length < batches.length && !fails(batches.slice(-length)); length *= 2);
  for (let i = best.length - 1; i >= 0; i--) fails(best.filter((_, at) => at !== i));
  for (let i = best.length - 1; i >= 0; i--) {
    for (let j = best[i]!.length - 1; j >= 0; j--) {
      fails(best.map((batch, at) => at === i ? batch.filter((_, place) => place !== j) : batch));
    }
  }
  return { kind: "structured", setting, error: replay(setting, best) ?? error, batches: best };
}
