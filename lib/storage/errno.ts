/**
 * The one place where a thrown error becomes a negative errno. Values are Linux's (asm-generic/errno.h).
 */

import {
  EACCES,
  EAGAIN,
  EBADE,
  EBADF,
  EBADMSG,
  EBUSY,
  EDQUOT,
  EFAULT,
  EFBIG,
  EILSEQ,
  EINTR,
  EINVAL,
  EIO,
  EMFILE,
  ENFILE,
  ENODATA,
  ENODEV,
  ENOENT,
  ENOLINK,
  ENOMEDIUM,
  ENOMEM,
  ENOSPC,
  ENOTCONN,
  ENXIO,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  EREMCHG,
  EREMOTEIO,
  EROFS,
  errnoName,
  errnoValue,
  ESHUTDOWN,
  ESTALE,
  ETIME,
  ETIMEDOUT,
  ETOOMANYREFS,
  EUCLEAN,
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

/**
 * What media and file systems return, for an operator. Of block devices: all of blk_errors in Linux's block/blk-core.c,
 * whose names stand in parentheses.
 */
const MEANINGS: ReadonlyMap<number, string> = new Map([
  [EIO, "the medium failed or is full, or the image ends before it"],
  [EOPNOTSUPP, "the disk does not carry out this operation (operation not supported)"],
  [ETIMEDOUT, "the disk, or the path to it, did not answer in time (timeout)"],
  [
    ENOSPC,
    "the file system below the image is full, the overlay of filter cow is full, or a thin device has no space left " +
    "(critical space allocation)",
  ],
  [ENOLINK, "the path to the disk failed; it may come back (recoverable transport error)"],
  [EREMOTEIO, "the disk reports that it failed (critical target error)"],
  [EBADE, "another host has reserved the disk (reservation conflict)"],
  [ENODATA, "the medium is damaged there (critical medium error)"],
  [EILSEQ, "the data and their checksum differ (protection error)"],
  [ENOMEM, "there is no memory for it"],
  [EBUSY, "the disk has no room for the request now (device resource error)"],
  [EAGAIN, "the disk or file system would have to wait (nonblocking retry)"],
  [ENODEV, "the disk is gone or switched off (device offline)"],
  [EREMCHG, "the device mapper could not repeat the request (dm internal retry)"],
  [ETOOMANYREFS, "too many zones of the disk are open (open zones exceeded)"],
  [EOVERFLOW, "too many zones of the disk are active (active zones exceeded)"],
  [ETIME, "the disk gave up after its time limit (duration limit exceeded)"],
  [EINVAL, "the disk or file system takes no such request (invalid)"],
  [ENXIO, "there is no device behind the image"],
  [ENOMEDIUM, "there is no medium in the drive"],
  [EDQUOT, "the quota below the image is used up"],
  [EROFS, "the file system below the image is read-only, perhaps since an error"],
  [EPERM, "the device is read-only"],
  [EFBIG, "the file system below the image takes no file that large"],
  [ESTALE, "the file server does not know the image any more"],
  [ENOTCONN, "the process that serves the file system below the image has ended"],
  [ESHUTDOWN, "the connection to the disk is shut down"],
  [EUCLEAN, "the file system below the image is damaged"],
  [EBADMSG, "a checksum of the file system below the image is wrong"],
  [EMFILE, "this process has as many files open as it may"],
  [ENFILE, "this machine has as many files open as it may"],
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
