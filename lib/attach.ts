/**
 * Attaching a disk: opens the image, writes the disk's nodes, serves it and waits until the guest has it. What fails
 * before that leaves nothing behind. The verb `attach` and the library's function of that name both do it here.
 */

import { unlessAborted } from "./abort.ts";
import { ServedDisk } from "./attached_disk.ts";
import { DeviceClaim, DeviceClaimedError } from "./backend/claim.ts";
import { ownDomain } from "./backend/kind.ts";
import { type ChosenLive, LIVE_NODE, liveText } from "./backend/live_settings.ts";
import type { DeviceSettings } from "./backend/settings.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import { DEFAULT_WEIGHT } from "./dataplane/fairness.ts";
import { errorText, XenblkError } from "./errors.ts";
import { checkDataPath, type HostPlatform, imageLocksOf } from "./host_platform.ts";
import type { DomId, Xenstore } from "./hypervisor.ts";
import { createLogger, type Logger } from "./log.ts";
import { startService } from "./service.ts";
import { type Disk, type DiskFile, filesOf, writesImage } from "./storage/disk.ts";
import { chooseFilters } from "./storage/filter/spec.ts";
import { FilterStack } from "./storage/filter/stack.ts";
import { checkFree } from "./storage/image/lock.ts";
import { isPlugin, needsDaemon } from "./storage/image/formats.ts";
import { findModule } from "./storage/image/plugin_name.ts";
import { activeImage } from "./storage/image/overlay_note.ts";
import { type ImageName, imageName, type ImageSpec, imageText, paramsOf, parseImage } from "./storage/image/spec.ts";
import type { PluginSettings } from "./storage/plugin/settings.ts";
import { literalPattern } from "./storage/qemu/allow.ts";
import { openDisk } from "./storage/open.ts";
import { attachDevice, removeDevice, waitForConnected } from "./toolstack/attach.ts";
import { type DomainInfo, resolveDomain } from "./toolstack/domains.ts";
import { findExcludingDisk, type ImageUser } from "./toolstack/sharing.ts";
import { DEFAULT_KIND, type DeviceAddress, isBackendKind } from "./xenbus/paths.ts";
import { formatVdev, parseVdev } from "./xenbus/vdev.ts";
import { retryConflicts } from "./xenstore.ts";

/**
 * A disk for a guest, and how it is served. Settings that are absent are as in {@linkcode DEFAULT_SETTINGS}; a CD-ROM
 * and an image with `access=ro` are read-only in any case.
 */
export interface AttachOptions extends Partial<Omit<DeviceSettings, "image">> {
  /** The guest: its name, UUID or domid. */
  readonly domain: string | number;
  /** The image: a path, `format:target`, a URI, `plugin:MODULE?TARGET`, or xl's `format=qcow2,vdev=xvdb,access=ro,target=...`. */
  readonly image: string;
  /**
   * Others may write to the image at the same time, as with `access=w!`: for a cluster file system, or to insist on an
   * image that another guest or the host uses. Default false.
   */
  readonly shared?: boolean;
  /** Name or number of the virtual device, such as `xvdb`. Absent: what the image names, or the first free one. */
  readonly vdev?: string;
  /** The guest sees a removable CD-ROM. Default false. */
  readonly cdrom?: boolean;
  /** The backend kind: the directory below `backend/` in xenstore. Default `vbd3`. */
  readonly kind?: string;
  /** Keep journals, so that the next process completes what was in flight if this one crashes. Default true. */
  readonly journal?: boolean;
  /** Most Workers that serve rings. Default: one for each CPU. */
  readonly workers?: number;
  /** Move rings from a Worker that is full to one that has room. Default true. */
  readonly balance?: boolean;
  /** A disk that needs a storage daemon has one of its own. Default: it shares the guest's. */
  readonly daemonPerDisk?: boolean;
  /** The user as whom storage daemons run, by name or number. Default: root, with CAP_DAC_OVERRIDE. */
  readonly daemonUser?: string;
  /** Keep a log of the writes that a storage daemon has not flushed. Default true. */
  readonly writeLog?: boolean;
  /** How a disk in TypeScript is run. What is absent is as in {@linkcode DEFAULT_PLUGIN_SETTINGS}. */
  readonly plugin?: Partial<PluginSettings>;
  /** How long the guest may take to connect, and later to close the disk, in milliseconds. Default 60 000. */
  readonly timeoutMs?: number;
  /** Aborting it before the guest has connected ends the attach. */
  readonly signal?: AbortSignal;
  /** Receives the backend's lines. Default: LogTape's category `xenblk.backend`. */
  readonly logger?: Logger;
  /** Called with the guest's domid and name before the first line about the disk. Absent: nobody needs the name. */
  readonly guestFound?: (domain: DomId, name: string) => void;
  /** The control plane's time: its limits, retries and pauses. Default: this process's clock. */
  readonly clock?: Clock;
}

/** How often, and how many times, a device is claimed while another process still has it. */
const CLAIM_INTERVAL_MS = 200;
const MOST_CLAIMS = 50;

/** The same as the library's `attach`, on a given host. */
export async function attachOn(platform: HostPlatform, options: AttachOptions): Promise<ServedDisk> {
  const { signal, clock = SYSTEM_CLOCK } = options;
  const prepared = await prepareAttach(platform, options);
  using store = platform.openXenstore();
  await using undo = new AsyncDisposableStack();
  const claim = undo.use(new DeviceClaim(platform.journals));
  const { limits, weight } = options;
  const chosen = {
    ...(limits === undefined ? {} : { limits }),
    ...(weight === undefined || weight === DEFAULT_WEIGHT ? {} : { weight }),
  };
  const device = await attachClaimed(store, claim, prepared, { signal, clock, chosen });
  const { guest, params } = prepared;
  const disk = await serveUntilConnected({ platform, store, claim, device, guest, params, options });
  undo.move();
  return disk;
}

/** What is found out before anything is written. */
export interface PreparedAttach {
  readonly wanted: WantedDisk;
  /** The value of the node `params`. */
  readonly params: string;
  readonly guest: DomainInfo;
  readonly backendDomain: DomId;
}

/** Looks at everything first. Rejects with {@linkcode XenblkError}; nothing was changed then. */
export async function prepareAttach(platform: HostPlatform, options: AttachOptions): Promise<PreparedAttach> {
  const { signal, image } = options;
  if (signal?.aborted) throw abortOf(image, signal); // a look that has begun would outlast the rejection
  return await unlessAborted(prepare(platform, options), signal).catch((error) => {
    throw signal?.aborted ? abortOf(image, signal) : error;
  });
}

/**
 * Reads the options and looks at the image and the guest. Each look at the image may wait for its storage, so the caller
 * need not wait for this: it holds what it opens, and once the signal has aborted it only closes that.
 */
async function prepare(platform: HostPlatform, options: AttachOptions): Promise<PreparedAttach> {
  const wanted = await readOptions(options);
  await using image = await openWanted(platform, wanted, options);
  const params = await paramsOf(imageName(wanted.image));
  options.signal?.throwIfAborted();
  using store = platform.openXenstore();
  checkDataPath(platform);
  const guest = resolveDomain(store, String(options.domain));
  const backendDomain = ownDomain(store);
  await checkUnused(platform, store, { backendDomain, frontendDomain: guest.domain }, image, wanted);
  return { wanted, params, guest, backendDomain };
}

/** The options, as far as the image's name and the defaults decide them. */
interface WantedDisk {
  readonly image: ImageSpec;
  readonly kind: string;
  readonly readOnly: boolean;
  readonly shared: boolean;
  readonly cdrom: boolean;
  readonly vdev: string | undefined;
  /** The filters let no write through to the image. */
  readonly readsOnly: boolean;
}

/** Rejects with {@linkcode XenblkError} (`usage`) if an option is wrong, before anything is opened or asked for. */
async function readOptions(options: AttachOptions): Promise<WantedDisk> {
  const image = await parseImage(options.image);
  const kind = options.kind ?? DEFAULT_KIND;
  if (!isBackendKind(kind)) {
    const allowed = "a word of letters, digits, _ and -";
    throw new XenblkError(`Cannot use backend kind ${JSON.stringify(kind)}: it is not ${allowed}`, { kind: "usage" });
  }
  const vdev = options.vdev ?? image.vdev;
  if (vdev !== undefined) parseVdev(vdev);
  const cdrom = options.cdrom || (image.cdrom ?? false);
  const readOnly = options.readOnly || cdrom || (image.readOnly ?? false);
  const shared = options.shared ?? image.shared ?? false;
  if (shared && readOnly) {
    throw new XenblkError("Cannot share a disk that is read-only: only writers say that others may write too", {
      kind: "usage",
      remedy: "attach it without --shared, or for writing",
    });
  }
  liveText({ limits: options.limits ?? {} }); // a wrong limit is refused before anything is looked for
  const { readsOnly } = new FilterStack(await chooseFilters(options.filters));
  return { image, kind, readOnly, shared, cdrom, vdev, readsOnly };
}

/** What is looked at of an image before it is attached. */
type LookedAt = Pick<Disk, "files" | "image" | "properties" | typeof Symbol.asyncDispose>;

/**
 * Opens the image as the backend will, before anything is written. Of an image that a storage daemon will open only the
 * files are found; of a disk in TypeScript, only the module: it is opened once, because it may have effects.
 */
async function openWanted(
  { files, vhost, plugins }: HostPlatform,
  { image, shared, ...wanted }: WantedDisk,
  { engine = "auto", cache, allowImages }: AttachOptions,
): Promise<LookedAt> {
  const readOnly = wanted.readOnly || wanted.readsOnly;
  const given = imageName(image);
  const allowed = { allowImages: allowedFor(given, allowImages) };
  const name = await activeImage(given, !readOnly);
  const request = { ...name, ...allowed, readOnly, shared, engine, ...(cache === undefined ? {} : { cache }) };
  if (plugins !== undefined && engine === "auto" && isPlugin(name)) {
    await findModule(name.target);
    return unopened(readOnly, []);
  }
  if (vhost === undefined || (engine !== "qemu" && !(engine === "auto" && needsDaemon(name)))) {
    return await openDisk(request, files === undefined ? {} : { native: files });
  }
  const { findImage, imageContext } = await import("./storage/daemon_disk.ts");
  const { graph } = await findImage(request, imageContext());
  return unopened(readOnly, graph.files);
}

function unopened(readOnly: boolean, files: readonly DiskFile[]): LookedAt {
  const properties = { sectors: 0, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly };
  return { files, properties, [Symbol.asyncDispose]: () => Promise.resolve() };
}

/** Who attaches an image vouches for its name. */
function allowedFor(name: ImageName, patterns: readonly string[] = []): readonly string[] {
  return [...patterns, literalPattern(imageText(name))];
}

/** Rejects with {@linkcode XenblkError} if another guest of this host, or another process, excludes the use. */
async function checkUnused(
  platform: HostPlatform,
  store: Xenstore,
  user: ImageUser,
  disk: LookedAt,
  { shared }: WantedDisk,
): Promise<void> {
  const files = filesOf(disk);
  const other = await findExcludingDisk(store, user, { files, shared });
  if (other !== undefined) {
    const { file: { path, writable }, text } = other;
    throw new XenblkError(`Cannot ${writable ? "write to" : "read"} image ${path}: ${text}`, {
      remedy: writable
        ? "detach it there first, or use --shared if a cluster file system is on the image"
        : "detach it there first, or attach it read-only there too",
    });
  }
  const { image } = disk;
  if (image === undefined) return;
  const use = { writes: writesImage(disk), shared };
  await checkFree(imageLocksOf(platform, () => {}), image, { ...use, by: "attach" });
}

/** How nodes are written. */
interface ClaimOptions {
  readonly signal: AbortSignal | undefined;
  readonly clock: Clock;
  /** What was chosen for this disk, and is kept with it. */
  readonly chosen: ChosenLive;
  /** Called before others can see the nodes, with each device that is tried. */
  readonly claimed?: (device: DeviceAddress) => void;
}

/**
 * Writes the nodes of a device that this process has claimed, so that a `serve` of the kind leaves it alone. Retries for
 * a while: a process that served a device of that number before may not have released it yet.
 */
export async function attachClaimed(
  store: Xenstore,
  claim: DeviceClaim,
  prepared: PreparedAttach,
  { signal, clock, chosen, claimed }: ClaimOptions,
): Promise<DeviceAddress> {
  const { guest, backendDomain, params } = prepared;
  const { kind, readOnly, shared, cdrom, vdev } = prepared.wanted;
  const named = vdev === undefined ? {} : { vdev };
  const text = liveText(chosen);
  const kept = text === undefined ? {} : { kept: { [LIVE_NODE]: text } };
  const request = { domain: guest.domain, backendDomain, kind, params, readOnly, shared, cdrom, ...named, ...kept };
  let wanted: DeviceAddress;
  const take = (device: DeviceAddress): void => {
    claim.take(wanted = device);
    claimed?.(device);
  };
  for (let tries = 1;; tries++) {
    try {
      return await retryConflicts(() => attachDevice(store, request, take), { signal, clock });
    } catch (error) {
      if (signal?.aborted) throw abortOf(formatVdev(wanted!.vdev), signal);
      if (!(error instanceof DeviceClaimedError) || tries === MOST_CLAIMS) throw error;
      await clock.sleep(CLAIM_INTERVAL_MS, signal);
    }
  }
}

/** A device with its nodes written, and what it was attached with. */
interface Attachment {
  readonly platform: HostPlatform;
  readonly store: Xenstore;
  readonly claim: DeviceClaim;
  readonly device: DeviceAddress;
  readonly guest: DomainInfo;
  readonly params: string;
  readonly options: AttachOptions;
}

/** Serves the device and waits for the guest; if that fails, ends serving and removes the nodes. */
async function serveUntilConnected(attachment: Attachment): Promise<ServedDisk> {
  const { platform, store, claim, device, guest, params, options } = attachment;
  const { domain: _domain, image: _image, vdev: _vdev, shared: _shared, cdrom: _cdrom, kind: _kind, ...serving } =
    options;
  const { journal = true, workers, balance, timeoutMs = 60_000, signal, logger = createLogger("backend"), ...rest } =
    serving;
  const { daemonPerDisk, daemonUser, writeLog, plugin, guestFound, clock = SYSTEM_CLOCK, ...chosen } = rest;
  const settings = { ...chosen, allowImages: [...(chosen.allowImages ?? []), literalPattern(params)] };
  await using undo = new AsyncDisposableStack();
  undo.defer(() => removeNodes(platform, device, logger));
  try {
    const service = await startService({
      platform,
      kind: device.kind,
      only: device,
      settings,
      journal,
      journals: claim.journals,
      ...(workers === undefined ? {} : { workers }),
      ...(balance === undefined ? {} : { balance }),
      ...(daemonPerDisk === undefined ? {} : { daemonPerDisk }),
      ...(daemonUser === undefined ? {} : { daemonUser }),
      ...(writeLog === undefined ? {} : { writeLog }),
      ...(plugin === undefined ? {} : { plugin }),
      ...(guestFound === undefined ? {} : { guestFound }),
      logger,
      clock,
      ...(signal === undefined ? {} : { signal }),
    });
    undo.defer(async () => void await service.close({ leave: "connected", timeoutMs }));
    const connected = waitForConnected(store, device, {
      timeoutMs,
      clock,
      ...(signal === undefined ? {} : { signal }),
    });
    await Promise.race([connected, service.failed.catch(diedBefore)]);
    undo.move();
    return new ServedDisk({ platform, service, claim, address: device, guest, params, timeoutMs, clock });
  } catch (error) {
    throw signal?.aborted ? abortOf(formatVdev(device.vdev), signal) : error;
  }
}

/** A thread died before the guest had the disk: its nodes are removed, so `serve` cannot continue with it. */
function diedBefore(error: unknown): never {
  const message = error instanceof XenblkError ? error.message : errorText(error);
  throw new XenblkError(message, { cause: error, remedy: "attach the disk again; and report this defect" });
}

/** What an attach rejects with when its signal ends it. */
export function abortOf(what: string, { reason }: AbortSignal): XenblkError {
  return new XenblkError(`Cannot attach ${what}: ${errorText(reason)}`, { cause: reason });
}

/** Over a connection of its own: the one that wrote the nodes may be lost. A failure is logged. */
export async function removeNodes(platform: HostPlatform, device: DeviceAddress, logger: Logger): Promise<void> {
  try {
    using store = platform.openXenstore();
    await retryConflicts(() => removeDevice(store, device));
  } catch (error) {
    logger.error(`cannot remove the nodes of ${formatVdev(device.vdev)}: ${errorText(error)}`);
  }
}
