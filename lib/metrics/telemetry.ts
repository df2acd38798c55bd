/**
 * The metrics for OpenTelemetry, through the exporter that is part of Deno: with OTEL_DENO=true in its environment, Deno
 * sends them to a collector. OpenTelemetry has no instrument for histograms that were counted elsewhere, so their buckets
 * go as counters with the attribute `le`, as Prometheus has them.
 */

import { errorText } from "../errors.ts";
import { cumulative, EDGES_S } from "./buckets.ts";
import { type Durations, type Labels, METRICS, type Sample } from "./table.ts";
import type { View } from "./view.ts";

/** One instrument, of those in the API of OpenTelemetry for JavaScript. */
interface Observable {
  readonly name?: string;
}

interface InstrumentOptions {
  readonly description: string;
  readonly unit: string;
}

interface BatchResult {
  observe(instrument: Observable, value: number, attributes: Labels): void;
}

type BatchCallback = (result: BatchResult) => void;

/** The part of that API which is used here. */
interface Meter {
  createObservableCounter(name: string, options: InstrumentOptions): Observable;
  createObservableGauge(name: string, options: InstrumentOptions): Observable;
  addBatchObservableCallback(callback: BatchCallback, instruments: readonly Observable[]): void;
  removeBatchObservableCallback(callback: BatchCallback, instruments: readonly Observable[]): void;
}

interface MeterProvider {
  getMeter(name: string, version: string): Meter;
}

/** Reports some instruments for a view. */
type Report = (view: View, result: BatchResult) => void;

/** Registers every metric; `look` is called once for each export. Disposing the result ends that. */
export function startTelemetry(look: () => View, version: string, warn: (line: string) => void): Disposable {
  const provider: MeterProvider = Deno.telemetry.meterProvider;
  const meter = provider.getMeter("xenblk", version);
  const instruments: Observable[] = [];
  const made = (instrument: Observable): Observable => (instruments.push(instrument), instrument);
  const reports = METRICS.map((metric): Report => {
    if (metric.type === "histogram") return histogram(meter, metric, made);
    const { name, help: description, unit, samples } = metric;
    const options = { description, unit };
    const instrument = made(
      metric.type === "counter"
        ? meter.createObservableCounter(name, options)
        : meter.createObservableGauge(name, options),
    );
    return (view, result) => observeAll(result, instrument, samples(view));
  });
  const callback = (result: BatchResult): void => {
    try {
      const view = look();
      for (const report of reports) report(view, result);
    } catch (error) {
      warn(`cannot take the figures of the disks: ${errorText(error)}; report this defect`);
    }
  };
  meter.addBatchObservableCallback(callback, instruments);
  return { [Symbol.dispose]: () => meter.removeBatchObservableCallback(callback, instruments) };
}

function observeAll(result: BatchResult, instrument: Observable, samples: readonly Sample<number>[]): void {
  for (const { labels, value } of samples) result.observe(instrument, value, labels);
}

function histogram(
  meter: Meter,
  { name, help: description, samples }: Durations,
  made: (instrument: Observable) => Observable,
): Report {
  const counter = (end: string, unit: string): Observable => (
    made(meter.createObservableCounter(name + end, { description, unit }))
  );
  const [bucket, sum, count] = [counter("_bucket", "1"), counter("_sum", "s"), counter("_count", "1")];
  return (view, result) => {
    for (const { labels, value } of samples(view)) {
      const { counts, count: all, sumS } = cumulative(value);
      EDGES_S.forEach((edge, index) => result.observe(bucket, counts[index] ?? all, { ...labels, le: String(edge) }));
      result.observe(bucket, all, { ...labels, le: "+Inf" });
      result.observe(sum, sumS, labels);
      result.observe(count, all, labels);
    }
  };
}
