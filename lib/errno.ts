/**
 * Linux's errno values and their names (asm-generic/errno-base.h and errno.h, the same on x86 and ARM): the one place
 * that has them. Values are positive; operations of a disk complete with their negatives. This file imports nothing.
 */

/** Positive values by name: all that a system call on files, memory, sockets or Xen's devices returns. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  ENOTBLK: 15,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  EDOM: 33,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EOVERFLOW: 75,
  ENOTSOCK: 88,
  EOPNOTSUPP: 95,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  EISCONN: 106,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

const NAMES: ReadonlyMap<number, string> = new Map(Object.entries(ERRNO).map(([name, value]) => [value, name]));

export const {
  EPERM,
  ENOENT,
  EINTR,
  EIO,
  EBADF,
  EAGAIN,
  ENOMEM,
  EACCES,
  EFAULT,
  EINVAL,
  ENFILE,
  EMFILE,
  EFBIG,
  ENOSPC,
  EROFS,
  EPIPE,
  EOPNOTSUPP,
  ETIMEDOUT,
  EDQUOT,
} = ERRNO;

/** `ENOENT` for 2; `errno 200` for a value without a name here. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}

/** 2 for `ENOENT`; undefined for a name that is not in {@linkcode ERRNO}. */
export function errnoValue(name: string): number | undefined {
  return Object.hasOwn(ERRNO, name) ? ERRNO[name as keyof typeof ERRNO] : undefined;
}
