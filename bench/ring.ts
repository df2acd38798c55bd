/**
 * Part one of the bench: the data plane alone with a disk that does nothing, beside a C loop of the same algorithm, in
 * alternating rounds of one run; then many requests while V8's garbage collections are counted. It must not know of
 * xenstore, processes of a backend, or files.
 */

import { median, ratio } from "./statistics.ts";

/** What ring_process.ts is told. */
export interface RingOrder {
  readonly segments: number;
  readonly requests: number;
  /** Collect garbage before and after, so that the trace and the heap tell what the requests left. */
  readonly watchMemory: boolean;
}

/** What ring_process.ts answers. */
export interface RingAnswer {
  readonly ns: number;
  readonly heapGrowthBytes: number;
  readonly residentGrowthBytes: number;
}

/** How long the steady state was watched, and what it cost in memory. */
export interface SteadyState {
  readonly requests: number;
  /** Garbage collections meanwhile. */
  readonly collections: number;
  /** Of the heap's live part. */
  readonly heapGrowthBytes: number;
  readonly residentGrowthBytes: number;
}

/** What came out for requests of so many segments. */
export interface RingResult {
  readonly segments: number;
  readonly requestsPerRound: number;
  /** Nanoseconds a request, by round. */
  readonly typescriptNs: readonly number[];
  /** Empty where there is no C compiler. */
  readonly cNs: readonly number[];
  readonly steady: SteadyState;
}

/** How much is measured. */
export interface RingPlan {
  readonly segments: readonly number[];
  readonly rounds: number;
  readonly requestsPerRound: number;
  readonly steadyRequests: number;
}

/** All of part one. */
export interface RingReport {
  readonly results: readonly RingResult[];
  /** What was left out, and why. */
  readonly leftOut: readonly string[];
}

const SOURCE = new URL("./ring.c", import.meta.url).pathname;
const COMPILER = "gcc";
/** V8 writes this into the trace's line for a collection that a program asked for. */
const ASKED_FOR = /\btesting\b/;

/** Requests a second of the medians, and their ratio to C where C was measured. */
export function ringRates(
  result: RingResult,
): { typescript: number; c: number | undefined; ratio: number | undefined } {
  const typescript = 1e9 / median(result.typescriptNs)!;
  const cNs = median(result.cNs);
  const c = cNs === undefined ? undefined : 1e9 / cNs;
  return { typescript, c, ratio: ratio(typescript, c) };
}

/**
 * Collections in each watched stretch of a --trace-gc output: those between two that were asked for.
 * Throws Error if the trace has an odd number of the latter.
 */
export function collectionsWatched(trace: string): number[] {
  const lines = trace.split("\n").filter((line) => /(Scavenge|Mark-Compact|Minor)/.test(line));
  const asked = lines.flatMap((line, index) => ASKED_FOR.test(line) ? [index] : []);
  if (asked.length % 2 !== 0) throw new Error("Cannot count collections: the trace ends inside a watched stretch");
  return asked.flatMap((line, index) => index % 2 === 0 ? [asked[index + 1]! - line - 1] : []);
}

/** Runs part one. `progress` hears what is being measured. */
export async function runRing(plan: RingPlan, progress: (text: string) => void): Promise<RingReport> {
  const directory = await Deno.makeTempDir({ prefix: "xenblk-bench-" });
  try {
    const program = await compile(directory);
    const leftOut = program === undefined
      ? ["the C loop beside the null-I/O ring: gcc is missing (Debian package gcc)"]
      : [];
    await using typescript = new RingProcess();
    const measured = [];
    for (const segments of plan.segments) {
      progress(`null-I/O ring, ${segments} ${segments === 1 ? "segment" : "segments"}`);
      measured.push(await measure(plan, segments, typescript, program));
    }
    const collections = collectionsWatched(await typescript.end());
    const results = measured.map(({ steady, ...rest }, i) => ({
      ...rest,
      steady: { ...steady, collections: collections[i]! },
    }));
    return { results, leftOut };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

type Uncounted = Omit<RingResult, "steady"> & { readonly steady: Omit<SteadyState, "collections"> };

async function measure(
  plan: RingPlan,
  segments: number,
  typescript: RingProcess,
  program: string | undefined,
): Promise<Uncounted> {
  const requests = plan.requestsPerRound;
  const round = { segments, requests, watchMemory: false };
  await typescript.run(round); // compiles the loop
  const typescriptNs: number[] = [];
  const cNs: number[] = [];
  for (let i = 0; i < plan.rounds; i++) {
    typescriptNs.push((await typescript.run(round)).ns / requests);
    if (program !== undefined) cNs.push(await runC(program, segments, requests) / requests);
  }
  const steadyOrder = { segments, requests: plan.steadyRequests, watchMemory: true };
  const { heapGrowthBytes, residentGrowthBytes } = await typescript.run(steadyOrder);
  const steady = { requests: plan.steadyRequests, heapGrowthBytes, residentGrowthBytes };
  return { segments, requestsPerRound: requests, typescriptNs, cNs, steady };
}

/** The C loop's program, or undefined without a compiler. Throws Error with the compiler's words. */
async function compile(directory: string): Promise<string | undefined> {
  const program = `${directory}/ring`;
  const args = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE];
  let result: Deno.CommandOutput;
  try {
    result = await new Deno.Command(COMPILER, { args, stdin: "null", stdout: "null" }).output();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  if (!result.success) throw new Error(`Cannot build ${SOURCE}: ${new TextDecoder().decode(result.stderr)}`);
  return program;
}

async function runC(program: string, segments: number, requests: number): Promise<number> {
  const args = [String(segments), String(requests)];
  const { success, stdout } = await new Deno.Command(program, { args, stdin: "null", stderr: "inherit" }).output();
  if (!success) throw new Error("Cannot measure the C loop: it answered a request wrongly");
  return JSON.parse(new TextDecoder().decode(stdout)).ns;
}

/** ring_process.ts, running. */
class RingProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #answers: ReadableStreamDefaultReader<string>;
  readonly #trace: Promise<string>;
  #unread = "";
  #ended = false;

  constructor() {
    const program = new URL("./ring_process.ts", import.meta.url).pathname;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--v8-flags=--trace-gc,--expose-gc", program],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#answers = this.#child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    this.#trace = new Response(this.#child.stdout).text();
  }

  async run(order: RingOrder): Promise<RingAnswer> {
    await this.#input.write(new TextEncoder().encode(`${JSON.stringify(order)}\n`));
    while (!this.#unread.includes("\n")) {
      const { value, done } = await this.#answers.read();
      if (done) throw new Error(`Cannot measure the ring: its process ended: ${this.#unread}`);
      this.#unread += value;
    }
    const [line, ...rest] = this.#unread.split("\n");
    this.#unread = rest.join("\n");
    if (!line!.startsWith("{")) throw new Error(`Cannot measure the ring: ${line}${this.#unread}`);
    return JSON.parse(line!);
  }

  /** Ends the process; V8's trace of all that it did. */
  async end(): Promise<string> {
    this.#ended = true;
    await this.#input.close();
    await this.#child.status;
    await this.#answers.cancel();
    return await this.#trace;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) await this.end().catch(() => {});
  }
}
