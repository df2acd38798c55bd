/**
 * The metrics as text for Prometheus, by prom-client. Its metrics keep no numbers of their own: a scrape fills them from
 * a view.
 */

// In full: the worker that imports this is loaded only if metrics are asked for, also from a program without our map.
import { Counter, Gauge, Histogram, Registry } from "npm:prom-client@15.1.3";
import type { LatencyHistogram } from "../figures/figures.ts";
import { cumulative, EDGES_S } from "./buckets.ts";
import { type Durations, type Labels, METRICS, type Sample, type Scalar } from "./table.ts";
import type { View } from "./view.ts";

/** The media type of the text. */
export const CONTENT_TYPE: string = Registry.PROMETHEUS_CONTENT_TYPE;

/** A sample as prom-client writes it. */
interface Line {
  readonly metricName: string;
  readonly labels: Labels;
  /** Labels that many lines have: they are put into text once. */
  readonly sharedLabels: Labels;
  readonly value: number;
}

/** Histograms that were counted elsewhere. */
class CountedHistogram extends Histogram {
  readonly #metric: Durations;
  readonly #view: () => View;

  constructor(registry: Registry, metric: Durations, view: () => View) {
    const { name, help, labelNames } = metric;
    super({ name, help, labelNames: [...labelNames], buckets: [...EDGES_S], registers: [registry] });
    this.#metric = metric;
    this.#view = view;
  }

  /** prom-client's registry asks this of a histogram. */
  getForPromString(): Promise<{ name: string; help: string; type: string; values: Line[] }> {
    const { name, help, type, samples } = this.#metric;
    return Promise.resolve({
      name,
      help,
      type,
      values: samples(this.#view()).flatMap((sample) => lines(name, sample)),
    });
  }
}

function lines(name: string, { labels, value }: Sample<LatencyHistogram>): Line[] {
  const { counts, count, sumS } = cumulative(value);
  const line = (end: string, value: number, own: Labels = {}): Line => (
    { metricName: name + end, labels: own, sharedLabels: labels, value }
  );
  return [
    ...EDGES_S.map((edge, index) => line("_bucket", counts[index] ?? count, { le: String(edge) })),
    line("_bucket", count, { le: "+Inf" }),
    line("_sum", sumS),
    line("_count", count),
  ];
}

/** Makes the text of views. */
export class Exposition {
  readonly #all = new Registry();
  #view: View | undefined;

  constructor() {
    const view = (): View => {
      if (this.#view === undefined) throw new Error("no view was given");
      return this.#view;
    };
    for (const metric of METRICS) {
      if (metric.type === "histogram") new CountedHistogram(this.#all, metric, view);
      else addScalar(this.#all, metric, view);
    }
  }

  /** The text of one view. Calls do not overlap. */
  async text(view: View): Promise<string> {
    this.#view = view;
    return await this.#all.metrics();
  }
}

function addScalar(registry: Registry, { type, name, help, labelNames, samples }: Scalar, view: () => View): void {
  const common = { name, help, labelNames: [...labelNames], registers: [registry] };
  if (type === "counter") {
    new Counter({
      ...common,
      collect(): void {
        this.reset();
        for (const { labels, value } of samples(view())) this.inc(labels, value);
      },
    });
  } else {
    new Gauge({
      ...common,
      collect(): void {
        this.reset();
        for (const { labels, value } of samples(view())) this.set(labels, value);
      },
    });
  }
}
