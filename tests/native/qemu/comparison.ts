/**
 * Random requests on a chain of qcow2 images beside a twin: the daemon is killed, the disk is closed and opened again,
 * and the chain gets another layer in between. Every read must return the twin's bytes; so must the whole image whenever
 * it is closed, and qemu-img must find nothing wrong with it.
 */

import { assertEquals } from "@std/assert";
import { errorText } from "../../../lib/errors.ts";
import { Random } from "../../../lib/guest/random.ts";
import { EngineRig, SMALL_TAGS, TAGS } from "./engine_rig.ts";
import { type Counts, Exerciser } from "./exerciser.ts";
import { command } from "./rig.ts";

/** What a comparison does. */
export interface ComparisonOptions {
  readonly seed: number;
  /** Requests on each layer. */
  readonly requestsPerLayer: number;
  /** Options of the overlays, from the base on. */
  readonly layers: readonly Layer[];
  readonly sizeBytes: number;
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
    throw new Error(`seed ${options.seed}: ${errorText(error)}`, { cause: error });
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
  #compared = 0;

  constructor(rig: EngineRig, options: ComparisonOptions) {
    this.#rig = rig;
    this.#options = options;
    const random = new Random(options.seed);
    this.#random = () => random.fraction();
    this.#twin = new Uint8Array(options.sizeBytes);
    this.#exerciser = new Exerciser(this.#twin, this.#random, { tags: TAGS, smallTags: SMALL_TAGS });
    this.#image = `${rig.folder}/base.qcow2`;
  }

  get result(): Omit<ComparisonResult, "elapsedMs"> {
    const counts = this.#exerciser.counts;
    return {
      ...counts,
      kills: this.#kills,
      reopenings: this.#reopenings,
      layers: this.#layers,
      compared: this.#compared,
    };
  }

  /** Three quarters of the disk, with data in half of that: the overlays are larger than their base. */
  async makeBase(): Promise<void> {
    const baseBytes = this.#twin.length / 4 * 3;
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
    const { kills, reopenings } = this.result;
    const { requests } = counts;
    this.#options.say?.(`${layer.options}: ${requests} requests so far, ${kills} kills, ${reopenings} reopenings`);
  }

  async #addLayer({ options }: Layer): Promise<void> {
    const image = `${this.#rig.folder}/layer${++this.#layers}.qcow2`;
    const create = options.replace("DATA", `${image}.data`);
    const size = String(this.#twin.length);
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

  /** Opens the disk, sends requests and closes it. The daemon dies in between. */
  async #runUntil(end: number, { detectZeroes }: Layer): Promise<void> {
    const file = { driver: "file", filename: this.#image };
    const name = detectZeroes === true
      ? `json:${JSON.stringify({ driver: "qcow2", "detect-zeroes": "unmap", file })}`
      : `qcow2:${this.#image}`;
    await using disk = await this.#rig.open(name, {}, 51712);
    const { counts } = this.#exerciser;
    let killAt = counts.requests + this.#about(this.#options.killEvery);
    while (counts.requests < end) {
      await this.#exerciser.turn(disk, Math.min(end, killAt));
      if (counts.requests < killAt || counts.requests >= end) continue;
      await this.#rig.killDaemon();
      this.#kills++;
      killAt = counts.requests + this.#about(this.#options.killEvery);
    }
    await this.#exerciser.finish(disk);
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
    await Deno.writeFile(raw, this.#twin);
    await command("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", raw, this.#image);
    this.#compared++;
  }

  /** A random number with that mean. */
  #about(mean: number): number {
    return 1 + Math.floor(this.#random() * 2 * mean);
  }
}
