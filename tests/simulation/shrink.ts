/**
 * Makes a failing run shorter: leaves out steps, in ever smaller pieces, and then makes single choices dull, as long as
 * the run goes on to fail in the same way. It must not know what a run does.
 */

import type { Script } from "./decisions.ts";

/** Plays a script and says how it fails, or undefined. */
export type Attempt = (script: Script) => Promise<string | undefined>;

/** What came of shrinking. */
export interface Shrunk {
  readonly script: Script;
  /** Scripts that were played. */
  readonly attempts: number;
}

/** Shrinks a script that fails, with at most so many attempts. */
export async function shrink(script: Script, attempt: Attempt, mostAttempts: number): Promise<Shrunk> {
  const shrinker = new Shrinker(script, attempt, mostAttempts);
  await shrinker.run();
  return { script: shrinker.best, attempts: shrinker.attempts };
}

/** A failure without its numbers: two runs with other numbers fail in the same way. */
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
    await this.#dull("setup");
    await this.#dull("ending");
    for (let step = 0; step < this.best.steps.length; step++) await this.#dullStep(step);
    await this.#leaveOutSteps();
  }

  /** Takes the script for the best one if it fails as the first did. */
  async #accept(script: Script): Promise<boolean> {
    if (this.attempts >= this.#most) return false;
    this.attempts++;
    const failure = await this.#attempt(script);
    if (failure === undefined || kindOfFailure(failure) !== this.#kind) return false;
    this.best = script;
    return true;
  }

  /** Half of the steps, a quarter, and so on down to single ones; from the end, which depends on the rest. */
  async #leaveOutSteps(): Promise<void> {
    for (let size = Math.ceil(this.best.steps.length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let end = this.best.steps.length; end > 0; end -= size) {
        const steps = this.best.steps.toSpliced(Math.max(0, end - size), Math.min(size, end));
        await this.#accept({ ...this.best, steps });
      }
    }
  }

  async #dull(part: "setup" | "ending"): Promise<void> {
    for (let at = 0; at < this.best[part].length; at++) {
      if (this.best[part][at] !== 0) await this.#accept({ ...this.best, [part]: this.best[part].with(at, 0) });
    }
  }

  async #dullStep(step: number): Promise<void> {
    const length = this.best.steps[step]!.length;
    for (let at = 0; at < length; at++) {
      const choices = this.best.steps[step]!;
      if (choices[at] === 0) continue;
      await this.#accept({ ...this.best, steps: this.best.steps.with(step, choices.with(at, 0)) });
    }
  }
}
