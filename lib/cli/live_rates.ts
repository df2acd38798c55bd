/**
 * What the live disks of this host did, and what they do now, for the verbs that show disks: two readings, a short time
 * apart.
 */

import { type LiveFigures, liveFigures } from "../control/live_figures.ts";
import type { DiskFigures } from "../figures/figures.ts";
import { type DiskRates, intervalBetween, ratesOf } from "../figures/rates.ts";
import type { DomId } from "../hypervisor.ts";
import { type DeviceListing, OTHERS_KINDS } from "../toolstack/list.ts";
import { Silent } from "./silent.ts";

/** Long enough for rates of busy disks, and short for who waits. */
const SAMPLE_MS = 250;

/** The members of a disk in JSON. */
export interface RateMembers {
  readonly stats: DiskFigures;
  /** Absent: there was only one reading. */
  readonly rates?: DiskRates;
}

/** A live device with its rates. */
export interface MeasuredDevice extends LiveFigures {
  readonly rates?: DiskRates;
}

/** What the processes of this host have said. */
export interface Measured {
  /** By the backend's directory. */
  readonly live: ReadonlyMap<string, MeasuredDevice>;
  /** All processes have answered. */
  readonly isWhole: boolean;
}

/** The live devices. Does not wait if there are none. */
export async function measureLive(
  signal: AbortSignal,
  inform: (line: string) => void,
): Promise<Measured> {
  const silent = new Silent();
  const devices = await liveFigures({ apartMs: SAMPLE_MS, signal, silent: silent.note });
  if (!silent.isEmpty) inform(`${silent.line}; its disks are shown as xenstore has them`);
  const live = devices.map((device): [string, MeasuredDevice] => {
    const interval = device.earlier && intervalBetween(device.earlier, device.figures);
    return [device.report.backendPath, { ...device, ...(interval && { rates: ratesOf([interval]) }) }];
  });
  return { live: new Map(live), isWhole: silent.isEmpty };
}

/** The members `stats` and `rates`; none where no process of ours serves the disk. */
export function rateMembers(device: MeasuredDevice | undefined): Partial<RateMembers> {
  if (device === undefined) return {};
  const { figures, rates } = device;
  return { stats: figures, ...(rates && { rates }) };
}

/** A backend in one of these states has work to do. */
const ATTENDED: ReadonlySet<string> = new Set(["InitWait", "Initialised", "Connected", "Closing"]);

/**
 * The hint for a disk of this domain for which no process of ours answers: xenstore keeps the states of a process that
 * was killed.
 */
export function unattendedHint(
  { backendPath, kind, backendDomain, backendState, hint }: DeviceListing,
  { live, isWhole }: Measured,
  ownDomain: DomId,
): { readonly hint?: string } {
  const isOurs = backendDomain === ownDomain && !OTHERS_KINDS.has(kind);
  if (!isWhole || live.has(backendPath) || hint !== undefined || !isOurs || !ATTENDED.has(backendState)) return {};
  return {
    hint: `no process of xenblk answers for it; if none runs, its requests wait: start \`xenblk serve --kind ${kind}\``,
  };
}
