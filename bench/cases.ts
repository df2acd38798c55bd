/**
 * What the bench measures: the loads, the storage they run on, and the names by which they are chosen. Pure data. It
 * must not know who is measured.
 */

/** One load. */
export interface DiskCase {
  /** As chosen with --cases: `randread-4k-32`. */
  readonly name: string;
  readonly operation: "read" | "write";
  readonly pattern: "random" | "sequential";
  readonly blockBytes: number;
  /** Requests in flight. */
  readonly depth: number;
}

/** Where the image is and how it is opened. */
export type StorageName = "tmpfs" | "cached" | "direct" | "loop";

/** All kinds of storage, in the order of the report. */
export const STORAGES: readonly StorageName[] = ["tmpfs", "cached", "direct", "loop"];

/** Whether a storage is used past the page cache. */
export function isDirect(storage: StorageName): boolean {
  return storage === "direct" || storage === "loop";
}

/** Who is measured: this backend, QEMU's, fio on the same file, and this backend without a disk. */
export type SubjectName = "xenblk" | "qemu" | "fio" | "null";

/** All subjects, in the order of the report. */
export const SUBJECTS: readonly SubjectName[] = ["xenblk", "qemu", "fio", "null"];

/** Segments of a direct request, hence its most bytes; larger blocks are indirect requests, or several direct ones. */
const DIRECT_BYTES = 11 * 4096;
/** Requests that a ring of one page holds. */
const SLOTS_PER_PAGE = 32;

/** A load's case; its name says it all. */
export function diskCase(
  pattern: DiskCase["pattern"],
  operation: DiskCase["operation"],
  blockKiB: number,
  depth: number,
): DiskCase {
  const name = `${pattern === "random" ? "rand" : "seq"}${operation}-${blockKiB}k-${depth}`;
  return { name, operation, pattern, blockBytes: blockKiB * 1024, depth };
}

/** The cases of a run, in the order of the report. */
export const CASES: readonly DiskCase[] = [
  diskCase("random", "read", 4, 1),
  diskCase("random", "read", 4, 32),
  diskCase("random", "read", 4, 128),
  diskCase("random", "write", 4, 32),
  diskCase("sequential", "read", 44, 8),
  diskCase("sequential", "read", 128, 8),
];

/** Depths between those of {@linkcode CASES}, for a plot. */
export const PLOT_CASES: readonly DiskCase[] = [4, 16].map((depth) => diskCase("random", "read", 4, depth));

/** Whether a case belongs to the curve of operations against depth. */
export function isOnCurve(diskCase: DiskCase): boolean {
  return diskCase.pattern === "random" && diskCase.operation === "read" && diskCase.blockBytes === 4096;
}

/** Pages of the smallest ring that holds a case's requests: a power of two. */
export function ringPagesFor({ depth }: Pick<DiskCase, "depth">): number {
  return 2 ** Math.max(0, Math.ceil(Math.log2(depth / SLOTS_PER_PAGE)));
}

/** How a guest asks for a case's blocks from a backend that takes requests of at most so many segments. */
export interface RequestShape {
  readonly blockBytes: number;
  readonly depth: number;
}

/**
 * A block that fits no request is split, as a guest's kernel does: as many full direct requests as a block takes are in
 * flight for each block that should be.
 */
export function requestShape({ blockBytes, depth }: DiskCase, mostSegments: number): RequestShape {
  if (blockBytes <= Math.max(mostSegments * 4096, DIRECT_BYTES)) return { blockBytes, depth };
  return { blockBytes: DIRECT_BYTES, depth: depth * Math.ceil(blockBytes / DIRECT_BYTES) };
}
