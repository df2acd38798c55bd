/**
 * Names of Linux's errno values, for messages and codes. Pure: it must not know where a value came from.
 */

/** Values of asm-generic/errno-base.h and errno.h that this project compares with. */
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EINVAL = 22;
export const ENFILE = 23;
export const EMFILE = 24;
export const EFBIG = 27;

/** Index is the value; the order is asm-generic's, which x86 and ARM share. */
const NAMES = ("0 EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK " +
  "EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK " +
  "EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP").split(" ");

/** Those above 40 that sockets and file systems give. */
const MORE_NAMES: Readonly<Record<number, string>> = {
  61: "ENODATA",
  71: "EPROTO",
  75: "EOVERFLOW",
  88: "ENOTSOCK",
  95: "EOPNOTSUPP",
  103: "ECONNABORTED",
  104: "ECONNRESET",
  105: "ENOBUFS",
  106: "EISCONN",
  107: "ENOTCONN",
  110: "ETIMEDOUT",
  111: "ECONNREFUSED",
  116: "ESTALE",
  122: "EDQUOT",
  125: "ECANCELED",
};

/** `ENOENT` for 2; `errno 200` for a value without a name here. */
export function errnoName(errno: number): string {
  return (errno > 0 ? NAMES[errno] : undefined) ?? MORE_NAMES[errno] ?? `errno ${errno}`;
}
