/**
 * What the main thread and the Worker of the metrics say to each other.
 */

import type { OtlpOptions } from "./otlp_options.ts";
import type { View } from "./view.ts";

/** Where a server listens. */
export interface HttpAddress {
  /** An IP address or a name of this machine. */
  readonly hostname: string;
  /** 0: any free one. */
  readonly port: number;
}

/** What metrics are given out, and where. */
export interface MonitorOptions {
  /** Serve metrics and the status page here. Absent: no server. */
  readonly address?: HttpAddress;
  /** Names by which browsers and Prometheus may call this server, besides addresses and that of `address`. */
  readonly hostNames?: readonly string[];
  /** Write the metrics into this file. Absent: none is written. */
  readonly textfile?: string;
  /** Send the metrics to a collector. Absent: none are sent. */
  readonly otlp?: OtlpOptions;
}

/** To the Worker: what to do, first of all; then a view for each {@linkcode MonitorEvent} `want`. */
export type MonitorCommand =
  | { readonly kind: "start"; readonly options: MonitorOptions }
  | { readonly kind: "view"; readonly view: View | undefined }
  | { readonly kind: "end" };

/** From the Worker. */
export type MonitorEvent =
  /** Its server listens at this port. */
  | { readonly kind: "listens"; readonly port: number }
  /** It needs a view. */
  | { readonly kind: "want" }
  | { readonly kind: "warn"; readonly line: string }
  /** It has ended: its file is removed. */
  | { readonly kind: "ended" };
