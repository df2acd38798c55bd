/**
 * The loads of the bench, the storage that they run on, and their names on the command line.
 */

/** One load. */
export interface DiskCase {
  /** The name for --cases, for instance `randread-4k-32`. */
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

/** Whether a storage is used with O_DIRECT. */
export function isDirect(storage: StorageName): boolean {
  return storage === "direct" || storage === "loop";
}

/** The measured programs: this backend, QEMU's, fio on the same file, and this backend with a null disk. */
export type SubjectName = "xenblk" | "qemu" | "fio" | "null";

/** All subjects, in the order of the report. */
export const SUBJECTS: readonly SubjectName[] = ["xenblk", "qemu", "fio", "null"];

/** Maximum segments of a direct request. A larger block is an indirect request, or several direct requests. */
const DIRECT_BYTES = 11 * 4096;
/** Requests that a ring of one page holds. */
const SLOTS_PER_PAGE = 32;

/** A case, with a name made of its parts. */
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

/** More depths than {@linkcode CASES} has, for the plot. */
export const PLOT_CASES: readonly DiskCase[] = [4, 16].map((depth) => diskCase("random", "read", 4, depth));

/** Whether a case is a point of the plot. */
export function isOnCurve(diskCase: DiskCase): boolean {
  return diskCase.pattern === "random" && diskCase.operation === "read" && diskCase.blockBytes === 4096;
}

/** Pages of the smallest ring that holds a case's requests: a power of two. */
export function ringPagesFor({ depth }: Pick<DiskCase, "depth">): number {
  return 2 ** Math.max(0, Math.ceil(Math.log2(depth / SLOTS_PER_PAGE)));
}

/** How a guest requests a case's blocks if the backend takes this many segments per request. */
export interface RequestShape {
  readonly blockBytes: number;
  readonly depth: number;
}

/**
 * A block that does not fit a request is split into full direct requests, as a guest's kernel does. The depth grows by
 * the same factor.
 */
export function requestShape({ blockBytes, depth }: DiskCase, mostSegments: number): RequestShape {
  if (blockBytes <= Math.max(mostSegments * 4096, DIRECT_BYTES)) return { blockBytes, depth };
  return { blockBytes: DIRECT_BYTES, depth: depth * Math.ceil(blockBytes / DIRECT_BYTES) };
}
