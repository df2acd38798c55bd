/**
 * A log-linear histogram of durations over shared memory: one thread records, any thread may read meanwhile. A bucket is
 * at most 1/32 of its value wide, so percentiles are right to 3 %. Recording allocates nothing.
 */

/** Buckets per doubling, as a power of two. */
const SUB_BITS = 5;
const SUB_BUCKETS = 2 ** SUB_BITS;
/** Doublings: values up to 2^45 ns, almost ten hours, have buckets of their own. */
const OCTAVES = 41;
const BUCKETS = SUB_BUCKETS * OCTAVES;
const HEADER = 4;
const COUNT = 0;
const SUM = 1;
const LEAST = 2;
const GREATEST = 3;

/** What is being recorded: see {@linkcode Histogram.recordSpan}. */
const SPAN = new Float64Array(1);

/** Bytes of shared memory that a histogram takes. */
export const HISTOGRAM_BYTES = (HEADER + BUCKETS) * Float64Array.BYTES_PER_ELEMENT;

/** Percentiles and the like, in nanoseconds; all 0 if nothing was recorded. */
export interface LatencySummary {
  /** Durations that were recorded. */
  readonly count: number;
  /** The average. */
  readonly meanNs: number;
  /** The shortest. */
  readonly minNs: number;
  /** Half took no longer. */
  readonly p50Ns: number;
  /** Ninety of a hundred took no longer. */
  readonly p90Ns: number;
  /** 99 of a hundred took no longer. */
  readonly p99Ns: number;
  /** 999 of a thousand took no longer. */
  readonly p999Ns: number;
  /** The longest. */
  readonly maxNs: number;
}

/** A histogram of durations in nanoseconds. */
export class Histogram {
  readonly #values: Float64Array;

  /** Over memory at a multiple of 8 bytes that is zeroed, or is that of another view of the same histogram. */
  constructor(buffer: SharedArrayBuffer | ArrayBuffer = new ArrayBuffer(HISTOGRAM_BYTES), byteOffset = 0) {
    this.#values = new Float64Array(buffer, byteOffset, HEADER + BUCKETS);
  }

  /** Values recorded. */
  get count(): number {
    return this.#values[COUNT]!;
  }

  /** Their sum. */
  get sumNs(): number {
    return this.#values[SUM]!;
  }

  /** The longest; 0 if nothing was recorded. */
  get maxNs(): number {
    return this.#values[GREATEST]!;
  }

  /** Records a duration in nanoseconds, `times` times; a negative one counts as 0. */
  record(ns: number, times = 1): void {
    SPAN[0] = ns;
    this.#recordSpan(times);
  }

  /** Records the time from `ms[from]` to `ms[to]`: a number that is passed may have to be allocated. */
  recordSpan(ms: Float64Array, from: number, to: number, times: number): void {
    SPAN[0] = (ms[to]! - ms[from]!) * 1e6;
    this.#recordSpan(times);
  }

  #recordSpan(times: number): void {
    const values = this.#values;
    const ns = SPAN[0]!;
    const value = ns > 0 ? ns : 0;
    values[HEADER + bucketOf(value)]! += times;
    if (values[COUNT] === 0 || value < values[LEAST]!) values[LEAST] = value;
    if (value > values[GREATEST]!) values[GREATEST] = value;
    values[SUM]! += value * times;
    values[COUNT]! += times;
  }

  /** Adds the durations of another histogram. */
  add(other: Histogram): void {
    const [mine, theirs] = [this.#values, other.#values];
    if (theirs[COUNT] === 0) return;
    const least = mine[COUNT] === 0 ? theirs[LEAST]! : Math.min(mine[LEAST]!, theirs[LEAST]!);
    const greatest = Math.max(mine[GREATEST]!, theirs[GREATEST]!);
    for (let i = 0; i < mine.length; i++) mine[i]! += theirs[i]!;
    mine[LEAST] = least;
    mine[GREATEST] = greatest;
  }

  /** The percentile of a share from 0 to 1, in nanoseconds; 0 if nothing was recorded. */
  percentile(share: number): number {
    const upperNs = rankedBucket(this.buckets(), Math.ceil(share * this.count));
    return Math.max(this.#values[LEAST]!, Math.min(upperNs, this.#values[GREATEST]!));
  }

  /** The buckets that are not empty, ascending: the upper end in nanoseconds, and the durations in this bucket alone. */
  buckets(): [upperNs: number, count: number][] {
    const found: [number, number][] = [];
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const count = this.#values[HEADER + bucket]!;
      if (count > 0) found.push([upperEnd(bucket), count]);
    }
    return found;
  }

  /** Count, mean, extremes and percentiles. */
  summary(): LatencySummary {
    const count = this.count;
    return {
      count,
      meanNs: count === 0 ? 0 : this.#values[SUM]! / count,
      minNs: this.#values[LEAST]!,
      p50Ns: this.percentile(0.5),
      p90Ns: this.percentile(0.9),
      p99Ns: this.percentile(0.99),
      p999Ns: this.percentile(0.999),
      maxNs: this.#values[GREATEST]!,
    };
  }
}

/** The upper end of the bucket that holds the value of that rank, from 1 on; the last one's if there are fewer values. */
export function rankedBucket(buckets: readonly (readonly [upperNs: number, count: number])[], rank: number): number {
  let seen = 0;
  for (const [upperNs, count] of buckets) {
    seen += count;
    if (seen >= rank) return upperNs;
  }
  return buckets.at(-1)?.[0] ?? 0;
}

/** Below 32 a bucket is one nanosecond wide; then each doubling has 32 of equal width. */
function bucketOf(value: number): number {
  let scaled = value;
  let octave = 0;
  // clz32 sees 32 bits: large values are halved into its range first.
  while (scaled >= 2 ** 31) {
    scaled /= 2;
    octave++;
  }
  const shift = Math.max(0, 31 - Math.clz32(scaled) - SUB_BITS);
  const sub = (scaled | 0) >> shift;
  const bucket = octave + shift === 0 ? sub : (octave + shift) * SUB_BUCKETS + sub;
  return Math.min(bucket, BUCKETS - 1);
}

/** The least value above a bucket. */
function upperEnd(bucket: number): number {
  if (bucket < 2 * SUB_BUCKETS) return bucket + 1;
  const shift = Math.floor(bucket / SUB_BUCKETS) - 1;
  return (bucket - shift * SUB_BUCKETS + 1) * 2 ** shift;
}
