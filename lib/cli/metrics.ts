/**
 * The options of verbs that serve for monitoring systems, and the companions that they start: a page of metrics, a file
 * of them, and OpenTelemetry.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { NativePlatform } from "../host_platform.ts";
import { createLogger } from "../log.ts";
import type { HttpAddress, MonitorOptions } from "../metrics/messages.ts";
import { otlpOptions } from "../metrics/otlp.ts";
import type { View } from "../metrics/view.ts";
import type { Service } from "../service.ts";
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
  readonly platform: NativePlatform;
  readonly service: Service;
  /** Of xenblk. */
  readonly version: string;
  readonly options: MetricsOptions;
}

/**
 * Throws {@linkcode XenblkError} if the address of --metrics cannot be used: before a disk is served, so that a service
 * with a wrong option is not started again and again under running guests.
 */
export function checkMetrics({ metrics: address }: MetricsOptions): void {
  if (address === undefined) return;
  try {
    Deno.listen({ hostname: address.hostname, port: address.port }).close();
  } catch (error) {
    const { hostname, port } = address;
    throw new XenblkError(`Cannot serve metrics on ${hostname}, port ${port}: ${errorText(error)}`, {
      remedy: error instanceof Deno.errors.NotCapable
        ? `start it with --allow-net=${hostname}:${port} as well`
        : "choose a free port and an address of this machine; `ss -ltnp` lists the ports in use",
      cause: error,
    });
  }
}

/** Starts what the options and the environment ask for. Disks are served without it if it fails; the log says why. */
export async function startMetrics({ platform, service, version, options }: Measured): Promise<AsyncDisposable> {
  await using started = new AsyncDisposableStack();
  const wanted = monitorOptions(options);
  if (wanted === undefined) return started.move();
  const logger = createLogger("metrics");
  const warn = (line: string): void => logger.warning(line);
  try {
    const { takeView } = await import("../metrics/view.ts");
    const { GuestNames } = await import("../metrics/guest_names.ts");
    const names = started.use(new GuestNames(() => platform.openXenstore()));
    const look = (): View => takeView(service.devices.status(), version, (domid) => names.of(domid));
    const { Monitor } = await import("../metrics/monitor.ts");
    const monitor = started.use(await Monitor.start(wanted, warn));
    monitor.observe(look);
    if (monitor.url !== undefined) logger.info(`metrics and status page: ${monitor.url}`);
    if (wanted.otlp !== undefined) logger.info(`metrics are sent to ${wanted.otlp.url}`);
  } catch (error) {
    logger.warning(`${errorText(error)}; the disks are served without`);
  }
  return started.move();
}

function monitorOptions(options: MetricsOptions): MonitorOptions | undefined {
  const { metrics: address, "metrics-host": hostNames, "metrics-textfile": textfile } = options;
  const otlp = otlpOptions((name) => Deno.env.get(name));
  if (address === undefined && textfile === undefined && otlp === undefined) return undefined;
  return {
    hostNames,
    ...(address === undefined ? {} : { address }),
    ...(textfile === undefined ? {} : { textfile }),
    ...(otlp === undefined ? {} : { otlp }),
  };
}

/** Undefined if it is not HOST:PORT, where HOST is not empty, and an IPv6 address is in brackets. */
function parseAddress(value: string): HttpAddress | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})$/.exec(value) ?? [];
  const hostname = bracketed ?? plain;
  const port = Number(digits);
  return hostname === undefined || port > 65_535 ? undefined : { hostname, port };
}
