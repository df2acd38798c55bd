/**
 * What runs beside the disks of a serving process, such as a control socket or a page of metrics: each companion starts
 * once the service does, and ends before it. `serve` and `attach` start them.
 */

import type { NativePlatform } from "../host_platform.ts";
import type { Service } from "../service.ts";
import { checkMetrics, METRICS_OPTIONS, startMetrics } from "./metrics.ts";
import type { OptionValues } from "./options.ts";
import type { Context } from "./verb.ts";

/** The options of companions, for the verbs that serve. */
export const COMPANION_OPTIONS = { ...METRICS_OPTIONS } as const;

/** A process that serves, as a companion sees it. */
export interface Serving {
  readonly context: Context;
  readonly platform: NativePlatform;
  readonly service: Service;
  /** The backend kind, such as `vbd3`. */
  readonly kind: string;
  readonly options: OptionValues<typeof COMPANION_OPTIONS>;
}

/** Starts the companions that the options ask for. Disposing the result ends them. Rejects if one cannot start. */
export async function startCompanions(serving: Serving): Promise<AsyncDisposable> {
  const companions = new AsyncDisposableStack();
  const { context, platform, service, options } = serving;
  companions.use(await startMetrics({ platform, service, version: context.version, options }));
  return companions;
}

/** Throws XenblkError if what the options ask for cannot work: to be called before a disk is served. */
export function checkCompanions(options: OptionValues<typeof COMPANION_OPTIONS>): void {
  checkMetrics(options);
}
