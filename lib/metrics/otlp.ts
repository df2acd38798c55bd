/**
 * The metrics for OpenTelemetry: sends them to a collector by OTLP over HTTP, as JSON (opentelemetry-proto, metrics
 * service). Deno's own exporter does not serve here: before it sends, it waits for the event loop of every Worker, and
 * those of reactors sleep outside of theirs.
 */

import { errorText } from "../errors.ts";
import { cumulative, EDGES_S } from "./buckets.ts";
import { type Labels, type Metric, METRICS } from "./table.ts";
import type { View } from "./view.ts";

/** AGGREGATION_TEMPORALITY_CUMULATIVE. */
const CUMULATIVE = 2;

/** Where to send, and how. */
export interface OtlpOptions {
  /** The collector's address, with the path. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** What the process is: `service.name` and the like. */
  readonly attributes: Labels;
  readonly intervalMs: number;
  /** How long the collector may take. */
  readonly timeoutMs: number;
}

/** Reads an environment variable. */
type Environment = (name: string) => string | undefined;

/**
 * What OpenTelemetry's environment variables ask for. Undefined if they name no collector, or turn metrics off.
 */
export function otlpOptions(env: Environment): OtlpOptions | undefined {
  if (env("OTEL_SDK_DISABLED") === "true" || !/^(|otlp)$/.test(env("OTEL_METRICS_EXPORTER") ?? "")) return undefined;
  const base = env("OTEL_EXPORTER_OTLP_ENDPOINT") || undefined;
  const url = env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") || (base && `${base.replace(/\/$/, "")}/v1/metrics`);
  if (url === undefined) return undefined;
  const name = env("OTEL_SERVICE_NAME") || undefined;
  return {
    url,
    headers: pairs(env("OTEL_EXPORTER_OTLP_METRICS_HEADERS") ?? env("OTEL_EXPORTER_OTLP_HEADERS")),
    attributes: {
      "service.name": "xenblk",
      ...pairs(env("OTEL_RESOURCE_ATTRIBUTES")),
      ...(name === undefined ? {} : { "service.name": name }),
    },
    intervalMs: milliseconds(env("OTEL_METRIC_EXPORT_INTERVAL"), 60_000),
    timeoutMs: milliseconds(env("OTEL_EXPORTER_OTLP_TIMEOUT"), 10_000),
  };
}

function milliseconds(text: string | undefined, usual: number): number {
  const value = /^\d{1,9}$/.test(text ?? "") ? Number(text) : 0;
  return value >= 100 ? value : usual;
}

/** `a=b,c=d`, with the values percent-encoded. */
function pairs(text = ""): Record<string, string> {
  const entries = text.split(",").map((pair) => /^\s*([^=\s]+)\s*=(.*)$/.exec(pair)).filter((match) => match !== null);
  return Object.fromEntries(entries.map(([, key, value]) => [key, decoded(value!.trim())]));
}

function decoded(value: string): string {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

/** The collector's address for people: it may have a password in it. */
export function shownUrl(url: string): string {
  return url.replace(/\/\/[^/]*@/, "//");
}

/** Sends views to a collector. */
export class OtlpExporter {
  readonly #options: OtlpOptions;
  readonly #warn: (line: string) => void;
  #failing = false;

  constructor(options: OtlpOptions, warn: (line: string) => void) {
    this.#options = options;
    this.#warn = warn;
  }

  /** Sends one view. A failure is reported once, until a view arrives again. */
  async send(view: View): Promise<void> {
    const { url, headers, timeoutMs } = this.#options;
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { ...headers, "content-type": "application/json" },
        body: JSON.stringify(exportRequest(view, this.#options.attributes)),
        redirect: "error",
        signal: AbortSignal.timeout(timeoutMs),
      });
      await response.body?.cancel();
      if (!response.ok) throw new Error(`it answered ${response.status} ${response.statusText}`);
      this.#failing = false;
    } catch (error) {
      if (!this.#failing) this.#warn(`cannot send the metrics to ${shownUrl(url)}: ${errorText(error)}; trying again`);
      this.#failing = true;
    }
  }
}

/** An ExportMetricsServiceRequest. */
function exportRequest(view: View, resource: Labels): unknown {
  const times: Times = {
    startTimeUnixNano: nanoseconds(view.process.startedS * 1000),
    timeUnixNano: nanoseconds(view.atMs),
  };
  const metrics = METRICS.map((metric) => ({
    name: metric.name,
    description: metric.help,
    unit: metric.unit,
    ...points(metric, view, times),
  }));
  const scope = { name: "xenblk", version: view.process.version };
  return { resourceMetrics: [{ resource: { attributes: attributes(resource) }, scopeMetrics: [{ scope, metrics }] }] };
}

interface Times {
  readonly startTimeUnixNano: string;
  readonly timeUnixNano: string;
}

/** 64-bit numbers are text in JSON. */
function nanoseconds(ms: number): string {
  return `${Math.round(ms * 1000)}000`;
}

function points(metric: Metric, view: View, times: Times): object {
  if (metric.type === "histogram") {
    const dataPoints = metric.samples(view).map(({ labels, value }) => {
      const { counts, count, sumS } = cumulative(value);
      const bucketCounts = [...counts, count].map((upTo, index) => String(upTo - (counts[index - 1] ?? 0)));
      const histogram = { count: String(count), sum: sumS, bucketCounts, explicitBounds: EDGES_S };
      return { ...times, attributes: attributes(labels), ...histogram };
    });
    return { histogram: { aggregationTemporality: CUMULATIVE, dataPoints } };
  }
  const dataPoints = metric.samples(view).map(({ labels, value }) => (
    { ...times, attributes: attributes(labels), asDouble: value }
  ));
  if (metric.type === "gauge") return { gauge: { dataPoints } };
  return { sum: { aggregationTemporality: CUMULATIVE, isMonotonic: true, dataPoints } };
}

function attributes(labels: Labels): unknown {
  return Object.entries(labels).map(([key, value]) => ({ key, value: { stringValue: value } }));
}
