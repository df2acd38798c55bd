/**
 * The few statistics that the bench needs. The bench reports medians, because one disturbed round does not
 * change them much.
 */

/** The middle value, or the mean of the two in the middle; undefined for no values. */
export function median(values: readonly number[]): number | undefined {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >>> 1;
  if (sorted.length % 2 === 1) return sorted[middle]!;
  return sorted.length === 0 ? undefined : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The value divided by `base`; undefined if one of them is undefined or `base` is not above 0. */
export function ratio(value: number | undefined, base: number | undefined): number | undefined {
  return value === undefined || base === undefined || !(base > 0) ? undefined : value / base;
}

/** Half the distance between the quartiles, as a share of the median. Undefined for no values. */
export function spread(values: readonly number[]): number | undefined {
  const middle = median(values);
  if (middle === undefined || middle === 0) return undefined;
  const sorted = values.toSorted((a, b) => a - b);
  const half = Math.ceil(sorted.length / 2);
  return (median(sorted.slice(-half))! - median(sorted.slice(0, half))!) / 2 / middle;
}
