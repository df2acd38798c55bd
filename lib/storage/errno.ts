/**
 * The one place where a thrown error becomes a negative errno. Values are Linux's (asm-generic/errno.h). It must not
 * know which operation failed, nor what a guest is told.
 */

import { EIO } from "./disk.ts";

/** Bad address: memory that an operation names cannot be reached. */
export const EFAULT = -14;
/** The disk is full: a write past the end of a disk that cannot grow. */
export const ENOSPC = -28;
/** Bad descriptor, which is what Linux says to a write through a read-only descriptor. */
export const EBADF = -9;
/** Interrupted system call. */
export const EINTR = -4;
/** Try again. */
export const EAGAIN = -11;

/** By the `code` of a Deno error that a system call caused. */
const BY_CODE: Readonly<Record<string, number>> = {
  EPERM: -1,
  ENOENT: -2,
  EINTR,
  EIO,
  ENXIO: -6,
  EBADF,
  EAGAIN,
  ENOMEM: -12,
  EACCES: -13,
  EFAULT,
  EBUSY: -16,
  ENODEV: -19,
  EINVAL: -22,
  EFBIG: -27,
  ENOSPC,
  ESPIPE: -29,
  EROFS: -30,
  EOPNOTSUPP: -95,
  ETIMEDOUT: -110,
  ESTALE: -116,
  EDQUOT: -122,
};

/** Deno error classes that may come without a code. */
const BY_CLASS: readonly (readonly [abstract new (...args: never[]) => Error, number])[] = [
  [Deno.errors.Interrupted, EINTR],
  [Deno.errors.WouldBlock, EAGAIN],
  [Deno.errors.BadResource, EBADF],
  [Deno.errors.PermissionDenied, -13],
  [Deno.errors.NotCapable, -13],
  [Deno.errors.NotFound, -2],
  [Deno.errors.TimedOut, -110],
  [RangeError, EFAULT],
];

/** The negative errno of anything that file I/O or a view of memory threw; -EIO if it tells none. */
export function errnoOf(error: unknown): number {
  if (!(error instanceof Error)) return EIO;
  const code = (error as Error & { readonly code?: unknown }).code;
  const known = typeof code === "string" ? BY_CODE[code] : undefined;
  if (known !== undefined) return known;
  const number = /\(os error (\d{1,4})\)/.exec(error.message)?.[1];
  if (number !== undefined) return -Number(number);
  return BY_CLASS.find(([errorClass]) => error instanceof errorClass)?.[1] ?? EIO;
}

/** What those that media give mean to an operator. */
const MEANINGS: ReadonlyMap<number, string> = new Map([
  [EIO, "the medium failed, or the image ends before it"],
  [ENOSPC, "the file system below the image is full"],
  [-122, "the quota below the image is used up"],
  [-30, "the file system below the image is read-only"],
  [-27, "the file system below the image takes no file that large"],
  [-12, "there is no memory for it"],
]);

/** A negative errno in words: `ENOSPC, the file system below the image is full`. */
export function errnoText(errno: number): string {
  const name = Object.entries(BY_CODE).find(([, value]) => value === errno)?.[0] ?? `errno ${-errno}`;
  const meaning = MEANINGS.get(errno);
  return meaning === undefined ? name : `${name}, ${meaning}`;
}

/** Whether the same call may simply be made again. */
export function isTransient(errno: number): boolean {
  return errno === EINTR || errno === EAGAIN;
}
