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
  /** Every block goes to a place that was never written: the image has to allocate it. Images of a format only. */
  readonly allocates: boolean;
}

/** Where a raw image is and how it is opened. */
type RawStorageName = "tmpfs" | "cached" | "direct" | "loop";

/** Where the image is and how it is opened. The last three hold an image of format qcow2. */
export type StorageName = RawStorageName | "qcow2-tmpfs" | "qcow2-cached" | "qcow2-direct";

/** The kinds of storage with a raw image, in the order of the report. */
export const RAW_STORAGES: readonly StorageName[] = ["tmpfs", "cached", "direct", "loop"];

/** All kinds of storage, in the order of the report. */
export const STORAGES: readonly StorageName[] = [...RAW_STORAGES, "qcow2-tmpfs", "qcow2-cached", "qcow2-direct"];

/** Whether a storage holds an image of format qcow2, which a storage daemon serves. */
export function isQcow2(storage: StorageName): boolean {
  return storage.startsWith("qcow2-");
}

/** The place of the image. */
export function placeOf(storage: StorageName): RawStorageName {
  return storage.replace("qcow2-", "") as RawStorageName;
}

/** Whether a storage is used with O_DIRECT. */
export function isDirect(storage: StorageName): boolean {
  const place = placeOf(storage);
  return place === "direct" || place === "loop";
}

/**
 * The measured programs: this backend, the C reference (`c`, of raw images), QEMU's, fio on the same file, and this
 * backend with a null disk, or with three filters that do nothing (`filtered`); of a qcow2 image also this backend
 * without a log of unflushed writes, and with the same data in a raw image.
 */
export type SubjectName = "xenblk" | "filtered" | "unlogged" | "c" | "qemu" | "raw" | "fio" | "null";

/** All subjects, in the order of the report. */
export const SUBJECTS: readonly SubjectName[] = ["xenblk", "filtered", "unlogged", "c", "qemu", "raw", "fio", "null"];

/** Those that are measured unless others are named. */
export const USUAL_SUBJECTS: readonly SubjectName[] = ["xenblk", "unlogged", "c", "qemu", "fio", "null"];

/** Maximum segments of a direct request. A larger block is an indirect request, or several direct requests. */
const DIRECT_BYTES = 11 * 4096;
/** Requests that a ring of one page holds. */
const SLOTS_PER_PAGE = 32;

/** A case, with a name made of its parts. `alloc` is a write that {@linkcode DiskCase.allocates}. */
export function diskCase(
  pattern: DiskCase["pattern"],
  load: DiskCase["operation"] | "alloc",
  blockKiB: number,
  depth: number,
): DiskCase {
  const name = `${pattern === "random" ? "rand" : "seq"}${load}-${blockKiB}k-${depth}`;
  const operation = load === "alloc" ? "write" : load;
  return { name, operation, pattern, blockBytes: blockKiB * 1024, depth, allocates: load === "alloc" };
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

/** The cases of a run on a qcow2 image. */
export const QCOW2_CASES: readonly DiskCase[] = [
  diskCase("random", "read", 4, 1),
  diskCase("random", "write", 4, 1),
  diskCase("random", "read", 4, 32),
  diskCase("random", "write", 4, 32),
  diskCase("sequential", "read", 128, 8),
  diskCase("random", "alloc", 4, 32),
  diskCase("sequential", "alloc", 4, 32),
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
