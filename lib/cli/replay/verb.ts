/**
 * `xenblk replay TRACE IMAGE`: the real control plane and data plane serve an image to a simulated guest, which issues the
 * requests of a trace; with `--against` also a second image, or the same one with other settings, to compare.
 */

import { unlessAborted } from "../../abort.ts";
import type { DeviceSettings } from "../../backend/settings.ts";
import { XenblkError } from "../../errors.ts";
import type { ReplaySpec } from "../../guest/replay_types.ts";
import type { CacheMode, EngineName } from "../../storage/disk.ts";
import { chooseFilters } from "../../storage/filter/spec.ts";
import { FilterStack } from "../../storage/filter/stack.ts";
import { RECORD_BYTES } from "../../trace/record.ts";
import { openTrace } from "../../trace/reader.ts";
import { MOST_INDIRECT_SEGMENTS } from "../../xenbus/features.ts";
import { usageError } from "../args.ts";
import { CACHE, FILTER, GRANTS, WORKERS } from "../device_options.ts";
import type { GuestRings } from "../dry_run/guest.ts";
import { prepareImage } from "../dry_run/verb.ts";
import { choice, defaulting, flag, integer, optional, type OptionValues, repeated, text } from "../options.ts";
import { PLUGIN_OPTIONS, pluginSettingsOf } from "../plugin_options.ts";
import { Progress, timeLeft } from "../progress.ts";
import { signalStatus } from "../signals.ts";
import { type Context, defineVerb } from "../verb.ts";
import { dumpTrace } from "./dump.ts";
import { errorsOf, renderReport, reportOf } from "./report.ts";
import { replaySide, type SideOptions, type SideResult, type SideWatch } from "./side.ts";

/** Slots of a ring per page. */
const SLOTS_PER_PAGE = 32;
const MOST_SPEED = 1e6;
/** In front of an image that must not be written to. */
const OVERLAY = "cow,size=1G";
/** The others need the memory of a real guest. */
const ENGINES = ["auto", "file", "memory", "null"] as const;

const OPTIONS = {
  "speed": defaulting({
    placeholder: "recorded|max|N",
    help:
      "When requests are issued: at their recorded times, as fast as they are answered, or N times as fast as recorded",
    allowed: "recorded, max, or a number above 0 such as 2.5",
    parse: parseSpeed,
  }, "max"),
  "write": flag("Write to the images: DESTROYS their content"),
  "against": optional(
    text("IMAGE", "Replay on this image too, and compare; by default with the settings of the first"),
  ),
  "no-compare": flag("With --against: do not read both disks afterwards to compare their contents"),
  "engine": defaulting(choice("Storage engine: auto is file for raw images", ENGINES), "auto"),
  "cache": CACHE,
  "against-engine": optional(choice("Engine of the second replay", ENGINES)),
  "against-cache": optional(choice("Cache mode of the second replay", ["none", "writeback", "writethrough", "unsafe"])),
  "filter": FILTER,
  "against-filter": repeated(text("FILTER", "Filters of the second replay, in place of those of the first")),
  "depth": defaulting(integer("Maximum number of requests in flight", 1, 512), "32"),
  "queues": defaulting(integer("Number of rings", 1, 16), "1"),
  "grants": GRANTS,
  "workers": WORKERS,
  ...PLUGIN_OPTIONS,
  "seed": defaulting(integer("Seed of the data that is written", 0, 2 ** 31 - 1), "1"),
  "dump": flag("Print the trace as JSON lines instead"),
  "json": flag("Print JSON", "J"),
} as const;

type Options = OptionValues<typeof OPTIONS>;

/** The verb. */
export const replay = defineVerb({
  name: "replay",
  summary: "Replay a recorded trace on an image, or compare two; no Xen needed",
  description:
    "The filter log records a trace: attach or serve with --filter log,file=TRACE. A trace has no data: what is " +
    "written depends on the seed alone. Requests that overlap are carried out in the order of the trace, and a flush " +
    "waits for the writes before it, so two images that were alike are alike again afterwards, but for what is " +
    "discarded. Without --write the images are only read: writes go to an overlay of at most 1 GiB in memory " +
    "(--filter cow,size=SIZE in place of it). Requests that the disk cannot have, for instance beyond its end, are " +
    "counted and skipped. If requests fail, the status is 1. A replay that INT, TERM or HUP ends early reports what it " +
    "has done, and ends with status 130, 143 or 129.",
  operands: [
    { name: "TRACE", help: "the path of a trace", required: true, isPath: true },
    {
      name: "IMAGE",
      help: "a path, format:target, or memory:SIZE; not with --dump",
      required: false,
      isPath: true,
    },
  ],
  options: OPTIONS,
  permissions: "As dry-run with IMAGE; --allow-read of TRACE",
  examples: [
    "xenblk replay vm.trace disk.img",
    "xenblk replay vm.trace a.img --against b.img --write --speed recorded",
    "xenblk replay --dump vm.trace | jq 'select(.durationUs > 10000)'",
  ],
  async run(context, options, operands): Promise<number> {
    const trace = operands["trace"]!;
    const image = operands["image"];
    const { signals: { signal }, output } = context;
    const stopped = (): number => context.signals.received === undefined ? 0 : signalStatus(context.signals.received);
    if (options.dump) {
      if (image !== undefined) throw usageError("replay", "Cannot use IMAGE with --dump: it replays nothing");
      await dumpTrace(trace, output, signal);
      return stopped();
    }
    if (image === undefined) throw usageError("replay", "Cannot replay without IMAGE: name an image, or memory:SIZE");
    const results = await replayAll(context, options, trace, image);
    const report = reportOf({
      trace,
      speed: options.speed,
      seed: options.seed,
      interrupted: signal.aborted,
      results,
    });
    if (options.json) output.json(report);
    else output.data(renderReport(report, output.columns));
    checkProtocol(results);
    const errors = errorsOf(report);
    if (errors > 0) throw new XenblkError(`Cannot replay all of ${trace}: ${errors} requests failed`);
    return stopped();
  },
});

/** Replays on one image, and then on the other. */
async function replayAll(context: Context, options: Options, trace: string, image: string): Promise<SideResult[]> {
  const recordsAtMost = sizeOf(trace) / RECORD_BYTES;
  const { signal } = context.signals;
  const spec: ReplaySpec = { kind: "trace", trace, speed: options.speed, seed: options.seed, depth: options.depth };
  const sides = sidesOf(options, image);
  const sweeps = sides.length === 2 && !options["no-compare"];
  using progress = new Progress(context.output, context.quiet || options.json);
  const results: SideResult[] = [];
  for (const side of sides) {
    if (signal.aborted) break;
    const show = (requests: number, bytes: number, elapsedMs: number): void =>
      progress.update(progressLine(side.name, requests, recordsAtMost, bytes, elapsedMs));
    results.push(await replayOn(context, options, side, spec, sweeps, show));
  }
  return results;
}

/** Replays on one image, which stays locked meanwhile. */
async function replayOn(
  context: Context,
  options: Options,
  { name, image, settings }: WantedSide,
  spec: ReplaySpec,
  sweeps: boolean,
  progress: SideWatch["progress"],
): Promise<SideResult> {
  const { signal } = context.signals;
  const { grants, workers, write } = options;
  const plugin = pluginSettingsOf(options);
  const { filters, overlaid } = await filtersOf(settings, write || /^(memory|null):/.test(image));
  const use = { writes: write, overlaid, plugin };
  await using images = await unlessAborted(prepareImage(context, image, use), signal);
  const side: SideOptions = {
    name,
    params: images.images[0]!.params,
    description: images.description,
    settings: { ...settings, filters },
    plugin,
    ...(images.plugins === undefined ? {} : { plugins: images.plugins }),
    grants,
    workers,
    rings: ringsOf(options),
  };
  return await replaySide(side, spec, sweeps && !image.startsWith("null:"), { signal, progress });
}

type SideSettings = Pick<DeviceSettings, "engine" | "cache" | "filters">;

/** A side as the options say. */
interface WantedSide {
  readonly name: string;
  readonly image: string;
  readonly settings: SideSettings;
}

/** The filters of a side: with an overlay, if writes must not reach the image and no filter keeps them from it yet. */
async function filtersOf(
  { filters: given }: SideSettings,
  writes: boolean,
): Promise<{ readonly filters: SideSettings["filters"]; readonly overlaid: boolean }> {
  const { readsOnly } = new FilterStack(await chooseFilters(given));
  const filters = writes || readsOnly ? given : [...given, OVERLAY];
  return { filters, overlaid: readsOnly || filters !== given };
}

/** One or two sides: the second has the settings of the first where it has none of its own. */
function sidesOf(options: Options, image: string): WantedSide[] {
  const settings = (engine: EngineName, cache: CacheMode | undefined, filters: readonly string[]): SideSettings => ({
    engine,
    filters,
    ...(cache === undefined ? {} : { cache }),
  });
  const { engine, cache, filter } = options;
  const first = { name: "A", image, settings: settings(engine, cache, filter) };
  const own = {
    image: options.against,
    engine: options["against-engine"],
    cache: options["against-cache"],
    filters: options["against-filter"].length === 0 ? undefined : options["against-filter"],
  };
  if (Object.values(own).every((value) => value === undefined)) {
    if (options["no-compare"]) throw usageError("replay", "Cannot use --no-compare without a second replay");
    return [first];
  }
  const others = settings(own.engine ?? engine, own.cache ?? cache, own.filters ?? filter);
  return [first, { name: "B", image: own.image ?? image, settings: others }];
}

/** Rings that hold all requests in flight, each of up to 1 MiB. */
function ringsOf({ depth, queues }: Options): GuestRings {
  const ringPages = 2 ** Math.ceil(Math.log2(Math.max(1, depth / SLOTS_PER_PAGE)));
  return { ringPages, queues, segments: MOST_INDIRECT_SEGMENTS, requests: depth };
}

function sizeOf(trace: string): number {
  using opened = openTrace(trace);
  opened.reader.next(); // refuses what is no trace before an image is opened
  return opened.sizeBytes;
}

function progressLine(name: string, requests: number, records: number, bytes: number, elapsedMs: number): string {
  const share = Math.min(1, requests / Math.max(1, records));
  const seconds = elapsedMs / 1000;
  const mbPerSecond = bytes / seconds / 1e6;
  const done = `about ${Math.floor(100 * share)}%${timeLeft(share, elapsedMs)}`;
  return `${name}: ${done}, ${requests} requests, ${mbPerSecond.toFixed(0)} MB/s, ${seconds.toFixed(1)} s`;
}

function checkProtocol(results: readonly SideResult[]): void {
  for (const { description, outcome: { firstProtocolError, unanswered } } of results) {
    const why = firstProtocolError ?? (unanswered > 0 ? `${unanswered} requests were never answered` : undefined);
    if (why !== undefined) {
      throw new XenblkError(`Cannot replay on ${description}: the backend broke the protocol: ${why}`);
    }
  }
}

/** 0 is as fast as it goes. */
function parseSpeed(value: string): number | undefined {
  if (value === "max") return 0;
  if (value === "recorded") return 1;
  const speed = /^\d{1,7}(\.\d{1,6})?$/.test(value) ? Number(value) : NaN;
  return speed > 0 && speed <= MOST_SPEED ? speed : undefined;
}
