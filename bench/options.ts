/**
 * The command line of the bench: its options, and the plan that they describe. A wrong argument is an error; nothing
 * else happens here.
 */

import { parseArguments, type ParsedArguments } from "../lib/cli/args.ts";
import { verbHelp } from "../lib/cli/help.ts";
import { choice, decimal, defaulting, flag, integer, list, optional, path, size, text } from "../lib/cli/options.ts";
import { XenblkError } from "../lib/errors.ts";
import {
  CASES,
  type DiskCase,
  diskCase,
  PLOT_CASES,
  RAW_STORAGES,
  STORAGES,
  SUBJECTS,
  USUAL_SUBJECTS,
} from "./cases.ts";
import type { DiskPlan } from "./disk.ts";
import type { FairPlan } from "./fair.ts";
import type { ManyPlan } from "./many.ts";
import type { PluginPlan } from "./plugin.ts";
import type { RingPlan } from "./ring.ts";
import type { StartPlan } from "./start.ts";

const COMMAND = "deno task bench";
const CASE_NAME = /^(rand|seq)(read|write|alloc)-(\d{1,4})k-(\d{1,3})$/;
/** Requests that the largest ring (16 pages) holds. */
const MOST_DEPTH = 512;

const FACE = {
  name: "bench",
  summary: "Measure this backend on this machine, and compare it with C, QEMU and fio",
  description:
    "First the ring alone with null I/O, and a C loop with the same algorithm. Then whole backends (this one, a small one " +
    "in C, QEMU's) on a host without a hypervisor under one frontend, and fio on the same file, in alternating rounds. " +
    "Then 64 disks of 16 guests at once. Then disks in TypeScript beside one in memory. Then guests that share one " +
    "Worker. Then starts and restarts. What this machine cannot measure is left out and listed. " +
    "bench/README.md explains how to read the figures.",
  operands: [],
  permissions: "all.",
  examples: [
    `${COMMAND} --quick`,
    `${COMMAND} --plot bench/plot.svg`,
    `${COMMAND} --parts disk --storage tmpfs --cases randread-4k-32,randread-4k-1 --subjects xenblk,fio`,
    `${COMMAND} --parts disk --storage qcow2-tmpfs,qcow2-cached,qcow2-direct`,
    `${COMMAND} --parts disk --serve='--grants map --workers 1'`,
  ],
  options: {
    "quick": flag("A short run: less time, fewer rounds, a smaller image"),
    "parts": defaulting(
      list(choice("What to run", ["ring", "disk", "many", "plugin", "fair", "start"])),
      "ring,disk,many,plugin,fair,start",
    ),
    "storage": defaulting(list(choice("Where the image is", STORAGES)), RAW_STORAGES.join(",")),
    "cases": optional(
      list({
        placeholder: "CASE",
        help: "Loads, such as randread-4k-32: pattern, operation, block size, depth",
        allowed: `rand or seq, read, write or alloc, -, KiB from 4 to 1024, k-, a depth from 1 to ${MOST_DEPTH}`,
        parse: parseCase,
      }),
    ),
    "subjects": defaulting(list(choice("Programs to measure", SUBJECTS)), USUAL_SUBJECTS.join(",")),
    "qcow2": defaulting(text("OPTIONS", "Options of qcow2 images, for qemu-img -o"), "cluster_size=64k"),
    "rounds": optional(integer("Number of rounds; the median counts; 5, or 1 with --quick", 1, 99)),
    "seconds": optional(decimal("Time of a round; 1, or 0.3 with --quick", 0.05, 600, "S")),
    "size": optional(size("Size of the image; 512M, or 128M with --quick", 4096, 2 ** 20, 2 ** 36)),
    "directory": defaulting(
      path("DIR", "Directory for images that are not in memory"),
      Deno.env.get("TMPDIR") ?? "/tmp",
    ),
    "serve": optional(text("ARGS", "More arguments for serve, separated by spaces")),
    "plot": optional(path("FILE", "Write an SVG plot of IOPS against depth; measures more depths for it")),
    "json": flag("Print JSON", "J"),
  },
} as const;

/** The plan of a run. */
export interface BenchOptions {
  readonly ring: RingPlan | undefined;
  readonly disk: Omit<DiskPlan, "signal" | "program"> | undefined;
  readonly many: Omit<ManyPlan, "program"> | undefined;
  readonly fair: Omit<FairPlan, "program"> | undefined;
  readonly plugin: Omit<PluginPlan, "signal" | "program"> | undefined;
  readonly start: Omit<StartPlan, "program"> | undefined;
  readonly plot: string | undefined;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly help: boolean;
}

/** Text of --help. */
export function benchHelp(): string {
  return verbHelp(FACE).replaceAll("xenblk bench", COMMAND);
}

/** Reads the command line. Throws {@linkcode XenblkError} (usage) that names the option and what it takes. */
export function parseBenchOptions(args: readonly string[]): BenchOptions {
  const { options, common } = parsed(args);
  const { quick, parts, plot } = options;
  if (plot !== undefined && !parts.includes("disk")) {
    throw usage("Cannot use --plot without the part disk: a plot shows the figures of that part");
  }
  return {
    ring: parts.includes("ring") ? ringPlan(quick) : undefined,
    disk: parts.includes("disk") ? diskPlan(options) : undefined,
    fair: parts.includes("fair") ? fairPlan(options) : undefined,
    many: parts.includes("many") ? manyPlan(options) : undefined,
    plugin: parts.includes("plugin") ? pluginPlan(options) : undefined,
    start: parts.includes("start") ? startPlan(options) : undefined,
    plot,
    json: options.json,
    quiet: common.quiet,
    help: common.help,
  };
}

type Options = ParsedArguments<typeof FACE.options>["options"];

function parsed(args: readonly string[]): ParsedArguments<typeof FACE.options> {
  try {
    return parseArguments(FACE, args);
  } catch (error) {
    throw error instanceof XenblkError ? usage(error.message) : error;
  }
}

function usage(message: string): XenblkError {
  return new XenblkError(message, { kind: "usage", remedy: `see ${COMMAND} --help` });
}

function ringPlan(quick: boolean): RingPlan {
  return {
    segments: [1, 11],
    rounds: quick ? 3 : 7,
    requestsPerRound: quick ? 500_000 : 2_000_000,
    steadyRequests: quick ? 1_000_000 : 10_000_000,
    figures: { rounds: quick ? 200 : 2000, requestsPerRound: 32_000 },
    unreached: { processes: quick ? 1 : 24, rounds: quick ? 40 : 16, requestsPerRound: 20_000 },
  };
}

function diskPlan(options: Options): Omit<DiskPlan, "signal" | "program"> {
  const { quick, plot } = options;
  const named = options.cases ?? (plot === undefined ? undefined : CASES);
  const cases = new Map(named?.map((one) => [one.name, one]));
  if (plot !== undefined) { for (const one of PLOT_CASES) cases.set(one.name, one); }
  return {
    storages: STORAGES.filter((storage) => options.storage.includes(storage)),
    cases: named === undefined ? undefined : [...cases.values()],
    qcow2: options.qcow2,
    subjects: SUBJECTS.filter((subject) => options.subjects.includes(subject)),
    rounds: options.rounds ?? (quick ? 1 : 5),
    roundMs: (options.seconds ?? (quick ? 0.3 : 1)) * 1000,
    imageBytes: options.size ?? (quick ? 2 ** 27 : 2 ** 29),
    directory: options.directory,
    serveArguments: wordsOf(options.serve),
  };
}

function manyPlan({ quick, serve }: Options): Omit<ManyPlan, "program"> {
  return {
    domains: quick ? 4 : 16,
    disksPerDomain: 4,
    idleMs: quick ? 1000 : 10_000,
    loadMs: quick ? 1000 : 10_000,
    serveArguments: wordsOf(serve),
  };
}

function fairPlan({ quick, seconds, serve }: Options): Omit<FairPlan, "program"> {
  return { roundMs: (seconds ?? (quick ? 0.5 : 5)) * 1000, serveArguments: wordsOf(serve) };
}

function pluginPlan({ quick, rounds, seconds, serve }: Options): Omit<PluginPlan, "signal" | "program"> {
  return {
    rounds: rounds ?? (quick ? 1 : 5),
    roundMs: (seconds ?? (quick ? 0.3 : 1)) * 1000,
    serveArguments: wordsOf(serve),
  };
}

function startPlan({ quick, rounds, serve }: Options): Omit<StartPlan, "program"> {
  const runs = rounds ?? (quick ? 3 : 20);
  const [processes, secondMs] = [Math.min(runs, 5), quick ? 300 : 1000];
  return { warmStarts: runs, coldStarts: runs, restarts: runs, processes, secondMs, serveArguments: wordsOf(serve) };
}

function wordsOf(text = ""): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}

function parseCase(value: string): DiskCase | undefined {
  const match = CASE_NAME.exec(value);
  if (match === null) return undefined;
  const [kib, depth] = [Number(match[3]), Number(match[4])];
  if (kib < 4 || kib > 1024 || depth < 1 || depth > MOST_DEPTH) return undefined;
  const load = match[2] as DiskCase["operation"] | "alloc";
  return diskCase(match[1] === "rand" ? "random" : "sequential", load, kib, depth);
}
