/**
 * The options of verbs that serve for monitoring systems, and the companions that they start: a page of metrics, a file
 * of them, and OpenTelemetry.
 */

import { errorText } from "../errors.ts";
import { createLogger } from "../log.ts";
import type { HttpAddress, MonitorOptions } from "../metrics/messages.ts";
import { otlpOptions, shownUrl } from "../metrics/otlp_options.ts";
import type { LazyJobs } from "../jobs/door.ts";
import type { Service } from "../service.ts";
import { ownEnvironment } from "../systemd/environment.ts";
import { optional, type OptionValues, path, repeated, text } from "./options.ts";

/** The options. */
export const METRICS_OPTIONS = {
  "metrics": optional({
    placeholder: "HOST:PORT",
    help: "Serve metrics for Prometheus and a status page at this address, such as 127.0.0.1:9779",
    allowed: "an address and a port, such as 127.0.0.1:9779 or [::1]:9779",
    parse: parseAddress,
  }, "none are served"),
  "metrics-host": repeated(text("NAME", "A name besides that of --metrics by which clients may call the server")),
  "metrics-textfile": optional(
    path("FILE", "Write metrics into this file every 15 s, for node_exporter's textfile collector"),
    "none is written",
  ),
} as const;

/** Values of {@linkcode METRICS_OPTIONS}. */
export type MetricsOptions = OptionValues<typeof METRICS_OPTIONS>;

/** What the metrics are about. */
export interface Measured {
  readonly service: Service;
  readonly jobs: LazyJobs;
  /** Of xenblk. */
  readonly version: string;
  readonly options: MetricsOptions;
}

/**
 * Starts what the options and the environment ask for, and waits for none of it. Disks are served whatever becomes of it;
 * the log says what fails. Undefined if nothing is asked for.
 */
export async function startMetrics(
  { service, jobs, version, options }: Measured,
): Promise<AsyncDisposable | undefined> {
  const wanted = monitorOptions(options);
  if (wanted === undefined) return undefined;
  const logger = createLogger("metrics");
  try {
    const { takeView } = await import("../metrics/view.ts");
    const { Monitor } = await import("../metrics/monitor.ts");
    const monitor = new Monitor(wanted, (line) => logger.warning(line));
    monitor.observe(() => takeView(service.devices.status(), version, jobs.reports()));
    void monitor.listening.then((url) => logger.info(`metrics and status page: ${url}`));
    if (wanted.otlp !== undefined) logger.info(`metrics are sent to ${shownUrl(wanted.otlp.url)}`);
    return monitor;
  } catch (error) {
    logger.warning(`cannot start the metrics: ${errorText(error)}; the disks are served without; report this defect`);
    return undefined;
  }
}

function monitorOptions(options: MetricsOptions): MonitorOptions | undefined {
  const { metrics: address, "metrics-host": hostNames, "metrics-textfile": textfile } = options;
  const otlp = otlpOptions(ownEnvironment);
  if (address === undefined && textfile === undefined && otlp === undefined) return undefined;
  return {
    hostNames,
    ...(address === undefined ? {} : { address }),
    ...(textfile === undefined ? {} : { textfile }),
    ...(otlp === undefined ? {} : { otlp }),
  };
}

/** Undefined if it is not HOST:PORT, where HOST is not empty, and an IPv6 address is in brackets. */
export function parseAddress(value: string): HttpAddress | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})$/.exec(value) ?? [];
  const hostname = bracketed ?? plain;
  const port = Number(digits);
  return hostname === undefined || port > 65_535 ? undefined : { hostname, port };
}
