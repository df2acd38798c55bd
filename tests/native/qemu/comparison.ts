/**
 * Random requests on a chain of qcow2 images beside a twin: the daemon is killed, the disk is closed and opened again, it
 * grows, and the chain gets another layer in between. Every read must return the twin's bytes; so must the whole image
 * whenever it is closed, and qemu-img must find nothing wrong with it.
 */

import { assertEquals } from "@std/assert";
import { errorText } from "../../../lib/errors.ts";
import { Random } from "../../../lib/guest/random.ts";
import type { Disk } from "../../../lib/storage/disk.ts";
import { SECTOR_BYTES } from "../../../lib/units.ts";
import { type EngineDisk, EngineRig, SMALL_TAGS, TAGS, tick } from "./engine_rig.ts";
import { type Counts, Exerciser } from "./exerciser.ts";
import { command } from "./rig.ts";

/** A kill near a resize comes within that time. */
const KILL_WITHIN_MS = 150;
/** How soon after a kill a resize must succeed, and the wait between two attempts. */
const RESIZE_PATIENCE_MS = 60_000;
const RESIZE_AGAIN_MS = 20;
/** Of the backend's warnings, a failure shows so many. */
const LAST_WARNINGS = 20;

/** What a comparison does. */
export interface ComparisonOptions {
  readonly seed: number;
  /** Requests on each layer. */
  readonly requestsPerLayer: number;
  /** Options of the overlays, from the base on. */
  readonly layers: readonly Layer[];
  /** The most that the disk grows to. It begins with half of that. */
  readonly sizeBytes: number;
  /** Resizes in all, on average: some fewer if the disk reaches its full size before. */
  readonly resizes: number;
  /** Requests between two deaths of the daemon, and between two closings of the disk: on average. */
  readonly killEvery: number;
  readonly reopenEvery: number;
  /** The folder for images. Default: where files for a short time are. */
  readonly under?: string;
  readonly say?: (line: string) => void;
}

/** One overlay. */
export interface Layer {
  /** For `qemu-img create -o`. */
  readonly options: string;
  /** Zeroes that are written become write-zeroes operations of the format. */
  readonly detectZeroes?: boolean;
}

/** What was done; that it returns says that all bytes were right. */
export interface ComparisonResult extends Counts {
  readonly kills: number;
  readonly reopenings: number;
  readonly layers: number;
  readonly resizes: number;
  /** Kills right before, during or right after a resize. */
  readonly resizeKills: number;
  /** Attempts at a resize that failed because the daemon was dead. */
  readonly resizeRetries: number;
  /** Comparisons of the whole image by qemu-img. */
  readonly compared: number;
  readonly elapsedMs: number;
}

/** Options of overlays that a long comparison uses. */
export const LAYERS: readonly Layer[] = [
  { options: "cluster_size=64k" },
  { options: "extended_l2=on,cluster_size=128k" },
  { options: "cluster_size=4k", detectZeroes: true },
  { options: "lazy_refcounts=on" },
  { options: "cluster_size=2M" },
  { options: "refcount_bits=1" },
  { options: "extended_l2=on,cluster_size=16k", detectZeroes: true },
  { options: "cluster_size=64k,data_file=DATA" },
  { options: "preallocation=metadata,extended_l2=on,cluster_size=32k" },
  { options: "refcount_bits=64,cluster_size=1k" },
];

/** Runs a comparison. Rejects if a byte is wrong, a request fails or qemu-img finds something. */
export async function compare(options: ComparisonOptions): Promise<ComparisonResult> {
  const beganMs = performance.now();
  await using rig = new EngineRig(options.under);
  const comparison = new Comparison(rig, options);
  try {
    await comparison.makeBase();
    for (const layer of options.layers) await comparison.runLayer(layer);
  } catch (error) {
    const warnings = rig.warnings.slice(-LAST_WARNINGS).join("\n");
    throw new Error(`seed ${options.seed}: ${errorText(error)}\nthe last warnings:\n${warnings}`, { cause: error });
  }
  return { ...comparison.result, elapsedMs: performance.now() - beganMs };
}

class Comparison {
  readonly #rig: EngineRig;
  readonly #options: ComparisonOptions;
  readonly #random: () => number;
  readonly #exerciser: Exerciser;
  readonly #twin: Uint8Array;
  #image: string;
  #kills = 0;
  #reopenings = 0;
  #layers = 0;
  #resizes = 0;
  #resizeKills = 0;
  #resizeRetries = 0;
  #compared = 0;
  /** Counts of requests at which the next kill and the next resize come. */
  #killAt = 0;
  #resizeAt = 0;
  #isResizing = false;
  #killedMs = -Infinity;

  constructor(rig: EngineRig, options: ComparisonOptions) {
    this.#rig = rig;
    this.#options = options;
    const random = new Random(options.seed);
    this.#random = () => random.fraction();
    this.#twin = new Uint8Array(options.sizeBytes);
    this.#exerciser = new Exerciser(this.#twin, this.#random, { tags: TAGS, smallTags: SMALL_TAGS });
    this.#exerciser.sizeBytes = options.sizeBytes / 2;
    this.#resizeAt = this.#about(this.#resizeEvery);
    this.#image = `${rig.folder}/base.qcow2`;
  }

  get result(): Omit<ComparisonResult, "elapsedMs"> {
    const counts = this.#exerciser.counts;
    return {
      ...counts,
      kills: this.#kills,
      reopenings: this.#reopenings,
      layers: this.#layers,
      resizes: this.#resizes,
      resizeKills: this.#resizeKills,
      resizeRetries: this.#resizeRetries,
      compared: this.#compared,
    };
  }

  /** With data in half of it. */
  async makeBase(): Promise<void> {
    const baseBytes = this.#exerciser.sizeBytes;
    const partBytes = baseBytes / 32;
    for (let part = 0; part < 32; part += 2) {
      this.#exerciser.fill(this.#twin.subarray(part * partBytes, (part + 1) * partBytes));
    }
    const raw = `${this.#rig.folder}/base.raw`;
    await Deno.writeFile(raw, this.#twin.subarray(0, baseBytes));
    await command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, this.#image);
    await Deno.remove(raw);
  }

  async runLayer(layer: Layer): Promise<void> {
    const { requestsPerLayer, reopenEvery } = this.#options;
    await this.#addLayer(layer);
    const { counts } = this.#exerciser;
    for (const end = counts.requests + requestsPerLayer; counts.requests < end;) {
      await this.#runUntil(Math.min(end, counts.requests + this.#about(reopenEvery)), layer);
      await this.#check();
      this.#reopenings++;
    }
    const { requests, kills, reopenings, resizes } = this.result;
    const done = `${requests} requests so far, ${kills} kills, ${reopenings} reopenings, ${resizes} resizes`;
    this.#options.say?.(`${layer.options}: ${done}`);
  }

  async #addLayer({ options }: Layer): Promise<void> {
    const image = `${this.#rig.folder}/layer${++this.#layers}.qcow2`;
    const create = options.replace("DATA", `${image}.data`);
    const size = String(this.#exerciser.sizeBytes);
    await command(
      "qemu-img",
      "create",
      "-q",
      "-f",
      "qcow2",
      "-o",
      create,
      "-b",
      this.#image,
      "-F",
      "qcow2",
      image,
      size,
    );
    this.#image = image;
  }

  /** Opens the disk, sends requests and closes it. The daemon dies in between, and the disk grows. */
  async #runUntil(end: number, { detectZeroes }: Layer): Promise<void> {
    const file = { driver: "file", filename: this.#image };
    const name = detectZeroes === true
      ? `json:${JSON.stringify({ driver: "qcow2", "detect-zeroes": "unmap", file })}`
      : `qcow2:${this.#image}`;
    await using disk = await this.#rig.open(name, {}, 51712);
    const { counts } = this.#exerciser;
    this.#killAt = counts.requests + this.#about(this.#options.killEvery);
    let resize = Promise.resolve();
    while (counts.requests < end || this.#isResizing) {
      await this.#exerciser.turn(disk, this.#isResizing ? Infinity : Math.min(end, this.#killAt, this.#resizeAt));
      if (this.#isResizing) {
        await tick();
        continue;
      }
      await resize;
      if (counts.requests >= end) break;
      if (counts.requests >= this.#killAt) await this.#kill();
      if (counts.requests >= this.#resizeAt) resize = this.#beginResize(disk);
    }
    await resize;
    await this.#exerciser.finish(disk);
  }

  /** False: no daemon runs. */
  async #kill(): Promise<boolean> {
    this.#killAt = this.#exerciser.counts.requests + this.#about(this.#options.killEvery);
    this.#killedMs = performance.now();
    if (!await this.#rig.killDaemon()) return false;
    this.#kills++;
    return true;
  }

  #beginResize({ disk }: EngineDisk): Promise<void> {
    const { resizes, sizeBytes } = this.#options;
    this.#resizeAt += this.#about(this.#resizeEvery);
    const before = this.#exerciser.sizeBytes;
    const bytes = Math.min(
      this.#twin.length,
      before + SECTOR_BYTES * this.#about(sizeBytes / 2 / SECTOR_BYTES / resizes),
    );
    if (bytes === before) return Promise.resolve();
    this.#isResizing = true;
    const resize = this.#resize(disk, bytes).finally(() => this.#isResizing = false);
    resize.catch(() => {}); // the caller awaits it later
    return resize;
  }

  /** Requests go on meanwhile. In half of the cases the daemon dies around the resize. */
  async #resize(disk: Disk, bytes: number): Promise<void> {
    const killing = this.#random() < 0.5 ? this.#killSoon() : undefined;
    killing?.catch(() => {}); // it is awaited below
    if (killing !== undefined && this.#random() < 0.2) await killing;
    await this.#untilResized(disk, bytes);
    await killing;
    assertEquals(disk.properties.sectors * SECTOR_BYTES, bytes);
    this.#exerciser.sizeBytes = bytes;
    this.#resizes++;
  }

  async #killSoon(): Promise<void> {
    await delay(this.#random() * KILL_WITHIN_MS);
    if (await this.#kill()) this.#resizeKills++;
  }

  /** A resize fails while its daemon is dead. It may have been carried out all the same. */
  async #untilResized(disk: Disk, bytes: number): Promise<void> {
    for (let attempts = 1;; attempts++, await delay(RESIZE_AGAIN_MS)) {
      try {
        return await disk.grow!(bytes);
      } catch (error) {
        if (performance.now() - this.#killedMs > RESIZE_PATIENCE_MS) throw error;
        if (attempts === 1) this.#options.say?.(`a resize is to be repeated: ${errorText(error)}`);
        this.#resizeRetries++;
      }
    }
  }

  /** The image that nobody has open is the twin. Clusters that nothing refers to are no fault: daemons were killed. */
  async #check(): Promise<void> {
    const { stdout, stderr } = await new Deno.Command("qemu-img", {
      args: ["check", "--output=json", "-f", "qcow2", this.#image],
    }).output();
    const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    const { corruptions = 0, "check-errors": errors = 0 } = JSON.parse(new TextDecoder().decode(stdout));
    assertEquals([corruptions, errors], [0, 0], said);
    const raw = `${this.#rig.folder}/twin.raw`;
    await Deno.writeFile(raw, this.#twin.subarray(0, this.#exerciser.sizeBytes));
    await command("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", raw, this.#image);
    this.#compared++;
  }

  get #resizeEvery(): number {
    const { requestsPerLayer, layers, resizes } = this.#options;
    return requestsPerLayer * layers.length / resizes;
  }

  /** A random number with that mean. */
  #about(mean: number): number {
    return 1 + Math.floor(this.#random() * 2 * mean);
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
