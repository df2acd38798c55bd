/**
 * What a person reads when a C library cannot be loaded: every name tried, why, and the way out.
 */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { lazily, type LibrarySource, openLibrary } from "../../ffi/linux/library.ts";
import { XenblkError } from "../../lib/errors.ts";
import { runScript } from "./child.ts";

const SOURCE: LibrarySource = {
  name: "libnowhere",
  sonames: ["libnowhere.so.2", "libnowhere.so.1"],
  debianPackage: "libnowhere2",
  variable: "XENBLK_TEST_LIBNOWHERE",
};

Deno.test("if no name of a library is found, the error has all names, the package and the variable", () => {
  const error = assertThrows(() => openLibrary(SOURCE, {}), XenblkError);
  assertEquals(error.kind, "hypervisor");
  assertEquals(error.exitStatus, 5);
  assertEquals(
    error.line,
    "Cannot load libnowhere: " +
      "libnowhere.so.2: cannot open shared object file: No such file or directory; " +
      "libnowhere.so.1: cannot open shared object file: No such file or directory; " +
      "install the Debian package libnowhere2 (apt-get install libnowhere2), " +
      "or name the file in XENBLK_TEST_LIBNOWHERE",
  );
});

Deno.test("a file named by the variable is the only one tried", () => {
  Deno.env.set(SOURCE.variable, "/nowhere/lib.so");
  try {
    const error = assertThrows(() => openLibrary({ ...SOURCE, sonames: ["libc.so.6"] }, {}), XenblkError);
    assertEquals(
      error.line,
      "Cannot load libnowhere: /nowhere/lib.so: cannot open shared object file: No such file or directory; " +
        "correct XENBLK_TEST_LIBNOWHERE, or unset it to search for libc.so.6",
    );
  } finally {
    Deno.env.delete(SOURCE.variable);
  }
});

Deno.test("a library that lacks a function says which", () => {
  const symbols = { no_such_function: { parameters: [], result: "void" } } as const;
  const error = assertThrows(() => openLibrary({ ...SOURCE, sonames: ["libc.so.6"] }, symbols), XenblkError);
  assertStringIncludes(error.message, "libc.so.6: ");
  assertStringIncludes(error.message, "no_such_function");
});

// Resources are not checked: openLibrary opens the C library for itself too, once and for good.
Deno.test("the second name is taken where the first is missing", { sanitizeResources: false }, () => {
  const symbols = { getpid: { parameters: [], result: "i32" } } as const;
  const library = openLibrary({ ...SOURCE, sonames: ["libnowhere.so.2", "libc.so.6"] }, symbols);
  assertEquals(library.symbols.getpid(), Deno.pid);
  library.close();
});

Deno.test("lazily opens once, and again after a failure", () => {
  let calls = 0;
  const value = lazily(() => {
    if (++calls === 1) throw new Error("not yet");
    return { calls };
  });
  assertThrows(value, Error, "not yet");
  assertEquals(value(), { calls: 2 });
  assertEquals(value() === value(), true);
});

Deno.test("without --allow-ffi the error names the missing permission, not a missing library", async () => {
  const script = `
    import { openNativePlatform } from "./ffi/platform.ts";
    try {
      openNativePlatform().openXenstore();
    } catch (error) {
      console.log(error.kind, error.line);
    }`;
  const { stdout, stderr } = await runScript(script, []);
  assertEquals(
    stdout,
    "hypervisor Cannot load the C library: Deno may not call C libraries; " +
      "run deno with --allow-ffi, not limited to paths: pointers need it whole\n",
    stderr,
  );
});

Deno.test("a variable that may not be read counts as unset; one that may be is obeyed", async () => {
  const script = `
    import { openLibrary } from "./ffi/linux/library.ts";
    const source = { name: "libnowhere", sonames: ["libnowhere.so.2"], debianPackage: "p", variable: "XENBLK_LIBX" };
    try {
      openLibrary(source, {});
    } catch (error) {
      console.log(error.message);
    }`;
  const env = { XENBLK_LIBX: "/other/file.so" };
  const denied = await runScript(script, ["--allow-ffi"], env);
  assertStringIncludes(denied.stdout, "Cannot load libnowhere: libnowhere.so.2: ");
  const granted = await runScript(script, ["--allow-ffi", "--allow-env=XENBLK_LIBX"], env);
  assertStringIncludes(granted.stdout, "Cannot load libnowhere: /other/file.so: ");
});
