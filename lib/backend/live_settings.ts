/**
 * What of a disk's settings can be changed while it is served: its weight and its limits. What was chosen for this one
 * disk, at attach or later, is kept in a node of the backend's directory. So the next process finds it, however this one
 * ended, and it ends with the attachment of the disk. It counts more than what the next process has for all its disks.
 */

import { LEAST_WEIGHT, MOST_WEIGHT, Weight } from "../dataplane/fairness.ts";
import { XenblkError } from "../errors.ts";
import { type AllLimits, limitsAny, limitsIn, readLimits } from "../storage/filter/limits.ts";
import type { ThrottleOptions } from "../storage/filter/table.ts";
import type { NodeValue } from "../xenbus/features.ts";
import type { DeviceFilters } from "./device_filters.ts";
import type { DeviceSettings } from "./settings.ts";
import type { DeviceReport } from "./status.ts";

/** The node of the backend's directory that holds what was chosen for the disk, as JSON. */
export const LIVE_NODE = "live-settings";

/** What was chosen for one disk; a member is absent where nothing was. */
export interface ChosenLive {
  /** From 1 to 1000. */
  readonly weight?: number;
  /** Those that are absent are as the process has them for all its disks. */
  readonly limits?: ThrottleOptions;
}

/** The value of the node; undefined if nothing was chosen. Throws {@linkcode XenblkError} (usage) for a wrong limit. */
export function liveText({ weight, limits }: ChosenLive): string | undefined {
  if (weight === undefined && limits === undefined) return undefined;
  return JSON.stringify({
    ...(weight === undefined ? {} : { weight }),
    ...(limits === undefined ? {} : { limits: readLimits({ ...limits }) }),
  });
}

/** What the node says. What is missing in it, or makes no sense, was not chosen. */
export function parseLive(text: string | undefined): ChosenLive {
  const read = parsed(text);
  if (!isObject(read)) return {};
  const weight = "weight" in read ? read.weight : undefined;
  const limits = "limits" in read && isObject(read.limits) ? limitsFrom(read.limits) : undefined;
  return {
    ...(isWeight(weight) ? { weight } : {}),
    ...(limits === undefined ? {} : { limits }),
  };
}

/** Where it is kept: DeviceNodes. */
interface Keeper {
  /** Writes nodes, unless the device is gone. */
  prepare(nodes: readonly NodeValue[]): void;
}

/** The weight and the limits of one disk. */
export class LiveSettings {
  /** The disk's share of a reactor. */
  readonly weight: Weight;
  readonly #filters: DeviceFilters;
  #chosen: ChosenLive;
  #isKept = true;

  /** `chosen`: for this disk, before. The settings have it already. */
  constructor(
    { settings, chosen = {} }: { readonly settings: Pick<DeviceSettings, "weight">; readonly chosen?: ChosenLive },
    filters: DeviceFilters,
  ) {
    this.weight = new Weight(settings.weight);
    this.#filters = filters;
    this.#chosen = chosen;
  }

  /** All limits as they are now. */
  get limits(): AllLimits {
    return limitsIn(this.#filters.limits.options);
  }

  /** For the device's report. */
  report(): Pick<DeviceReport, "weight" | "limits"> {
    const { limits } = this;
    return { weight: this.weight.value, ...(limitsAny(limits) && { limits }) };
  }

  /** The filter that has the limits, for people, if the disk has it among its own: `filter throttle`. */
  get limitedBy(): string | undefined {
    return this.#filters.limitedBy;
  }

  /**
   * Rings follow at their next pass. It is kept at once if the nodes can be written, else by the next {@linkcode keep}.
   * Throws {@linkcode XenblkError} (usage) for what is not allowed; nothing changes then.
   */
  change({ weight, limits }: ChosenLive, nodes: Keeper | undefined): void {
    if (weight !== undefined && !isWeight(weight)) {
      throw new XenblkError(
        `Cannot use ${weight} as a weight: it takes a whole number from ${LEAST_WEIGHT} to ${MOST_WEIGHT}`,
        { kind: "usage" },
      );
    }
    if (limits !== undefined) this.#filters.limits.set(limits);
    if (weight !== undefined) this.weight.value = weight;
    this.#chosen = {
      ...this.#chosen,
      ...(weight === undefined ? {} : { weight }),
      ...(limits === undefined ? {} : { limits: this.limits }),
    };
    this.#isKept = false;
    try {
      if (nodes !== undefined) this.keep(nodes);
    } catch {
      // xenstored is away or too busy: the next look tries again, and reports a failure
    }
  }

  /** Writes what was chosen, if it was not written since the last change. Throws what that throws. */
  keep(nodes: Keeper): void {
    const text = this.#isKept ? undefined : liveText(this.#chosen);
    if (text !== undefined) nodes.prepare([[LIVE_NODE, text]]);
    this.#isKept = true;
  }
}

function isWeight(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= LEAST_WEIGHT && value <= MOST_WEIGHT;
}

function limitsFrom(read: object): Partial<AllLimits> | undefined {
  try {
    return readLimits(Object.fromEntries(Object.entries<unknown>({ ...read }).filter(isNumber)));
  } catch {
    return undefined;
  }
}

function isNumber(entry: [string, unknown]): entry is [string, number] {
  return typeof entry[1] === "number";
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "null");
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}
