/**
 * Gives memory back that only the start of this process needed: what the C library keeps of freed memory, and the pages
 * of the program's code, most of which served to load and to compile. Code that is needed again is mapped again, from the
 * page cache, when it runs; so the process is then counted with what it uses.
 */

import { cString, libc, LIBC_SOURCE } from "./libc.ts";
import { openLibrary } from "./library.ts";

/** O_RDONLY and O_CLOEXEC. */
const READ_CLOEXEC = 0x80000;
/** madvise(2): asm-generic/mman-common.h. */
const MADV_DONTNEED = 4;
const CHUNK_BYTES = 65_536;

/** Part of this process's memory. */
export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

/**
 * Returns what this thread, and the C library for all threads, need not keep. Throws {@linkcode XenblkError} if Deno may
 * not use FFI. Where a call does not exist or /proc cannot be read, the memory stays.
 */
export function releaseUnused(): void {
  const library = openLibrary(LIBC_SOURCE, {
    malloc_trim: { parameters: ["usize" /* pad */], result: "i32", optional: true }, // glibc's own
    madvise: { parameters: ["usize", /* addr */ "usize", /* length */ "i32" /* advice */], result: "i32" },
  });
  try {
    library.symbols.malloc_trim?.(0n);
    for (const { start, end } of codeOf(readMaps())) library.symbols.madvise(start, end - start, MADV_DONTNEED);
  } finally {
    library.close();
  }
}

/**
 * The code and the constants of the program itself, in the text of /proc/PID/maps: of the file with the most code, what is
 * executable, and its beginning if that is read-only. No other part may be dropped: what was once written to, such as
 * relocated data, is not in the file.
 */
export function codeOf(maps: string): AddressRange[] {
  const parts = maps.split("\n").map((line) => MAPPING.exec(line)?.groups).filter((groups) => groups !== undefined)
    .map(({ start, end, access, offset, path }) => ({
      start: BigInt(`0x${start}`),
      end: BigInt(`0x${end}`),
      isCode: access === "r-xp",
      isFirst: access === "r--p" && Number(`0x${offset}`) === 0,
      path: path!,
    }));
  const code = parts.filter(({ isCode }) => isCode).map(({ path, start, end }) => ({ path, size: end - start }));
  const program = code.toSorted((one, other) => Number(other.size - one.size))[0]?.path;
  return parts.filter(({ path, isCode, isFirst }) => path === program && (isCode || isFirst))
    .map(({ start, end }) => ({ start, end }));
}

/** A private mapping of a file. */
const MAPPING =
  /^(?<start>[0-9a-f]+)-(?<end>[0-9a-f]+) (?<access>r-[x-]p) (?<offset>[0-9a-f]+) \S+ \d+ +(?<path>\/.*)$/;

/** Reads it by itself: Deno lets nobody read in /proc who lacks any permission. Empty if it cannot be read. */
function readMaps(): string {
  const fd = libc().open(cString("/proc/self/maps"), READ_CLOEXEC, 0);
  if (fd < 0) return "";
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(CHUNK_BYTES);
  let text = "";
  try {
    for (let count = CHUNK_BYTES; count > 0;) {
      count = libc().readBytes(fd, chunk, BigInt(CHUNK_BYTES));
      text += decoder.decode(chunk.subarray(0, Math.max(0, count)), { stream: true });
    }
  } finally {
    libc().close(fd);
  }
  return text;
}
