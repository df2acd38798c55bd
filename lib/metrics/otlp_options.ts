/**
 * What the environment says of OpenTelemetry. It is read by every process that serves, so it loads nothing that sends.
 */

import type { Labels } from "./table.ts";

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
