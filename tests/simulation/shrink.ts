/**
 * Shrinks a failing run: leaves out steps, in ever smaller pieces, then makes single choices less eventful, as long as
 * the run keeps failing in the same way.
 */

import type { Script } from "./decisions.ts";

/** Plays a script. Resolves with its failure, or undefined. */
export type Attempt = (script: Script) => Promise<string | undefined>;

/** The shrunk script. */
interface Shrunk {
  readonly script: Script;
  /** Number of scripts played. */
  readonly attempts: number;
}

/** Shrinks a failing script with at most `mostAttempts` attempts. */
export async function shrink(script: Script, attempt: Attempt, mostAttempts: number): Promise<Shrunk> {
  const shrinker = new Shrinker(script, attempt, mostAttempts);
  await shrinker.run();
  return { script: shrinker.best, attempts: shrinker.attempts };
}

/** The failure without its numbers: runs that differ only in numbers fail in the same way. */
export function kindOfFailure(failure: string): string {
  return failure.split("\n")[0]!.replace(/-?\d+/g, "N");
}

class Shrinker {
  best: Script;
  attempts = 0;
  readonly #attempt: Attempt;
  readonly #most: number;
  #kind = "";

  constructor(script: Script, attempt: Attempt, most: number) {
    this.best = script;
    this.#attempt = attempt;
    this.#most = most;
  }

  async run(): Promise<void> {
    this.#kind = kindOfFailure(await this.#attempt(this.best) ?? "");
    await this.#leaveOutSteps();
    await this.#simplify("setup");
    await this.#simplify("ending");
    for (let step = 0; step < this.best.steps.length; step++) await this.#simplifyStep(step);
    await this.#leaveOutSteps();
  }

  /** Makes it the best script if it fails as the first did. */
  async #accept(script: Script): Promise<boolean> {
    if (this.attempts >= this.#most) return false;
    this.attempts++;
    const failure = await this.#attempt(script);
    if (failure === undefined || kindOfFailure(failure) !== this.#kind) return false;
    this.best = script;
    return true;
  }

  /** Leaves out halves of the steps, then quarters, down to single steps; from the end, which depends on the rest. */
  async #leaveOutSteps(): Promise<void> {
    for (let size = Math.ceil(this.best.steps.length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let end = this.best.steps.length; end > 0; end -= size) {
        const steps = this.best.steps.toSpliced(Math.max(0, end - size), Math.min(size, end));
        await this.#accept({ ...this.best, steps });
      }
    }
  }

  async #simplify(part: "setup" | "ending"): Promise<void> {
    for (let at = 0; at < this.best[part].length; at++) {
      if (this.best[part][at] !== 0) await this.#accept({ ...this.best, [part]: this.best[part].with(at, 0) });
    }
  }

  async #simplifyStep(step: number): Promise<void> {
    const length = this.best.steps[step]!.length;
    for (let at = 0; at < length; at++) {
      const choices = this.best.steps[step]!;
      if (choices[at] === 0) continue;
      await this.#accept({ ...this.best, steps: this.best.steps.with(step, choices.with(at, 0)) });
    }
  }
}
