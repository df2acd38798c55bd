/**
 * The metrics for OpenTelemetry: sends them to a collector by OTLP over HTTP, as JSON (opentelemetry-proto, metrics
 * service). Deno's own exporter does not serve here: before it sends, it waits for the event loop of every Worker, and
 * those of reactors sleep outside of theirs.
 */

import { errorText } from "../errors.ts";
import { cumulative, EDGES_S } from "./buckets.ts";
import { type OtlpOptions, shownUrl } from "./otlp_options.ts";
import { type Labels, type Metric, METRICS } from "./table.ts";
import type { View } from "./view.ts";

/** AGGREGATION_TEMPORALITY_CUMULATIVE. */
const CUMULATIVE = 2;

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
