/**
 * Readings of all live disks, and what happened between two of them. Disks come and go, and so do serving processes: a
 * disk has a row from its second reading in the same process on.
 */

import { type LiveFigures, liveFigures } from "../../control/live_figures.ts";
import type { NoteSilent } from "../../control/serving.ts";
import { type DiskInterval, type DiskRates, intervalBetween, ratesOf } from "../../figures/rates.ts";
import type { DomId } from "../../hypervisor.ts";
import type { AllLimits } from "../../storage/filter/limits.ts";
import { Silent } from "../silent.ts";

/** What a row is about, and its rates. */
export interface RateRow {
  /** In JSON as iostat has it: `web/xvda`, or the guest alone. */
  readonly disk_device: string;
  readonly domain: DomId;
  /** Absent if the guest has no name, or xenstore could not be asked. */
  readonly domainName?: string;
  /** The virtual device; absent in a row of a whole guest. */
  readonly vdev?: string;
  /** The process that serves it; absent likewise. */
  readonly pid?: number;
  /** What is limited, if anything is; absent in a row of a whole guest, too. */
  readonly limits?: AllLimits;
  readonly rates: DiskRates;
}

/** What happened since the reading before. */
export interface Sample {
  readonly disks: readonly RateRow[];
  /** All disks of each guest together. */
  readonly guests: readonly RateRow[];
  /** Disks that processes have now, with a row or not. */
  readonly live: number;
  /** What to say of processes that did not answer, if there are any. */
  readonly silence?: string;
}

type ReadFigures = (silent: NoteSilent) => Promise<readonly LiveFigures[]>;

/** Guests' names by domid. */
type Names = ReadonlyMap<DomId, string>;

/** Takes readings, one after the other. */
export class Sampler {
  readonly #names: () => Names;
  readonly #read: ReadFigures;
  #before: ReadonlyMap<string, LiveFigures> = new Map();

  /** `names` is asked at each reading. */
  constructor(names: () => Names, read: ReadFigures = (silent) => liveFigures({ silent })) {
    this.#names = names;
    this.#read = read;
  }

  /** Takes a reading. */
  async sample(): Promise<Sample> {
    const silent = new Silent();
    const now = await this.#read(silent.note);
    const names = this.#names();
    const before = this.#before;
    this.#before = new Map(now.map((device) => [keyOf(device), device]));
    const measured = now.flatMap((device) => {
      const earlier = before.get(keyOf(device));
      const interval = earlier && intervalBetween(earlier.figures, device.figures);
      return interval === undefined ? [] : [{ device, interval }];
    });
    return {
      disks: diskRows(measured, names),
      guests: guestRows(measured, names),
      live: now.length,
      ...(silent.isEmpty ? {} : { silence: silent.line }),
    };
  }
}

interface Measured {
  readonly device: LiveFigures;
  readonly interval: DiskInterval;
}

/** The counters of another process begin anew. */
function keyOf({ hello: { pid }, report: { backendPath } }: LiveFigures): string {
  return `${pid} ${backendPath}`;
}

function diskRows(measured: readonly Measured[], names: Names): RateRow[] {
  return measured.map(({ device: { report: { domain, name, limits }, hello: { pid } }, interval }) => ({
    disk_device: `${names.get(domain) ?? domain}/${name}`,
    ...guestOf(domain, names),
    vdev: name,
    pid,
    ...(limits === undefined ? {} : { limits }),
    rates: ratesOf([interval]),
  }));
}

function guestRows(measured: readonly Measured[], names: Names): RateRow[] {
  const guests = Map.groupBy(measured, ({ device }) => device.report.domain);
  return [...guests].map(([domain, disks]) => ({
    disk_device: names.get(domain) ?? String(domain),
    ...guestOf(domain, names),
    rates: ratesOf(disks.map(({ interval }) => interval)),
  }));
}

function guestOf(domain: DomId, names: Names): Pick<RateRow, "domain" | "domainName"> {
  const domainName = names.get(domain);
  return { domain, ...(domainName === undefined ? {} : { domainName }) };
}
