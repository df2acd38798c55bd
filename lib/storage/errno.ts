/**
 * The one place where a thrown error becomes a negative errno. Values are Linux's (asm-generic/errno.h).
 */

import {
  EACCES,
  EAGAIN,
  EBADF,
  EDQUOT,
  EFAULT,
  EFBIG,
  EINTR,
  EIO,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EROFS,
  errnoName,
  errnoValue,
  ETIMEDOUT,
} from "../errno.ts";

/** Deno error classes that may come without a code. */
const BY_CLASS: readonly (readonly [abstract new (...args: never[]) => Error, number])[] = [
  [Deno.errors.Interrupted, EINTR],
  [Deno.errors.WouldBlock, EAGAIN],
  [Deno.errors.BadResource, EBADF],
  [Deno.errors.PermissionDenied, EACCES],
  [Deno.errors.NotCapable, EACCES],
  [Deno.errors.NotFound, ENOENT],
  [Deno.errors.TimedOut, ETIMEDOUT],
  [RangeError, EFAULT],
];

/** The negative errno of anything that file I/O or a view of memory threw; -EIO if it names none. */
export function errnoOf(error: unknown): number {
  if (!(error instanceof Error)) return -EIO;
  const code = (error as Error & { readonly code?: unknown }).code;
  const known = typeof code === "string" ? errnoValue(code) : undefined;
  if (known !== undefined) return -known;
  const number = /\(os error (\d{1,4})\)/.exec(error.message)?.[1];
  if (number !== undefined) return -Number(number);
  return -(BY_CLASS.find(([errorClass]) => error instanceof errorClass)?.[1] ?? EIO);
}

/** What those that media give mean to an operator. */
const MEANINGS: ReadonlyMap<number, string> = new Map([
  [EIO, "the medium failed, or the image ends before it"],
  [ENOSPC, "the file system below the image is full"],
  [EDQUOT, "the quota below the image is used up"],
  [EROFS, "the file system below the image is read-only"],
  [EFBIG, "the file system below the image takes no file that large"],
  [ENOMEM, "there is no memory for it"],
]);

/** A negative errno in words: `ENOSPC, the file system below the image is full`. */
export function errnoText(errno: number): string {
  const name = errnoName(-errno);
  const meaning = MEANINGS.get(-errno);
  return meaning === undefined ? name : `${name}, ${meaning}`;
}

/** Whether the same call may simply be made again. */
export function isTransient(errno: number): boolean {
  return errno === -EINTR || errno === -EAGAIN;
}
