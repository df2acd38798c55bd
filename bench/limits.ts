/**
 * What the C reference's figures are worth. They are a limit for others only where the reference does about as well beside
 * fio as it has done on an idle machine: on a busy one, or on one that does not suit it, a product that is as fast as the
 * reference has shown nothing.
 */

import { type DiskCase, isDirect, placeOf, type StorageName } from "./cases.ts";
import { counterpart, type Measurement, medianSample } from "./samples.ts";
import { ratio } from "./statistics.ts";

/** One load on one storage. */
export type Cell = Pick<Measurement, "storage" | "case">;

/** Whether the reference shows the limit of a cell. */
export interface Limit {
  readonly counts: boolean;
  /** Why, for people: `0.21 of fio's IOPS, less than 0.33`. */
  readonly why: string;
}

/** The reference's share of fio's IOPS that a backend in C has shown, by storage and operation. */
export function leastShare(storage: StorageName, operation: DiskCase["operation"]): number {
  if (isDirect(storage)) return operation === "write" ? 0.9 : 0.77;
  return placeOf(storage) === "cached" ? 0.5 : 0.33;
}

/** Undefined if the reference was not measured there. */
export function limitOf(all: readonly Measurement[], cell: Cell): Limit | undefined {
  const { storage, case: { operation, depth } } = cell;
  if (storage === undefined || counterpart(all, cell, "c") === undefined) return undefined;
  const least = leastShare(storage, operation);
  const share = shareOfFio(all, cell);
  if (share !== undefined && share >= least) return { counts: true, why: wordsOf(share) };
  // With one request in flight, fio's has no way to a backend and back. There the deep loads of this run speak.
  const deep = depth > 1 ? undefined : deepShare(all, storage, operation);
  if (deep !== undefined && deep.share >= least) {
    return { counts: true, why: `${wordsOf(deep.share)} at ${deep.name}` };
  }
  const judged = deep === undefined ? share : deep.share;
  const why = judged === undefined ? "fio was not measured" : `${wordsOf(judged)}, less than ${least}`;
  return { counts: false, why: deep === undefined ? why : `${why}, at ${deep.name}` };
}

function wordsOf(share: number): string {
  return `${share.toFixed(2)} of fio's IOPS`;
}

function shareOfFio(all: readonly Measurement[], cell: Cell): number | undefined {
  const [c, fio] = (["c", "fio"] as const).map((subject) => counterpart(all, cell, subject));
  return c === undefined || fio === undefined ? undefined : ratio(medianSample(c).iops, medianSample(fio).iops);
}

/** The largest share among a storage's loads of 32 or more requests in flight. */
function deepShare(
  all: readonly Measurement[],
  storage: StorageName,
  operation: DiskCase["operation"],
): { readonly name: string; readonly share: number } | undefined {
  const shares = all
    .filter((one) => one.subject === "c" && one.storage === storage && one.case.operation === operation)
    .filter((one) => one.case.depth >= 32)
    .flatMap((one) => {
      const share = shareOfFio(all, one);
      return share === undefined ? [] : [{ name: one.case.name, share }];
    });
  return shares.toSorted((a, b) => b.share - a.share)[0];
}
