/**
 * What it costs the data plane to measure its requests, in a process of its own: request_times.ts alone, called as a queue
 * calls it, with the real clock. Arguments: rounds, and requests per round; prints one JSON line, a FiguresCost by pattern.
 */

import { openNativePlatform } from "../ffi/platform.ts";
import { OP_READ, STATUS_OKAY } from "../lib/blkif/abi.ts";
import { type FinishedSlots, RequestTimes } from "../lib/dataplane/request_times.ts";
import { createStats } from "../lib/dataplane/stats.ts";
import { type FiguresCost, type FiguresPattern, PATTERNS, SLOTS, undisturbed } from "./figures.ts";

/** One queue's times, and the requests of one take. */
class Loop {
  readonly #times = new RequestTimes({ slots: SLOTS, stats: createStats(), platform: openNativePlatform() });
  readonly #operations = new Uint8Array(SLOTS).fill(OP_READ);
  readonly #taken = Uint16Array.from({ length: SLOTS }, (_, slot) => slot);
  /** What each pass answers. */
  readonly #passes: readonly FinishedSlots[];
  readonly #settles: boolean;

  constructor({ passes, visits }: FiguresPattern) {
    const responseOperation = this.#operations;
    const status = new Int8Array(SLOTS).fill(STATUS_OKAY);
    this.#passes = Array.from({ length: passes }, (_, pass) => {
      const [first, end] = [pass, pass + 1].map((n) => Math.floor(n * SLOTS / passes));
      return { finished: this.#taken.slice(first, end), responseOperation, status };
    });
    this.#settles = visits > 1;
  }

  run(requests: number): void {
    for (let done = 0; done < requests; done += SLOTS) this.#takeAndAnswer();
  }

  #takeAndAnswer(): void {
    const times = this.#times;
    times.interrupted(); // so that the clock is read
    times.beginTaking();
    times.taken({ taken: this.#taken, responseOperation: this.#operations }, SLOTS);
    for (let pass = 0; pass < this.#passes.length; pass++) {
      const finished = this.#passes[pass]!;
      times.beginAnswering();
      times.answered(finished, finished.finished.length);
      if (this.#settles) times.settle();
    }
    times.idle();
  }
}

/** Nanoseconds per request, by round. */
function measure(pattern: FiguresPattern, rounds: number, requests: number): number[] {
  const loop = new Loop(pattern);
  loop.run(10 * requests); // compiles it
  return Array.from({ length: rounds }, () => {
    const begin = performance.now();
    loop.run(requests);
    return (performance.now() - begin) * 1e6 / requests;
  });
}

const [rounds, requests] = Deno.args.map(Number);
const costs = PATTERNS.map((pattern): FiguresCost => ({
  ...pattern,
  ns: undisturbed(measure(pattern, rounds!, requests!)),
}));
// deno-lint-ignore no-console
console.log(JSON.stringify(costs));
