/**
 * What runs beside the disks of a serving process, such as a control socket or a page of metrics: companions start once
 * the service does, and end once its disks are closed. `serve` and `attach` start them.
 */

import type { ServingVerb } from "../control/protocol.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { NativePlatform } from "../host_platform.ts";
import { journalDirectory } from "../journal_directory.ts";
import { createLogger } from "../log.ts";
import type { Service } from "../service.ts";
import { ownEnvironment, serviceManagerOf } from "../systemd/environment.ts";
import { Notices } from "../systemd/notices.ts";
import type { LazyJobs } from "../jobs/door.ts";
import type { Visits } from "../jobs/visits.ts";
import { startJobs } from "./live_jobs.ts";
import { startVisits } from "./live_visits.ts";
import { METRICS_OPTIONS, startMetrics } from "./metrics.ts";
import type { OptionValues } from "./options.ts";
import type { Context } from "./verb.ts";

/** When what the start needed is over: the first guests have connected, and threads for opening images have ended. */
const SETTLED_MS = 20_000;

/** The options of companions, for the verbs that serve. */
export const COMPANION_OPTIONS = { ...METRICS_OPTIONS } as const;

/** A process that serves, as a companion sees it. */
export interface Serving {
  readonly context: Context;
  readonly platform: NativePlatform;
  readonly verb: ServingVerb;
  /** All devices of the kind are served. */
  readonly servesAll: boolean;
  readonly service: Service;
  /** The backend kind, such as `vbd3`. */
  readonly kind: string;
  readonly options: OptionValues<typeof COMPANION_OPTIONS>;
  /** How long guests may take to close their disks once the process ends. */
  readonly closingMs: number;
}

/**
 * Starts the companions that the options ask for. One that cannot start is missing, and the log says why. Disposing the
 * result ends them, once the disks are closed.
 */
export async function startCompanions(serving: Serving): Promise<AsyncDisposable> {
  const { context, service, options } = serving;
  const jobs = startJobs(serving);
  const visits = startVisits({ service, ending: context.signals.signal }, jobs);
  const control = await startControlSocket(serving, jobs, visits);
  const metrics = await startMetrics({ service, jobs, version: context.version, options });
  // The first one is ended last: the service manager is told that the process lives as long as it does. It starts last,
  // since it says that the process serves.
  const companions = new AsyncDisposableStack();
  companions.use(tellServiceManager(serving));
  companions.use(control);
  companions.use(jobs);
  companions.use(visits);
  companions.use(metrics);
  companions.use(releaseOnceSettled(serving.platform));
  return companions;
}

/** A part of the process's memory was needed to load and compile; the process then serves for months. */
function releaseOnceSettled(platform: NativePlatform): Disposable {
  const timer = setTimeout(() => {
    try {
      platform.releaseUnused();
    } catch (error) {
      createLogger("memory").debug(`no memory of the start is given back: ${errorText(error)}`);
    }
  }, SETTLED_MS);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Undefined if no service manager wants to know. */
function tellServiceManager({ context, platform, service, kind, closingMs }: Serving): Notices | undefined {
  const manager = serviceManagerOf(ownEnvironment, Deno.pid);
  if (manager === undefined) return undefined;
  const ending = context.signals.signal;
  const logger = createLogger("systemd");
  const guests = context.guestNames;
  return new Notices({ manager, send: platform.sendDatagram, service, kind, ending, closingMs, guests, logger });
}

/** The control socket. Disks are served without one if it cannot be made; the log says why. */
async function startControlSocket(
  { context, platform, service, verb, servesAll, kind }: Serving,
  jobs: LazyJobs,
  visits: Visits,
): Promise<AsyncDisposable | undefined> {
  const { version, logging } = context;
  const logger = createLogger("control");
  const warn = (line: string): void => logger.warning(line);
  const { controlDirectory } = await import("../control/directory.ts");
  const directory = controlDirectory(journalDirectory((name) => Deno.env.get(name)));
  try {
    const { startControl } = await import("../control/process.ts");
    return await startControl({
      directory,
      platform,
      service,
      verb,
      attaches: servesAll,
      kind,
      version,
      logging,
      jobs,
      visits,
      warn,
    });
  } catch (error) {
    const { message, remedy } = error instanceof XenblkError ? error : {
      message: errorText(error),
      remedy: error instanceof Deno.errors.NotCapable
        ? `it needs --allow-net, and --allow-read and --allow-write of ${directory}`
        : `check that ${directory} can be written to`,
    };
    warn(`no control socket: ${message}; the disks are served without one; ${remedy}`);
    return undefined;
  }
}
