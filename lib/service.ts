/**
 * A serving process, put together: starts the I/O Workers, the data plane and the devices of one backend kind, and ends
 * them in order.
 */

import { unlessAborted } from "./abort.ts";
import { BackendKind, type BackendKindOptions } from "./backend/kind.ts";
import type { StuckDevice } from "./backend/status.ts";
import type { CloseOptions } from "./backend/close_options.ts";
import type { SettingsRule } from "./backend/disk_identity.ts";
import { hasJournals } from "./backend/journals.ts";
import { DEFAULT_SETTINGS, type DeviceSettings } from "./backend/settings.ts";
import { balanceLoad } from "./dataplane/balance_load.ts";
import { WorkerDataPlane } from "./dataplane/worker_dataplane.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import { errorText, XenblkError } from "./errors.ts";
import { type HostPlatform, imageLocksOf } from "./host_platform.ts";
import type { JournalStore } from "./hypervisor.ts";
import { createLogger, type Logger } from "./log.ts";
import { journalDirectory } from "./journal_directory.ts";
import type { DiskFile, DiskOwner } from "./storage/disk.ts";
import { LazyDaemonDisks } from "./storage/lazy_daemon_disks.ts";
import { chooseFilters } from "./storage/filter/spec.ts";
import { DEFAULT_PLUGIN_SETTINGS, type PluginSettings } from "./storage/plugin/settings.ts";
import { IoPool } from "./storage/pool/pool.ts";
import { type OpenContext, openDisk } from "./storage/open.ts";
import { DisksInUse } from "./toolstack/disks_in_use.ts";
import { findExcludingDisk } from "./toolstack/sharing.ts";
import type { DeviceAddress } from "./xenbus/paths.ts";
import { endsWithin } from "./within.ts";

/**
 * How long devices may take to finish what is in flight once they are closed. On a host with busy CPUs that can be many
 * seconds. Whoever ends the process should wait for longer (TimeoutStopSec= in docs/deploy.md).
 */
const GRACE_MS = 20_000;
/** The same once a part of the process has died: what it had in flight never finishes. */
const GRACE_AFTER_FAILURE_MS = 2_000;
/** How often devices are checked for requests that storage does not answer. It reads a few words for each. */
const PROGRESS_LOOK_MS = 2_000;
/** Devices are given up earlier if all that are left have requests in flight and none has answered any for so long. */
const STALL_MS = 5_000;
/** How long threads may take to end; one that the kernel holds ends with the process. */
const THREADS_MS = 2_000;
/** How long a toolstack's new disks are offered before threads start. */
const FIRST_LOOKS_MS = 20;
/** Most reactors of a service. */
const MOST_WORKERS = 64;

/** What a service is made of. */
export interface ServiceOptions {
  /** The host, with its guests. */
  readonly platform: HostPlatform;
  /** The backend kind, such as `vbd3`: the directory below `backend/` in xenstore. */
  readonly kind: string;
  /** The one device to serve. Absent: all of the kind. */
  readonly only?: DeviceAddress;
  /** For all devices alike. What is absent is as in {@linkcode DEFAULT_SETTINGS}. */
  readonly settings?: Partial<DeviceSettings>;
  /** The settings of each device, in place of `settings`; asked once, when the device appears. Absent: they are alike. */
  readonly settingsFor?: SettingsRule;
  /** Keep journals, so that a crash loses no request. Default true. */
  readonly journal?: boolean;
  /** Each disk that needs a storage daemon has one of its own. Default: the disks of a guest share one. */
  readonly daemonPerDisk?: boolean;
  /** The user as whom storage daemons run, by name or number. Default: root, with CAP_DAC_OVERRIDE. */
  readonly daemonUser?: string;
  /**
   * Keep a log of the writes that a storage daemon has not flushed, so that its death loses none. Default true. It costs
   * 4 MiB of memory for each ring, and 0.3 MiB for each disk.
   */
  readonly writeLog?: boolean;
  /** How the processes of disks in TypeScript are run. What is absent is as in {@linkcode DEFAULT_PLUGIN_SETTINGS}. */
  readonly plugin?: Partial<PluginSettings>;
  /** Where journals, latches and the devices' locks are kept. Default: where the platform keeps them. */
  readonly journals?: JournalStore;
  /** Most reactors, each a Worker that serves rings: 1 to 64. Default: one for each CPU, at most 64. */
  readonly workers?: number;
  /** Move rings from a reactor that is full to one that has room; their guests see at most a pause. Default true. */
  readonly balance?: boolean;
  /** Default: LogTape's category `xenblk.backend`. */
  readonly logger?: Logger;
  /** Called with the domid and name of a disk's guest when the disk is found. Absent: nobody needs the names. */
  readonly guestFound?: NonNullable<BackendKindOptions["guestFound"]>;
  /** Ends the wait for threads to start; then nothing is served. */
  readonly signal?: AbortSignal;
  /** The control plane's time: its limits, retries and pauses. Default: this process's clock. */
  readonly clock?: Clock;
}

/** How a service was closed. */
export interface CloseResult {
  /** All devices are released: another process can serve them. */
  readonly finished: boolean;
  /** The others. Only the end of the process releases them, once the kernel returns what they wait for. */
  readonly stuck: readonly StuckDevice[];
}

/** Devices that are being served. */
export interface Service {
  /** The devices: their status, and whether they were removed. */
  readonly devices: BackendKind;
  /**
   * Rejects with {@linkcode XenblkError} when a thread of this process died. The process should then end at once and
   * close nothing: the devices stay Connected, and the next process goes on with them.
   */
  readonly failed: Promise<never>;
  /**
   * Asks each thread that serves rings for a sign of life; to be called regularly. Returns for how long, in milliseconds,
   * the most silent one has left an earlier question unanswered. One that waits for a disk in the kernel is not silent.
   */
  silentMs(): number;
  /**
   * Has the storage daemon running that would serve the owner's disk, with these files, until the result is disposed; then it
   * ends unless it has a disk. Rejects with {@linkcode XenblkError}. Absent: this host has no storage daemons.
   */
  readonly prepareDaemon?: (owner: DiskOwner, files: readonly DiskFile[]) => Promise<AsyncDisposable>;
  /**
   * Finishes what is in flight and ends all threads. All devices are closed at the same time, and each is released as
   * soon as it is done. An image that is being opened is closed, too, if it opens within a second from when that began,
   * or ten if the devices are detached. A device is given up after 20 s (if the devices are detached, in addition to
   * `timeoutMs`), or when all that are left have requests in flight and none was answered for 5 s; after
   * {@linkcode failed}, after 2 s. Then the threads get 2 s. Those that are still blocked in the kernel run on until the
   * process ends, so it should end with Deno.exit.
   */
  close(options: CloseOptions): Promise<CloseResult>;
}

/** A service with the parts that a process takes with it when it is killed. For the testing kit. */
export interface RunningService {
  readonly service: Service;
  /** The threads. Disposing it ends them, once they have finished what they do. */
  readonly threads: AsyncDisposable;
  /** Image files that are open, and what filters hold open. */
  readonly images: ReadonlySet<AsyncDisposable>;
}

type Preparing = Pick<Service, "prepareDaemon">;

/** Nothing: this host has no storage daemons. */
function daemonDisks(
  { platform, daemonPerDisk, daemonUser, writeLog = true }: ServiceOptions,
  journals: JournalStore,
  undo: AsyncDisposableStack,
  warn: (message: string) => void,
): Pick<OpenContext, "openByDaemon" | "endDaemonDisk"> & Pick<BackendKindOptions, "endLeftovers"> & Preparing {
  const { vhost, descriptor } = platform;
  if (vhost === undefined) return {};
  const disks = undo.use(
    new LazyDaemonDisks({
      directory: journalDirectory((name) => Deno.env.get(name)),
      journals,
      vhost,
      platform: descriptor,
      writeLog,
      warn,
      ...(daemonPerDisk === undefined ? {} : { perDisk: daemonPerDisk }),
      ...(daemonUser === undefined ? {} : { user: daemonUser }),
    }),
  );
  return {
    openByDaemon: (request) => disks.open(request),
    prepareDaemon: (owner, files) => disks.prepare(owner, files),
    endDaemonDisk: (owner) => disks.discard(owner),
    endLeftovers: (isGone) => disks.endLeftovers(isGone),
  };
}

/** Each disk in TypeScript gets its process when it is opened. Nothing: this host runs none. */
function startPlugins({ platform, plugin }: ServiceOptions, logger: Logger): Pick<OpenContext, "openPlugin"> {
  const { plugins } = platform;
  if (plugins === undefined) return {};
  const services = { plugins, settings: { ...DEFAULT_PLUGIN_SETTINGS, ...plugin }, clock: SYSTEM_CLOCK, log: logger };
  return {
    openPlugin: async (request) => {
      const { openPluginDisk } = await import("./storage/plugin_disk.ts");
      return await openPluginDisk(request, services);
    },
  };
}

/** What opens the disks of a service, whoever serves them. */
function diskOpener(
  options: ServiceOptions,
  { pool, images, journals }: { pool: IoPool; images: Set<AsyncDisposable>; journals: JournalStore },
  undo: AsyncDisposableStack,
  logger: Logger,
): { readonly opener: Pick<BackendKindOptions, "openDisk" | "endLeftovers">; readonly preparing: Preparing } {
  const warn = (message: string): void => logger.warning(message);
  const { files } = options.platform;
  const { endLeftovers, prepareDaemon, ...daemons } = daemonDisks(options, journals, undo, warn);
  const native = files === undefined ? {} : { native: files };
  const context = { pool, warn, images, ...native, ...daemons, ...startPlugins(options, logger) };
  return {
    opener: {
      openDisk: (request) => openDisk(request, context),
      ...(endLeftovers === undefined ? {} : { endLeftovers }),
    },
    preparing: prepareDaemon === undefined ? {} : { prepareDaemon },
  };
}

/**
 * Connects to xenstore, begins to serve, and starts the threads that the first disk needs. Rejects with what
 * `openXenstore` throws, with {@linkcode XenblkError} if a filter is wrong or a thread cannot be started, or with the
 * signal's reason; then no thread is left behind, and devices are left as they were or offered to their guests.
 */
export async function startService(options: ServiceOptions): Promise<Service> {
  return (await startRunning(options)).service;
}

/** The same as {@linkcode startService}. */
export async function startRunning(options: ServiceOptions): Promise<RunningService> {
  const { platform, kind, only, journal, balance = true, logger = createLogger("backend"), clock = SYSTEM_CLOCK } =
    options;
  await chooseFilters(options.settings?.filters); // a wrong one is refused before any device is
  const settings = { ...DEFAULT_SETTINGS, ...options.settings };
  const warn = (message: string): void => logger.warning(message);
  const failure = Promise.withResolvers<never>();
  let hasFailed = false;
  failure.promise.catch(() => hasFailed = true);
  const workers = Math.min(options.workers ?? navigator.hardwareConcurrency, MOST_WORKERS);
  const failed = (reason: string): void => failure.reject(deathOf(reason));
  const uring = usesUring(options, settings);
  await using undo = new AsyncDisposableStack();
  const pool = undo.use(new IoPool({ platform: platform.descriptor, warn, failed }));
  const dataPlane = undo.use(
    new WorkerDataPlane({
      platform,
      workers,
      addLane: (lane, token) => pool.addLane(lane, token),
      uring,
      warn,
      failed,
      debug: (message) => logger.debug(message),
    }),
  );
  const journals = options.journals ?? platform.journals;
  const images = new Set<AsyncDisposable>();
  const { opener, preparing } = diskOpener(options, { pool, images, journals }, undo, logger);
  options.signal?.throwIfAborted(); // nothing is connected then
  const disks = undo.use(new DisksInUse());
  const start = (): Promise<void> => startThreads(options, { dataPlane, pool, uring, warn });
  const early = startedEarly(hasJournals(journals, only ?? kind), start);
  const devices = new BackendKind({
    kind,
    ...(only === undefined ? {} : { only }),
    openXenstore: () => platform.openXenstore(),
    dataPlane,
    ...opener,
    holds: images,
    imageLocks: imageLocksOf(platform, warn),
    findExcludingDisk: (store, user, query) => findExcludingDisk(store, user, query, { disks }),
    journals,
    keepJournals: journal ?? true,
    settings,
    ...(options.settingsFor && { settingsFor: options.settingsFor }),
    ...(options.guestFound && { guestFound: options.guestFound }),
    logger,
    clock,
  });
  const started = early ?? afterFirstLooks(devices).then(start);
  await unlessAborted(started, options.signal).catch(async (error) => {
    await devices.close({ leave: "connected", timeoutMs: 0 }, GRACE_AFTER_FAILURE_MS);
    throw error;
  });
  if (balance && workers > 1) undo.use(balanceLoad(dataPlane, clock, logger));
  const threads = undo.move();
  const close = closer(devices, threads, { clock, warn, graceMs: () => hasFailed ? GRACE_AFTER_FAILURE_MS : GRACE_MS });
  const silentMs = (): number => dataPlane.silentMs();
  return { service: { devices, failed: failure.promise, silentMs, ...preparing, close }, threads, images };
}

/**
 * Resolves when devices that were there at the start have been looked at, so that they are offered to their guests:
 * that needs no thread, and the start of each thread blocks this one for many milliseconds. Many disks are not waited
 * for: guests whose disks were connected before need the threads.
 */
async function afterFirstLooks({ discovered }: BackendKind): Promise<void> {
  await endsWithin(discovered, FIRST_LOOKS_MS);
  // What follows from a look without waiting for anything has happened at the event loop's next turn.
  await SYSTEM_CLOCK.sleep(0);
}

/** Guests of an earlier process wait for the threads: these start beside the looks at xenstore. */
function startedEarly(guestsWait: boolean, start: () => Promise<void>): Promise<void> | undefined {
  const starting = guestsWait ? start() : undefined;
  starting?.catch(() => {}); // if there is no xenstore either, that is reported
  return starting;
}

/** Those that the first disk needs. */
async function startThreads(
  { platform: { files }, signal }: ServiceOptions,
  { dataPlane, pool, uring, warn }: {
    dataPlane: WorkerDataPlane;
    pool: IoPool;
    uring: boolean;
    warn: (message: string) => void;
  },
): Promise<void> {
  signal?.throwIfAborted();
  files?.prepare();
  // Without I/O Workers devices say so themselves, and try again.
  const poolStarted = files === undefined || uring ? undefined : pool.start().catch((error) => warn(errorText(error)));
  await Promise.all([dataPlane.start(), poolStarted]);
}

/** Watches the progress of devices until the result is called, which closes them and then ends the threads. */
function closer(
  devices: BackendKind,
  threads: AsyncDisposable,
  { clock, warn, graceMs }: { clock: Clock; warn: (message: string) => void; graceMs: () => number },
): Service["close"] {
  const closing = watchProgress(devices, clock);
  return async (how) => {
    closing.abort();
    const finished = await devices.close(how, graceMs(), STALL_MS);
    // A reactor that serves no device any more ends; one with requests in flight does when they are over.
    await endThreads(threads, warn);
    return { finished, stuck: devices.stuck };
  };
}

/** With a rule, any disk may ask for it. */
function usesUring({ platform: { files }, settingsFor }: ServiceOptions, { engine }: DeviceSettings): boolean {
  if (engine === "file" && settingsFor === undefined) return false;
  return files !== undefined && files.uringRefusal() === undefined;
}

/** Checks devices now and then, until it is aborted. */
function watchProgress(devices: BackendKind, clock: Clock): AbortController {
  const end = new AbortController();
  const watch = async (): Promise<void> => {
    while (!end.signal.aborted) {
      await clock.sleep(PROGRESS_LOOK_MS, end.signal);
      if (!end.signal.aborted) devices.checkProgress();
    }
  };
  void watch();
  return end;
}

async function endThreads(threads: AsyncDisposable, warn: (message: string) => void): Promise<void> {
  const over = new AbortController();
  const ended = Promise.resolve(threads[Symbol.asyncDispose]()).then(() => true).catch((error) => {
    warn(`cannot end a thread: ${errorText(error)}`);
    return true;
  });
  const late = SYSTEM_CLOCK.sleep(THREADS_MS, over.signal).then(() => false);
  if (!await Promise.race([ended, late])) warn("threads are still blocked in the kernel: they end with the process");
  over.abort();
}

function deathOf(reason: string): XenblkError {
  return new XenblkError(`Cannot go on serving: ${reason}`, {
    remedy: "start `xenblk serve`: it continues with the disks that are Connected; and report this defect",
  });
}
