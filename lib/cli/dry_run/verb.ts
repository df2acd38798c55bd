/**
 * `xenblk dry-run [IMAGE]`: the real control plane and data plane serve an image to simulated guests on a simulated
 * machine, and the guests verify every byte.
 */

import { unlessAborted } from "../../abort.ts";
import { grantModeOf } from "../../backend/grant_choice.ts";
import type { AbiName } from "../../blkif/abi.ts";
import { XenblkError } from "../../errors.ts";
import type { LoadSpec } from "../../guest/load_types.ts";
import { MOST_RING_PAGE_ORDER } from "../../xenbus/features.ts";
import { usageError } from "../args.ts";
import { FILTER, GRANTS, WORKERS } from "../device_options.ts";
import type { DryRunGuest, GuestRings } from "./guest.ts";
import { type DryRunImages, givenImage, type GivenImageOptions, newImages } from "./image.ts";
import { faultOf, type PhaseResult, renderResult } from "./report.ts";
import { DryRunMachine } from "./machine.ts";
import { PhaseRunner } from "./phases.ts";
import { formatSize } from "../../sizes.ts";
import { chooseFilters } from "../../storage/filter/spec.ts";
import { FilterStack } from "../../storage/filter/stack.ts";
import { DEFAULT_PLUGIN_SETTINGS } from "../../storage/plugin/settings.ts";
import { PLUGIN_OPTIONS, pluginSettingsOf } from "../plugin_options.ts";
import { choice, decimal, defaulting, flag, integer, optional, type OptionValues, size } from "../options.ts";
import { parseBlockSizes, segmentsFor } from "./block_sizes.ts";
import { Progress } from "../progress.ts";
import { EndedBySignal, signalStatus } from "../signals.ts";
import { type Context, defineVerb } from "../verb.ts";

/** Requests of a run with neither --requests nor --seconds. */
const DEFAULT_REQUESTS = 20_000;
/**
 * Reads and writes of the random load between two flushes, and between two discards (if the disk supports them). One of
 * `BARRIER_EVERY` writes is a barrier.
 */
const FLUSH_EVERY = 200;
const BARRIER_EVERY = 500;
const DISCARD_EVERY = 400;
const DEFAULT_SIZE_BYTES = 64 * 2 ** 20;
/** Slots of a ring per page, for rings of 1, 2, 4... pages. */
const SLOTS_PER_PAGE = 32;
const ABI_NAMES: Readonly<Record<string, AbiName>> = {
  "x86_64": "x86_64-abi",
  "x86_32": "x86_32-abi",
  "arm": "arm-abi",
};

const OPTIONS = {
  "size": optional(size("Size of each new image", 512, 64 * 1024, 2 ** 40), "64M"),
  "write": flag("Write to IMAGE: DESTROYS its content"),
  "engine": optional(
    choice("Kind of a new image: a file, memory, or a disk that stores nothing", ["file", "memory", "null"]),
    "file",
  ),
  "guests": defaulting(integer("Number of guests, each with its own disk", 1, 16), "1"),
  "requests": optional(
    integer("Number of requests per guest", 1, 1e9),
    `${DEFAULT_REQUESTS} if --seconds is not given`,
  ),
  "seconds": optional(decimal("How long the guests send requests", 0.01, 86_400, "S")),
  "depth": defaulting(integer("Requests in flight per guest, up to the slots of its rings", 1, 2048), "32"),
  "ring-page-order": defaulting(
    integer("Size of a ring: log2 of its pages; a page has 32 slots", 0, MOST_RING_PAGE_ORDER),
    "0",
  ),
  "queues": defaulting(integer("Number of rings per disk", 1, 16), "1"),
  "block-sizes": defaulting({
    placeholder: "SIZES",
    help: "Sizes of requests",
    allowed:
      "sizes separated by commas, or a range such as 512-44K; each a multiple of 512 and at most 1M; above 44K " +
      "requests are indirect",
    parse: parseBlockSizes,
  }, "512-44K"),
  "mix": defaulting(decimal("Share of reads", 0, 1, "SHARE"), "0.5"),
  "abi": defaulting(choice("The guests' ABI", ["x86_64", "x86_32", "arm"]), "x86_64"),
  "grants": GRANTS,
  "filter": FILTER,
  "workers": WORKERS,
  ...PLUGIN_OPTIONS,
  "seed": defaulting(integer("Seed of the random choice of requests", 0, 2 ** 31 - 1), "1"),
  "json": flag("Print JSON", "J"),
} as const;

type Options = OptionValues<typeof OPTIONS>;

/** The verb. */
export const dryRun = defineVerb({
  name: "dry-run",
  summary: "Serve an image to a simulated guest and verify every byte; no Xen needed",
  description:
    "Without IMAGE, a new image is created and removed at the end. A given IMAGE is only read, unless --write is " +
    "given. First the guest sends random requests, with flushes, barriers and discards among them. Then it reads " +
    "everything back. At the end the image file is compared with the expected content, unless there are filters. Of an " +
    "image above 4 GiB, only the first 4 GiB are used. A plugin has no file: with --write, its whole content is read " +
    "first. IMAGE stays locked until the run is over; an image that another process writes to is " +
    "refused. A run that INT, TERM or HUP ends early verifies what it has done, and ends with status 130, 143 or 129.",
  operands: [{
    name: "IMAGE",
    help: "a path, format:target, a URI, or plugin:MODULE?TARGET",
    required: false,
    isPath: true,
  }],
  options: OPTIONS,
  permissions: "--allow-read --allow-write, limited to the checkout, IMAGE and the temporary directory. " +
    "To lock IMAGE, and so with --write, also --allow-ffi, which is as good as all permissions, and --allow-read of " +
    "/proc and of IMAGE's directory. A plugin needs --allow-all.",
  examples: [
    "xenblk dry-run",
    "xenblk dry-run --seconds 10 --guests 4 --grants map",
    "xenblk dry-run disk.img",
    "xenblk dry-run --write plugin:./my_disk.ts",
  ],
  async run(context, options, operands): Promise<number> {
    const image = operands["image"];
    checkOptions(options, image);
    const { readsOnly: overlaid } = new FilterStack(await chooseFilters(options.filter));
    const rings = frontendOf(options);
    const { signal } = context.signals;
    await using images = image === undefined
      ? newImages(options.engine ?? "file", options.size ?? DEFAULT_SIZE_BYTES, options.guests)
      : await unlessAborted(
        prepareImage(context, image, { writes: options.write, overlaid, plugin: pluginSettingsOf(options) }),
        signal,
      ).catch((error) => {
        const { received } = context.signals;
        // Its storage has not answered; what it still opens is closed with the process.
        throw received === undefined ? error : new EndedBySignal(`Cannot open ${image}`, received);
      });
    checkBlockSizes(options, images);
    const { phases, fault, imageSectorsVerified } = await serveAndLoad(context, options, rings, images);
    const { received } = context.signals;
    const result = {
      image: images.description,
      sizeBytes: images.sizeBytes,
      guests: images.images.length,
      abi: ABI_NAMES[options.abi]!,
      grants: grantModeOf(options.grants, { backend: true, frontend: true }).mode,
      seed: options.seed,
      interrupted: received !== undefined,
      phases,
      imageSectorsVerified,
      fault,
    };
    if (options.json) context.output.json(result);
    else context.output.data(renderResult(result, context.output.columns));
    if (fault !== undefined) throw new XenblkError(`Cannot verify ${images.description}: ${fault}`);
    return received === undefined ? 0 : signalStatus(received);
  },
});

/** Refuses options that contradict each other or IMAGE. */
function checkOptions(options: Options, image: string | undefined): void {
  const refuse = (message: string): never => {
    throw usageError("dry-run", message);
  };
  if (image === undefined) {
    if (options.write) refuse("Cannot use --write without IMAGE: it permits writes to a given image");
    return;
  }
  if (options.guests !== 1) refuse("Cannot use --guests with IMAGE: only one guest can use it");
  if (options.size !== undefined) refuse("Cannot use --size with IMAGE: it is the size of a new image");
  if (options.engine !== undefined) refuse("Cannot use --engine with IMAGE: it is the kind of a new image");
}

/** How a verb uses the image that it is given; see {@linkcode GivenImageOptions}. */
type ImageUse = Pick<GivenImageOptions, "writes"> & Partial<Pick<GivenImageOptions, "overlaid" | "plugin">>;

/** The image that the user named, locked if Deno's permissions allow that. */
export async function prepareImage(
  { host, inform: warn }: Context,
  name: string,
  { writes, overlaid = false, plugin = DEFAULT_PLUGIN_SETTINGS }: ImageUse,
): Promise<DryRunImages> {
  const use = { writes, overlaid, plugin, warn };
  if (Deno.permissions.querySync({ name: "ffi" }).state === "granted") {
    return await givenImage(name, { ...use, platform: await host.openNativePlatform() });
  }
  if (writes) {
    throw new XenblkError("Cannot write to IMAGE: Deno was started without the permission to lock it", {
      remedy: "run deno with --allow-ffi too, because only a C function can take the locks that QEMU respects",
    });
  }
  const images = await givenImage(name, use);
  if (images.images[0]!.path !== undefined) {
    warn(
      "IMAGE is not locked, because Deno was started without --allow-ffi: no other process may write to it meanwhile",
    );
  }
  return images;
}

/** Refuses requests that are larger than the image. */
function checkBlockSizes(options: Options, { sizeBytes, description }: DryRunImages): void {
  const sizes = options["block-sizes"];
  const mostBytes = "max" in sizes ? sizes.max : Math.max(...sizes);
  if (mostBytes <= sizeBytes) return;
  const most = `requests of up to ${formatSize(mostBytes)}`;
  throw new XenblkError(`Cannot use ${description}: it has ${formatSize(sizeBytes)}, less than ${most}`, {
    kind: "usage",
    remedy: `use a larger image, or smaller requests: --block-sizes=512-${sizeBytes}`,
  });
}

/** The findings of a run. */
interface Findings {
  readonly phases: readonly PhaseResult[];
  readonly imageSectorsVerified: number;
  readonly fault: string | undefined;
}

/** Builds the machine, runs the phases, ends the guests and compares the images. */
async function serveAndLoad(
  context: Context,
  options: Options,
  rings: GuestRings,
  { images, plugins }: DryRunImages,
): Promise<Findings> {
  const { grants, workers, filter: filters } = options;
  await using machine = await DryRunMachine.start({
    guests: images.length,
    frontend: rings,
    grants,
    workers,
    settings: { filters },
    ...(plugins === undefined ? {} : { plugins }),
    plugin: pluginSettingsOf(options),
  });
  const guests: DryRunGuest[] = [];
  for (const image of images) guests.push(await machine.addGuest(image, ABI_NAMES[options.abi]!, options.seed));
  using progress = new Progress(context.output, context.quiet || options.json);
  const runner = new PhaseRunner(guests, progress, context.signals.signal);
  const load = randomLoad(options);
  const randomEnd = { requests: load.requests && load.requests * guests.length, seconds: options.seconds };
  const wholeDisks = { requests: guests.reduce((sum, guest) => sum + guest.readBackRequests, 0) };
  const phases: PhaseResult[] = [];
  // What the disk holds has to be known before it is written to. A file is read by the model itself.
  const { path, readOnly, baseline } = images[0]!;
  if (path === undefined && !readOnly && baseline === "anything") {
    phases.push(await runner.run("first read", wholeDisks, (guest) => guest.readBack(options.depth)));
  }
  phases.push(await runner.run("random", randomEnd, async (guest) => [await guest.load(load)]));
  if (images[0]!.baseline !== undefined && !context.signals.signal.aborted) {
    phases.push(await runner.run("read back", wholeDisks, (guest) => guest.readBack(options.depth)));
  }
  for (const guest of guests) await guest.disconnect();
  // Filters may make anything of the guests' writes.
  const verdicts = filters.length > 0 ? [] : guests.map((guest) => guest.verifyImage());
  const fault = faultOf(runner.outcomes, verdicts);
  const imageSectorsVerified = verdicts.reduce((total, verdict) => total + (verdict?.verifiedSectors ?? 0), 0);
  return { phases, imageSectorsVerified, fault };
}

/** The rings that the guests' frontends ask for. */
function frontendOf(options: Options): GuestRings {
  const { depth, queues } = options;
  const ringPages = 2 ** options["ring-page-order"];
  const slots = SLOTS_PER_PAGE * ringPages * queues;
  if (depth > slots) {
    const rings = `${queues === 1 ? "a ring" : `${queues} rings`} of ${
      ringPages === 1 ? "one page" : `${ringPages} pages`
    }`;
    throw usageError("dry-run", `Cannot use --depth=${depth} with ${rings}: the most is ${slots}`);
  }
  return { ringPages, queues, segments: segmentsFor(options["block-sizes"]), requests: depth };
}

function randomLoad(options: Options): LoadSpec {
  const { requests, seconds } = options;
  return {
    seed: options.seed,
    pattern: "random",
    readShare: options.mix,
    blockBytes: options["block-sizes"],
    depth: options.depth,
    flushEvery: FLUSH_EVERY,
    barrierEvery: BARRIER_EVERY,
    discardEvery: DISCARD_EVERY,
    ...(requests === undefined && seconds !== undefined ? {} : { requests: requests ?? DEFAULT_REQUESTS }),
    ...(seconds === undefined ? {} : { durationMs: seconds * 1000 }),
  };
}
