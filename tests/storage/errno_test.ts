/**
 * Errors of storage in words: every error that Linux's block devices return says what it means for a disk, and whatever a
 * file call throws becomes an errno.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { EIO, EMFILE, ENOENT, ERRNO } from "../../lib/errno.ts";
import { errnoOf, errnoText } from "../../lib/storage/errno.ts";
import { cannotOpen } from "../../lib/storage/image/explain.ts";

/** Of block/blk-core.c, blk_errors: the errors and their names. */
const BLOCK_ERRORS = {
  EOPNOTSUPP: "operation not supported",
  ETIMEDOUT: "timeout",
  ENOSPC: "critical space allocation",
  ENOLINK: "recoverable transport",
  EREMOTEIO: "critical target",
  EBADE: "reservation conflict",
  ENODATA: "critical medium",
  EILSEQ: "protection",
  EBUSY: "device resource",
  EAGAIN: "nonblocking retry",
  ENODEV: "device offline",
  EREMCHG: "dm internal retry",
  ETOOMANYREFS: "open zones exceeded",
  EOVERFLOW: "active zones exceeded",
  ETIME: "duration limit exceeded",
  EINVAL: "invalid",
} as const;

Deno.test("every error of a block device has its name, its meaning for a disk, and the kernel's words", () => {
  for (const [name, words] of Object.entries(BLOCK_ERRORS)) {
    const text = errnoText(-ERRNO[name as keyof typeof ERRNO]);
    assertMatch(text, new RegExp(`^${name}, .*\\(${words}`));
  }
  assertEquals(errnoText(-ERRNO.ENODATA), "ENODATA, the medium is damaged there (critical medium error)");
  assertEquals(errnoText(-EIO), "EIO, the medium failed or is full, or the image ends before it");
  assertEquals([errnoText(-ERRNO.EDOM), errnoText(-999)], ["EDOM", "errno 999"]);
});

Deno.test("what a file call throws becomes an errno, by its code, its number or its class", () => {
  assertEquals(errnoOf(Object.assign(new Error("no"), { code: "EREMOTEIO" })), -ERRNO.EREMOTEIO);
  assertEquals(errnoOf(new Error("Too many open files (os error 24): open '/a'")), -EMFILE);
  assertEquals(errnoOf(new Deno.errors.NotFound("no")), -ENOENT);
  assertEquals([errnoOf("what"), errnoOf(new Error("what"))], [-EIO, -EIO]);
});

Deno.test("an image that cannot be opened for want of something says what to raise or to free", () => {
  const line = (code: string): string => cannotOpen("/a", false, Object.assign(new Error("no"), { code })).line;
  assertEquals(
    ["EMFILE", "ENFILE", "ENOSPC", "EDQUOT", "ENOMEM", "ENOENT", "ESTALE", "ENXIO"].map(line),
    [
      "this process has as many files open as it may; raise the limit of open files (LimitNOFILE=, ulimit -n)",
      "this machine has as many files open as it may; raise the limit (sysctl fs.file-max)",
      "the file system is full; free space on it, or enlarge it",
      "the quota of its file system is used up; raise the quota, or free space",
      "there is not enough memory; free memory, or raise the control group's limit",
      "there is no such file; create it, for instance with `truncate -s 1G /a`",
      "its file server does not know it any more (ESTALE); mount the file system again",
      "there is no device behind it (ENXIO); connect the device, or name another image",
    ].map((text) => `Cannot open image /a: ${text}`),
  );
  // What is only to be read would be empty.
  const missing = Object.assign(new Error("no"), { code: "ENOENT" });
  assertEquals(cannotOpen("/a", true, missing).line, "Cannot open image /a: there is no such file; check the path");
});
