/**
 * `xenblk serve [BACKEND-PATH]`: serves devices that a toolstack wrote into xenstore, all of a kind or one, until INT or
 * TERM. It leaves the devices Connected, so that the next serve can continue with them.
 */

import { isAbort } from "../abort.ts";
import { ownDomain } from "../backend/kind.ts";
import { checkDataPath, type NativePlatform } from "../host_platform.ts";
import type { DomId } from "../hypervisor.ts";
import { createLogger, type LogLevel } from "../log.ts";
import { type Service, startService } from "../service.ts";
import { chooseFilters } from "../storage/filter/spec.ts";
import { DEFAULT_KIND, type DeviceAddress, parseBackendPath } from "../xenbus/paths.ts";
import { usageError } from "./args.ts";
import { startCompanions } from "./companions.ts";
import { loadConfig } from "./config/file.ts";
import { settingsOf } from "./device_options.ts";
import type { OptionValues } from "./options.ts";
import { pluginSettingsOf } from "./plugin_options.ts";
import { readableLine } from "./readable.ts";
import { SERVE_OPTIONS } from "./serve_options.ts";
import { flag } from "./options.ts";
import { type Context, defineVerb } from "./verb.ts";

/** The verb. */
export const serve = defineVerb({
  name: "serve",
  keepsRunning: true,
  summary: "Serve devices that a toolstack wrote: all of a kind, or one",
  description:
    "Watches xenstore: serves devices when they appear, and releases them when they are removed. On INT, TERM or HUP it " +
    "finishes the requests in flight, flushes, and leaves the devices Connected: their guests wait, and the next serve " +
    "continues. If xenstored is restarted, serve reconnects; the disks keep working meanwhile. A configuration file has " +
    "defaults for these options, and settings of single disks; the command line takes precedence.",
  operands: [{
    name: "BACKEND-PATH",
    help: "serve only this device: /local/domain/B/backend/KIND/D/VDEV, or backend/KIND/D/VDEV",
    required: false,
    check: kindOf,
  }],
  options: {
    ...SERVE_OPTIONS,
    "json": flag("Print what happens to the disks as lines of JSON on standard output; see docs/control.md", "J"),
  },
  permissions: "--allow-ffi --allow-read --allow-write --allow-env, read and write limited to the checkout, " +
    "/run/xenblk and the images if they are regular files, read also to /etc/xenblk and the directories of images that are written to; --allow-net for the control socket " +
    "and --metrics; --allow-ffi is as good as all permissions. Images of other formats than raw, and plugins, need " +
    "--allow-all.",
  examples: [
    "xenblk serve",
    "xenblk serve --kind qdisk --grants map",
    "xenblk serve backend/vbd3/5/51728 --image a.img",
    "xenblk serve --json >events.json",
    "xenblk serve --metrics 127.0.0.1:9779",
  ],
  async run(context, given, operands): Promise<number> {
    await chooseFilters(given.filter); // a wrong one is refused before anything is looked for
    const config = await loadConfig("serve", given);
    const options = config.forServe({ options: given, given: context.given });
    chooseLogLevel(context, options["log-level"]);
    const settingsFor = config.rule({ options, given: context.given }, options.image);
    const platform = await context.host.openNativePlatform();
    const only = onlyDevice(platform, given, operands["backend-path"]);
    checkDataPath(platform);
    const logger = createLogger("backend");
    const kind = only?.kind ?? options.kind ?? DEFAULT_KIND;
    const service = await unlessEnded(startService({
      platform,
      kind,
      ...(only === undefined ? {} : { only }),
      settings: settingsOf(options, options.image),
      ...(settingsFor === undefined ? {} : { settingsFor }),
      journal: !options["no-journal"],
      writeLog: !options["no-write-log"],
      plugin: pluginSettingsOf(options),
      daemonPerDisk: options["daemon-per-disk"],
      ...(options["daemon-user"] === undefined ? {} : { daemonUser: options["daemon-user"] }),
      workers: options.workers,
      balance: !options["no-balance"],
      logger,
      guestFound: (domain, name) => void context.guestNames.set(domain, name),
      // With --detach-on-exit the start is not aborted: a device must be served before it can be detached.
      ...(options["detach-on-exit"] ? {} : { signal: context.signals.signal }),
    }));
    if (service === undefined) {
      logger.info(`ending: ${context.signals.received}, before any device was served`);
      return 0;
    }
    const closingMs = options["detach-on-exit"] ? options.timeout * 1000 : 0;
    const servesAll = only === undefined;
    const serving = { context, platform, service, verb: "serve", servesAll, kind, options, closingMs } as const;
    await using _companions = await startCompanions(serving);
    logger.info(only === undefined ? `serving all of kind ${kind}` : `serving ${operands["backend-path"]}`);
    await using _lines = given.json ? await eventLines(service) : undefined;
    const removal = service.devices.retired.then(() => "removal" as const);
    const ending = await Promise.race([context.signals.drain, removal, service.failed]);
    logger.info(`ending: ${ending}`);
    return await end(context, platform, service, options);
  },
});

async function eventLines(service: Service): Promise<AsyncDisposable> {
  const { writeEvents } = await import("../control/event_lines.ts");
  return writeEvents(service, Deno.stdout);
}

/** The file's level does not override -v and -q. */
function chooseLogLevel({ logging, given }: Context, level: LogLevel | undefined): void {
  const isFromFile = !given.has("log-level");
  if (level === undefined || (isFromFile && (given.has("verbose") || given.has("quiet")))) return;
  logging.level = level;
}

/** Undefined if a signal ended the start. */
async function unlessEnded(starting: Promise<Service>): Promise<Service | undefined> {
  try {
    return await starting;
  } catch (error) {
    if (isAbort(error)) return undefined;
    throw error;
  }
}

/** Parses BACKEND-PATH, and refuses options that contradict it. */
function onlyDevice(
  platform: NativePlatform,
  options: OptionValues<typeof SERVE_OPTIONS>,
  path: string | undefined,
): DeviceAddress | undefined {
  if (path === undefined) {
    if (options.image === undefined) return undefined;
    throw usageError("serve", "Cannot use --image without BACKEND-PATH: it is the image of one device");
  }
  const kind = kindOf(path);
  if (options.kind !== undefined && options.kind !== kind) {
    throw usageError("serve", `Cannot use --kind=${options.kind} with ${path}: it is of kind ${kind}`);
  }
  using store = platform.openXenstore();
  return parseBackendPath(path, ownDomain(store));
}

/** Throws XenblkError (usage) if it is not the path of a device. */
function kindOf(backendPath: string): string {
  // A relative path is in our own domain; the kind is the same in any.
  return parseBackendPath(backendPath, 0 as DomId).kind;
}

async function end(
  context: Context,
  { files }: NativePlatform,
  service: Service,
  options: OptionValues<typeof SERVE_OPTIONS>,
): Promise<number> {
  const leave = options["detach-on-exit"] ? "detached" : "connected";
  if (leave === "connected") files.leave(); // guests wait
  const { finished, stuck } = await service.close({ leave, timeoutMs: options.timeout * 1000 });
  for (const { label, reason } of stuck) {
    context.output.message(
      `xenblk: ${readableLine(`Cannot release ${label}: cannot ${reason}`, context.guestNames)}`,
      "error",
    );
  }
  return finished ? 0 : 1;
}
