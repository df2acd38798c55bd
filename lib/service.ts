/**
 * A backend kind with everything that serves it: the I/O Workers, the data plane and the devices, started together and
 * ended in order. It must not know options, nor whether the hypervisor is real.
 */

import { unlessAborted } from "./abort.ts";
import { BackendKind } from "./backend/kind.ts";
import type { CloseOptions } from "./backend/device.ts";
import type { DeviceSettings } from "./backend/settings.ts";
import { WorkerDataPlane } from "./dataplane/worker_dataplane.ts";
import { XenblkError } from "./errors.ts";
import type { JournalStore, Platform, Xenstore } from "./hypervisor.ts";
import type { Logger } from "./log.ts";
import { type ImageLocks, ProcessImageLocks } from "./storage/image/lock.ts";
import { IoPool } from "./storage/pool/pool.ts";
import type { NativeFiles } from "./storage/image/medium.ts";
import { openDisk } from "./storage/open.ts";
import type { DeviceAddress } from "./xenbus/paths.ts";

/**
 * How long devices may take to finish what is in flight once they are closed: on a host whose CPUs are all wanted that
 * can be many seconds. Whoever ends the process should wait for longer (TimeoutStopSec= in docs/deploy.md).
 */
const GRACE_MS = 20_000;

/** What a service is made of. */
export interface ServiceOptions {
  readonly platform: Platform;
  readonly openXenstore: () => Xenstore;
  readonly kind: string;
  /** The one device to serve; absent: all of the kind. */
  readonly only?: DeviceAddress;
  readonly settings: DeviceSettings;
  /** Keep journals, so that a crash loses nothing. */
  readonly journal: boolean;
  /** Where they, and the devices' locks, are kept; absent: where the platform keeps them. */
  readonly journals?: JournalStore;
  /** Keep other processes from images; absent: only this process's devices are kept from each other's. */
  readonly imageLocks?: ImageLocks;
  /** System calls on files that Deno has not; absent in a simulation. */
  readonly native?: NativeFiles;
  /** Most reactors. */
  readonly workers: number;
  readonly logger: Logger;
  /** Ends the wait for threads to start: nothing is served then. */
  readonly signal?: AbortSignal;
}

/** Devices that are being served. */
export interface Service {
  readonly devices: BackendKind;
  /**
   * Rejects with {@linkcode XenblkError} when a part of this process died. It must then end at once, without closing
   * anything: the devices stay Connected, and the next process goes on with them.
   */
  readonly failed: Promise<never>;
  /**
   * Finishes what is in flight and ends all threads. False if some device did not finish in time: its threads then
   * still run, and only the end of the process ends them.
   */
  close(options: CloseOptions): Promise<boolean>;
}

/**
 * Starts the threads that the first disk needs, connects to xenstore and begins to serve. Rejects with what
 * `openXenstore` throws, with {@linkcode XenblkError} if a thread cannot be started, or with the signal's reason, leaving
 * nothing.
 */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { platform, openXenstore, kind, only, settings, journal, native, workers, logger } = options;
  const warn = (message: string): void => logger.warning(message);
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => {}); // whoever serves hears of it
  const failed = (reason: string): void => failure.reject(deathOf(reason));
  const uring = settings.engine !== "file" && native !== undefined && native.uringRefusal() === undefined;
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
  // A toolstack waits ten seconds for its device, and threads can take several to start; simulated guests have time.
  const starting = Promise.all([dataPlane.start(), native === undefined || uring ? undefined : pool.start()]);
  await unlessAborted(starting, options.signal);
  const devices = new BackendKind({
    kind,
    ...(only === undefined ? {} : { only }),
    openXenstore,
    dataPlane,
    openDisk: (request) => openDisk(request, { pool, warn, ...(native === undefined ? {} : { native }) }),
    imageLocks: new ProcessImageLocks(options.imageLocks, warn),
    journals: options.journals ?? platform.journals,
    keepJournals: journal,
    settings,
    logger,
  });
  const threads = undo.move();
  const close = async (how: CloseOptions): Promise<boolean> => {
    if (!await devices.close(how, GRACE_MS)) return false;
    await threads.disposeAsync();
    return true;
  };
  return { devices, failed: failure.promise, close };
}

function deathOf(reason: string): XenblkError {
  return new XenblkError(`Cannot go on serving: ${reason}`, {
    remedy: "start it again, it goes on where it ended; and report this defect",
  });
}
