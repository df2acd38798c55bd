/**
 * A serving process, put together: starts the I/O Workers, the data plane and the devices of one backend kind, and ends
 * them in order.
 */

import { unlessAborted } from "./abort.ts";
import { BackendKind } from "./backend/kind.ts";
import type { CloseOptions } from "./backend/device.ts";
import { DEFAULT_SETTINGS, type DeviceSettings } from "./backend/settings.ts";
import { WorkerDataPlane } from "./dataplane/worker_dataplane.ts";
import { XenblkError } from "./errors.ts";
import { type HostPlatform, imageLocksOf } from "./host_platform.ts";
import type { JournalStore } from "./hypervisor.ts";
import { createLogger, type Logger } from "./log.ts";
import { IoPool } from "./storage/pool/pool.ts";
import { openDisk } from "./storage/open.ts";
import type { DeviceAddress } from "./xenbus/paths.ts";

/**
 * How long devices may take to finish what is in flight once they are closed. On a host with busy CPUs that can be many
 * seconds. Whoever ends the process should wait for longer (TimeoutStopSec= in docs/deploy.md).
 */
const GRACE_MS = 20_000;
/** The same once a part of the process has died: what it had in flight never finishes. */
const GRACE_AFTER_FAILURE_MS = 2_000;

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
  /** Keep journals, so that a crash loses no request. Default true. */
  readonly journal?: boolean;
  /** Where journals, latches and the devices' locks are kept. Default: where the platform keeps them. */
  readonly journals?: JournalStore;
  /** Most reactors, each a Worker that serves rings. Default: one for each CPU. */
  readonly workers?: number;
  /** Default: LogTape's category `xenblk.backend`. */
  readonly logger?: Logger;
  /** Ends the wait for threads to start; then nothing is served. */
  readonly signal?: AbortSignal;
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
   * Finishes what is in flight and ends all threads. False if a device did not finish within 20 s (if the devices are
   * detached, in addition to `timeoutMs`): then the threads run on until the process ends. After {@linkcode failed} the
   * wait is 2 s, and the threads are ended in any case.
   */
  close(options: CloseOptions): Promise<boolean>;
}

/**
 * Starts the threads that the first disk needs, connects to xenstore and begins to serve. Rejects with what
 * `openXenstore` throws, with {@linkcode XenblkError} if a thread cannot be started, or with the signal's reason; then
 * nothing is left behind.
 */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { platform, kind, only, journal, logger = createLogger("backend") } = options;
  const { files } = platform;
  const settings = { ...DEFAULT_SETTINGS, ...options.settings };
  const warn = (message: string): void => logger.warning(message);
  const failure = Promise.withResolvers<never>();
  let hasFailed = false;
  failure.promise.catch(() => hasFailed = true);
  const failed = (reason: string): void => failure.reject(deathOf(reason));
  const uring = settings.engine !== "file" && files !== undefined && files.uringRefusal() === undefined;
  await using undo = new AsyncDisposableStack();
  const pool = undo.use(new IoPool({ platform: platform.descriptor, warn, failed }));
  const dataPlane = undo.use(
    new WorkerDataPlane({
      platform,
      workers: options.workers ?? navigator.hardwareConcurrency,
      addLane: (lane, token) => pool.addLane(lane, token),
      uring,
      warn,
      failed,
      debug: (message) => logger.debug(message),
    }),
  );
  // A toolstack waits ten seconds for its device, and threads can take several to start; simulated guests have time.
  const starting = Promise.all([dataPlane.start(), files === undefined || uring ? undefined : pool.start()]);
  await unlessAborted(starting, options.signal);
  const devices = new BackendKind({
    kind,
    ...(only === undefined ? {} : { only }),
    openXenstore: () => platform.openXenstore(),
    dataPlane,
    openDisk: (request) => openDisk(request, { pool, warn, ...(files === undefined ? {} : { native: files }) }),
    imageLocks: imageLocksOf(platform, warn),
    journals: options.journals ?? platform.journals,
    keepJournals: journal ?? true,
    settings,
    logger,
  });
  const threads = undo.move();
  const close = async (how: CloseOptions): Promise<boolean> => {
    const finished = await devices.close(how, hasFailed ? GRACE_AFTER_FAILURE_MS : GRACE_MS);
    if (finished || hasFailed) await threads.disposeAsync();
    return finished;
  };
  return { devices, failed: failure.promise, close };
}

function deathOf(reason: string): XenblkError {
  return new XenblkError(`Cannot go on serving: ${reason}`, {
    remedy: "start it again, it goes on where it ended; and report this defect",
  });
}
