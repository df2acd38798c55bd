/**
 * The C library: errno, memory, eventfds, poll, and the few calls that take a file descriptor. Opened at first use, once
 * per thread (errno belongs to a thread).
 */

import { errnoName } from "../../lib/errno.ts";
import { lazily, type LibrarySource, openLibrary } from "./library.ts";

/** mmap(2): protections and kinds of a mapping (asm-generic/mman-common.h). */
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x1;
export const MAP_PRIVATE = 0x2;
export const MAP_ANONYMOUS = 0x20;
export const MAP_POPULATE = 0x8000;

/**
 * Signatures for a 64-bit Linux. Lengths are bigints (constants where speed matters: a Number takes the slow path);
 * results that fit are i32, since a 64-bit result would be a bigint each time.
 */
const SYMBOLS = {
  __errno_location: { parameters: [], result: "pointer" },
  strerror: { parameters: ["i32" /* errnum */], result: "pointer" },
  free: { parameters: ["pointer" /* ptr */], result: "void" },
  mmap: {
    parameters: [
      "pointer", /* addr */
      "usize", /* length */
      "i32", /* prot */
      "i32", /* flags */
      "i32", /* fd */
      "i64", /* offset */
    ],
    result: "usize",
  },
  madvise: { parameters: ["usize", /* addr */ "usize", /* length */ "i32" /* advice */], result: "i32" },
  munmap: { parameters: ["usize", /* addr */ "usize" /* length */], result: "i32" },
  clock_gettime: { parameters: ["i32", /* clockid */ "pointer" /* tp */], result: "i32" },
  eventfd: { parameters: ["u32", /* initval */ "i32" /* flags */], result: "i32" },
  poll: { parameters: ["pointer", /* fds */ "u64", /* nfds */ "i32" /* timeout */], result: "i32" },
  pollOnPool: {
    name: "poll",
    parameters: ["pointer", /* fds */ "u64", /* nfds */ "i32" /* timeout */],
    result: "i32",
    nonblocking: true,
  },
  read: { parameters: ["i32", /* fd */ "pointer", /* buf */ "usize" /* count */], result: "i32" },
  write: { parameters: ["i32", /* fd */ "pointer", /* buf */ "usize" /* count */], result: "i32" },
  readBytes: {
    name: "read",
    parameters: ["i32", /* fd */ "buffer", /* buf */ "usize" /* count */],
    result: "i32",
  },
  writeBytes: {
    name: "write",
    parameters: ["i32", /* fd */ "buffer", /* buf */ "usize" /* count */],
    result: "i32",
  },
  socket: { parameters: ["i32", /* domain */ "i32", /* type */ "i32" /* protocol */], result: "i32" },
  connect: { parameters: ["i32", /* sockfd */ "buffer", /* addr */ "u32" /* addrlen */], result: "i32" },
  socketpair: {
    parameters: ["i32", /* domain */ "i32", /* type */ "i32", /* protocol */ "buffer" /* sv */],
    result: "i32",
  },
  sendmsg: { parameters: ["i32", /* sockfd */ "pointer", /* msg */ "i32" /* flags */], result: "i32" },
  recv: {
    parameters: ["i32", /* sockfd */ "buffer", /* buf */ "usize", /* len */ "i32" /* flags */],
    result: "i32",
  },
  gettid: { parameters: [], result: "i32" },
  shutdown: { parameters: ["i32", /* sockfd */ "i32" /* how */], result: "i32" },
  dup3: { parameters: ["i32", /* oldfd */ "i32", /* newfd */ "i32" /* flags */], result: "i32" },
  memfd_create: { parameters: ["buffer", /* name */ "u32" /* flags */], result: "i32" },
  getenv: { parameters: ["buffer" /* name */], result: "pointer" },
  /* Variadic in C, as fcntl below. */
  open: { parameters: ["buffer", /* pathname */ "i32", /* flags */ "u32" /* mode */], result: "i32" },
  preadv: {
    parameters: ["i32", /* fd */ "usize", /* iov */ "i32", /* iovcnt */ "i64" /* offset */],
    result: "i32",
  },
  pread64: {
    parameters: ["i32", /* fd */ "usize", /* buf */ "usize", /* count */ "i64" /* offset */],
    result: "i32",
  },
  pwrite64: {
    parameters: ["i32", /* fd */ "usize", /* buf */ "usize", /* count */ "i64" /* offset */],
    result: "i32",
  },
  preadv2: {
    parameters: ["i32", /* fd */ "usize", /* iov */ "i32", /* iovcnt */ "i64", /* offset */ "i32" /* flags */],
    result: "i32",
  },
  pwritev: {
    parameters: ["i32", /* fd */ "usize", /* iov */ "i32", /* iovcnt */ "i64" /* offset */],
    result: "i32",
  },
  fallocate: {
    parameters: ["i32", /* fd */ "i32", /* mode */ "i64", /* offset */ "i64" /* len */],
    result: "i32",
  },
  ftruncate: { parameters: ["i32", /* fd */ "i64" /* length */], result: "i32" },
  flock: { parameters: ["i32", /* fd */ "i32" /* op */], result: "i32" },
  statx: {
    parameters: [
      "i32",
      /* dirfd */ "buffer",
      /* pathname */ "i32",
      /* flags */ "u32",
      /* mask */ "pointer", /* statxbuf */
    ],
    result: "i32",
  },
  fstatfs: { parameters: ["i32", /* fd */ "pointer" /* buf */], result: "i32" },
  close: { parameters: ["i32" /* fd */], result: "i32" },
  access: { parameters: ["buffer", /* pathname */ "i32" /* mode */], result: "i32" },
  /* Variadic in C; the ABIs of x86-64 and aarch64 Linux pass these like fixed parameters. */
  fcntl: { parameters: ["i32", /* fd */ "i32", /* op */ "u64" /* arg */], result: "i32" },
  ioctl: { parameters: ["i32", /* fd */ "u64", /* op */ "u64" /* arg */], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/**
 * The functions of the C library, under their C names. `pollOnPool` is poll(2) on a thread of Deno's pool; `readBytes`
 * and `writeBytes` are read(2) and write(2) on a JavaScript buffer.
 */
export type LibcSymbols = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

/** Where the C library is found. */
export const LIBC_SOURCE: LibrarySource = {
  name: "the C library",
  sonames: ["libc.so.6"],
  debianPackage: "libc6",
  variable: "XENBLK_LIBC",
};

/** The C library's functions. Throws XenblkError if Deno may not use FFI. */
export const libc: () => LibcSymbols = lazily(() => openLibrary(LIBC_SOURCE, SYMBOLS).symbols);

/** This thread's errno itself: one view of the C variable. */
const errnoCell: () => Int32Array = lazily(() => {
  const location = libc().__errno_location();
  if (location === null) throw new Error("Cannot find errno: __errno_location returned NULL");
  return new Int32Array(Deno.UnsafePointerView.getArrayBuffer(location, Int32Array.BYTES_PER_ELEMENT));
});

/** This thread's errno, to be read right after a synchronous call that failed. Means nothing after a nonblocking one. */
export function errno(): number {
  return errnoCell()[0]!;
}

/** `No such file or directory (ENOENT)`. */
export function errnoText(value: number): string {
  const text = libc().strerror(value);
  const name = errnoName(value);
  return text === null ? name : `${Deno.UnsafePointerView.getCString(text)} (${name})`;
}

/** A C string of a JavaScript string. Throws TypeError if it holds a NUL, which C would take for its end. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) throw new TypeError(`Cannot pass a text to C: it contains a NUL: ${JSON.stringify(text)}`);
  return encoder.encode(text + "\0");
}

const encoder = new TextEncoder();

/** The pointer to an address known as a Number. About 70 ns: make it once. */
export function pointerTo(address: number): Deno.PointerObject {
  const pointer = Deno.UnsafePointer.create(BigInt(address));
  if (pointer === null) throw new TypeError("Cannot make a pointer: the address is 0");
  return pointer;
}
