/**
 * Decides what to build: each item in the cache has a digest of its inputs (scripts, package versions, the items that
 * it is made from), and is rebuilt only when the digest changes. The shell scripts in build/ do the work.
 */

import type { Stage } from "./report.ts";
import { digest, shell } from "./shell.ts";

/** An item in the cache. */
interface Built {
  readonly path: string;
  readonly key: string;
}

/** Builds everything that a boot needs, in a cache. */
export class Builder {
  readonly #cache: string;
  readonly #left: () => number;
  /** The stages so far, with their durations. */
  readonly stages: Stage[] = [];
  #fio: Promise<Built> | undefined;

  /** `left` returns the seconds that remain for the whole run. */
  constructor(cache: string, left: () => number) {
    this.#cache = cache;
    this.#left = left;
  }

  /** Installs missing packages on the machine. */
  async hostPackages(): Promise<void> {
    await this.#timed(
      "the machine's own packages",
      () => shell("build/host_packages.sh", [this.#cache], this.#atMost(600)),
    );
  }

  /** Returns the folder with a suite's images. */
  async images(suite: string): Promise<string> {
    this.#fio ??= this.#makeFio();
    const [base, fio] = await Promise.all([this.#base(suite), this.#fio]);
    const scripts = ["build/common.sh", "build/images.sh", "build/kernel.sh", "dom0/initramfs-init", "guest/init"];
    const below = [base.key, fio.key];
    const args = (out: string): string[] => [base.path, fio.path, out];
    return (await this.#make(suite, scripts, below, "build/images.sh", args)).path;
  }

  async #makeFio(): Promise<Built> {
    const args = (out: string): string[] => [this.#cache, out];
    return await this.#make("fio", ["build/common.sh", "build/fio.sh"], [], "build/fio.sh", args);
  }

  async #base(suite: string): Promise<Built> {
    const versions = await shell("build/versions.sh", [suite, this.#cache], this.#atMost(300));
    const scripts = ["build/common.sh", "build/suite.sh", "build/base.sh"];
    return await this.#make(`base-${suite}`, scripts, [versions], "build/base.sh", (out) => [suite, this.#cache, out]);
  }

  /** Builds an item unless the cache has it with the same key. */
  async #make(
    name: string,
    scripts: readonly string[],
    inputs: readonly string[],
    script: string,
    args: (out: string) => string[],
  ): Promise<Built> {
    const path = `${this.#cache}/${name}`;
    const key = await digest(scripts, inputs);
    if (await readText(`${path}.key`) === key) return { path, key };
    await remove(`${path}.key`);
    await this.#timed(`build of ${name}`, () => shell(script, args(path), this.#atMost(900)));
    await Deno.writeTextFile(`${path}.key`, key);
    return { path, key };
  }

  #atMost(seconds: number): number {
    return Math.max(1, Math.min(seconds, this.#left()));
  }

  async #timed(name: string, work: () => Promise<unknown>): Promise<void> {
    const began = performance.now();
    await work();
    this.stages.push({ name, seconds: (performance.now() - began) / 1000 });
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function remove(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
