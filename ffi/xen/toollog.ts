/**
 * Silences the Xen libraries' own logger: libxengnttab prints a line to stderr for each invalid grant of a guest, so a
 * guest could flood the log. The failures are still returned as errno.
 */

import { LIBC_SOURCE } from "../linux/libc.ts";
import { lazily, openLibrary } from "../linux/library.ts";

const SYMBOLS = {
  xtl_createlogger_stdiostream: {
    parameters: ["pointer", /* f */ "i32", /* min_level */ "u32" /* flags */],
    result: "pointer",
  },
} as const satisfies Deno.ForeignLibraryInterface;

const STDIO = { stderr: { type: "pointer" } } as const satisfies Deno.ForeignLibraryInterface;

/** One above XTL_CRITICAL, the highest level of xentoollog.h. */
const XTL_NUM_LEVELS = 10;
const XTL_STDIOSTREAM_HIDE_PROGRESS = 4;

/**
 * A logger that prints nothing, or null (the library then makes its own) where libxentoollog is not to be had:
 * a libxengnttab without it has no logger to silence.
 */
export const silentLogger: () => Deno.PointerValue = lazily(() => {
  try {
    const { xtl_createlogger_stdiostream } = openLibrary({
      name: "libxentoollog",
      sonames: ["libxentoollog.so.1"],
      debianPackage: "libxentoollog1",
      variable: "XENBLK_LIBXENTOOLLOG",
    }, SYMBOLS).symbols;
    const { stderr } = openLibrary(LIBC_SOURCE, STDIO).symbols;
    return xtl_createlogger_stdiostream(stderr, XTL_NUM_LEVELS, XTL_STDIOSTREAM_HIDE_PROGRESS);
  } catch {
    return null;
  }
});
