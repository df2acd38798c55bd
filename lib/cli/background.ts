/**
 * `xenblk attach --background`: hands the disk to a running `serve` of the kind by its control socket, and returns once
 * the guest has connected.
 */

import { isAbort } from "../abort.ts";
import { SYSTEM_CLOCK } from "../clock.ts";
import { ControlClient, NoAnswerError } from "../control/client.ts";
import type { Attached, AttachParams, SettingsParams } from "../control/protocol.ts";
import { hostControlDirectory, servingProcesses } from "../control/serving.ts";
import { errorText, XenblkError } from "../errors.ts";
import { type ImageName, imageName, imageText, paramsOf, parseImage } from "../storage/image/spec.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { findDisk } from "../toolstack/detach.ts";
import { describeDevice } from "../toolstack/list.ts";
import { DEFAULT_KIND } from "../xenbus/paths.ts";
import { usageError } from "./args.ts";
import { loadConfig } from "./config/file.ts";
import { COMPANION_OPTIONS } from "./companions.ts";
import { camelCased, DEVICE_OPTIONS, settingsOf } from "./device_options.ts";
import { type AttachImage, type CreatingOptions, imageForAttach } from "./image/for_attach.ts";
import { findImage } from "./image/name.ts";
import type { OptionValues } from "./options.ts";
import { PLUGIN_OPTIONS } from "./plugin_options.ts";
import { showWait } from "./progress.ts";
import type { CONFIG_OPTIONS } from "./serve_options.ts";
import { Silent } from "./silent.ts";
import { CALL_SLACK_MS } from "./through_socket.ts";
import type { Context } from "./verb.ts";

/** What the serving process has for all its disks, so that one disk cannot choose it. */
const OF_THE_PROCESS = [
  "workers",
  "no-balance",
  "no-journal",
  "no-write-log",
  "daemon-per-disk",
  "daemon-user",
  "keep",
  ...Object.keys(PLUGIN_OPTIONS),
  ...Object.keys(COMPANION_OPTIONS),
];

/** How long a process that serves may take to start. */
const STARTING_MS = 3_000;
/** How often it is looked for. */
const LOOK_MS = 100;

/** The options of `attach` that concern its disk. */
type BackgroundOptions = OptionValues<typeof DEVICE_OPTIONS & typeof CONFIG_OPTIONS> & CreatingOptions & {
  readonly kind: string;
  readonly shared: boolean;
  readonly cdrom: boolean;
  readonly timeout: number;
  readonly json: boolean;
};

/** What is attached to whom. */
interface Wanted {
  readonly domain: string;
  readonly image: string | undefined;
  readonly vdev: string | undefined;
}

/** Resolves with the exit status. Rejects with {@linkcode XenblkError}; then nothing of the disk is left. */
export async function attachInBackground(
  context: Context,
  given: BackgroundOptions,
  wanted: Wanted,
): Promise<number> {
  checkOptions(given, context.given);
  const config = await loadConfig("attach", given);
  // The settings of the disk are the serving process's business.
  const { kind, timeout } = config.forAttach({ options: given, given: context.given }, { kind: DEFAULT_KIND });
  const options = { ...given, kind, timeout };
  const { output, inform } = context;
  const path = await servingKind(context, options);
  using client = await ControlClient.connect(path);
  if (client === undefined) throw nobodyServes(options.kind);
  const image = await imageForAttach(context, options, wanted.image);
  await warnOfContent(context, image.name);
  const { vdev, guest, params } = await handOver(context, client, options, { ...wanted, image }).catch(
    async (error) => {
      // Without an answer the guest may have the disk, and use it.
      if (error instanceof XenblkError && !(error instanceof NoAnswerError)) await image.undo();
      else if (image.isNew) inform(`${image.name} is kept: the serving process may have given it to the guest`);
      throw isAbort(error) ? aborted(image.name, error) : error;
    },
  );
  const { pid } = await client.call("hello", {});
  inform(`${params} is ${vdev} of ${domainLabel(guest)}, served by process ${pid}`);
  if (options.json) {
    using store = (await context.host.openNativePlatform()).openXenstore();
    output.json(describeDevice(store, findDisk(store, String(guest.domain), vdev).device));
  } else output.data(`${vdev}\n`);
  return 0;
}

/** A disk whose guest connects at this moment is not taken back. */
function aborted(image: string, cause: Error): XenblkError {
  return new XenblkError(`Cannot wait until the guest has ${image}: ${errorText(cause)}`, {
    cause,
    remedy: "see `xenblk list`: the attach ends, unless the guest has connected already",
  });
}

async function handOver(
  { signals, given, output, quiet }: Context,
  client: ControlClient,
  options: BackgroundOptions,
  { domain, image, vdev }: Omit<Wanted, "image"> & { readonly image: AttachImage },
): Promise<Attached> {
  const spec = await parseImage(image.name);
  const device = vdev ?? spec.vdev;
  const timeoutMs = options.timeout * 1000;
  const params: AttachParams = {
    ...chosenSettings(options, given),
    domain,
    image: await absoluteImage(imageName(spec)),
    ...(device === undefined ? {} : { vdev: device }),
    readOnly: options["read-only"] || (spec.readOnly ?? false),
    shared: options.shared || (spec.shared ?? false),
    cdrom: options.cdrom || (spec.cdrom ?? false),
    timeoutMs,
  };
  const attaching = client.call("attach", params, { timeoutMs: timeoutMs + CALL_SLACK_MS, signal: signals.signal });
  const isQuiet = quiet || options.json;
  return await showWait({ output, quiet: isQuiet, what: "waiting for the guest to connect", timeoutMs }, attaching);
}

/** The other process has another directory. An image that is not there is named all the same: that process says why. */
async function absoluteImage(name: ImageName): Promise<string> {
  try {
    return await paramsOf(name);
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    return imageText({ ...name, target: name.target.startsWith("/") ? name.target : `${Deno.cwd()}/${name.target}` });
  }
}

/** Throws {@linkcode XenblkError} (usage) for an option that only a process of the disk's own can have. */
function checkOptions(options: BackgroundOptions, given: ReadonlySet<string>): void {
  const own = OF_THE_PROCESS.find((name) => given.has(name));
  if (own !== undefined) {
    throw usageError("attach", `Cannot use --${own} with --background: it belongs to the process that serves the disk`);
  }
  if (options.overlay === undefined || options["keep-overlay"] !== undefined) return;
  throw usageError(
    "attach",
    "Cannot use --overlay with --background: nobody removes the overlay at the end; keep it with --keep-overlay",
  );
}

/** Settings with another name than their option. */
const SETTING_OF: Readonly<Record<string, string>> = {
  "queues": "maxQueues",
  "filter": "filters",
  "allow-image": "allowImages",
  "iops": "limits",
  "read-iops": "limits",
  "write-iops": "limits",
  "iops-burst": "limits",
  "bytes-per-second": "limits",
  "read-bytes-per-second": "limits",
  "write-bytes-per-second": "limits",
  "bytes-burst": "limits",
};

/** What the options that were given say: for the rest the serving process's settings hold. */
function chosenSettings(options: BackgroundOptions, given: ReadonlySet<string>): SettingsParams {
  const names = new Set(
    Object.keys(DEVICE_OPTIONS).filter((option) => given.has(option)).map((option) =>
      SETTING_OF[option] ?? camelCased(option)
    ),
  );
  const { readOnly: _readOnly, image: _image, filters: _filters, ...settings } = settingsOf(options);
  return {
    ...Object.fromEntries(Object.entries(settings).filter(([name]) => names.has(name))),
    ...(names.has("filters") ? { filters: options.filter.map(absoluteModule) } : {}),
  };
}

/** A filter from outside is named by a path that the other process would look for elsewhere. */
function absoluteModule(filter: string): string {
  const [name = ""] = filter.split(",");
  const isRelative = name.includes("/") && !name.startsWith("/") && !/^[a-z][a-z0-9+.-]+:/i.test(name);
  return isRelative ? `${Deno.cwd()}/${filter}` : filter;
}

/** The other process logs that a raw image looks like another format; who attaches it sees that here. */
async function warnOfContent({ inform }: Context, name: string): Promise<void> {
  const image = await findImage(name).catch(() => undefined); // that process says why it cannot be read
  if (image?.knownBy !== "content") return;
  const { format, target } = image;
  inform(
    `warning: image ${target}: it begins like a ${format} image, but is served as it is (raw); name it ` +
      `${format}:${target} if the guest is to see its content`,
  );
}

/** The socket of a process that serves all devices of the kind: of one that is just starting, too. */
async function servingKind(
  { output, signals: { signal }, quiet }: Context,
  { kind, json }: BackgroundOptions,
): Promise<string> {
  const looking = async (): Promise<string> => {
    for (const start = SYSTEM_CLOCK.now();;) {
      const silent = new Silent();
      const processes = await servingProcesses(hostControlDirectory(), silent.note);
      const found = processes.find(({ hello }) => hello.attaches && hello.kind === kind);
      if (found !== undefined) return found.path;
      if (signal.aborted) throw new XenblkError(`Cannot attach in the background: ${errorText(signal.reason)}`);
      if (SYSTEM_CLOCK.now() - start >= STARTING_MS) {
        throw silent.isEmpty ? nobodyServes(kind) : silent.error("Cannot attach in the background");
      }
      await SYSTEM_CLOCK.sleep(LOOK_MS, signal);
    }
  };
  const what = `waiting for a serve of kind ${kind}`;
  return await showWait({ output, quiet: quiet || json, what, timeoutMs: STARTING_MS }, looking());
}

function nobodyServes(kind: string): XenblkError {
  return new XenblkError(`Cannot attach in the background: no \`xenblk serve\` of kind ${kind} runs here`, {
    remedy: `start \`xenblk serve --kind ${kind}\` first, or attach without --background`,
  });
}
