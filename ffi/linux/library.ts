/**
 * Opens C libraries: lazily, by a list of sonames or by the file that an environment variable names, with an error that
 * says what was tried and what to do.
 */

import { errorText, XenblkError } from "../../lib/errors.ts";

/** How one C library is found. */
export interface LibrarySource {
  /** For people: `libxengnttab`. */
  readonly name: string;
  /** Tried in this order; the dynamic linker searches for them (LD_LIBRARY_PATH included). */
  readonly sonames: readonly string[];
  /** The Debian package that has it. */
  readonly debianPackage: string;
  /** The environment variable that, if set, names the only file to try. */
  readonly variable: string;
}

/**
 * Opens a library. Throws {@linkcode XenblkError} of kind `hypervisor` that lists every name tried with its reason, or
 * that says which Deno permission is missing.
 */
export function openLibrary<const S extends Deno.ForeignLibraryInterface>(
  source: LibrarySource,
  symbols: S,
): Deno.DynamicLibrary<S> {
  const override = overrideOf(source.variable);
  const reasons: string[] = [];
  for (const file of override === undefined ? source.sonames : [override]) {
    try {
      const library = Deno.dlopen(file, symbols);
      keepLoaded(file);
      return library;
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw permissionError(source.name, error);
      reasons.push(`${file}: ${reasonOf(error, file)}`);
    }
  }
  throw new XenblkError(`Cannot load ${source.name}: ${reasons.join("; ")}`, {
    kind: "hypervisor",
    remedy: override === undefined
      ? `install the Debian package ${source.debianPackage} (apt-get install ${source.debianPackage}), ` +
        `or name the file in ${source.variable}`
      : `correct ${source.variable}, or unset it to search for ${source.sonames.join(", ")}`,
  });
}

const RTLD_NOW_NODELETE = 0x1002;

const linker = lazily(() =>
  Deno.dlopen("libc.so.6", {
    dlopen: { parameters: ["buffer", /* filename */ "i32" /* flags */], result: "pointer", optional: true },
  }).symbols
);

/**
 * Keeps a library's code for as long as the process lives. Deno unloads a thread's libraries when the thread ends, also
 * if the library has started threads of its own; the process would then end by SIGSEGV. Where
 * the C library has no dlopen (glibc before 2.34) handles must be closed before the end.
 */
function keepLoaded(file: string): void {
  linker().dlopen?.(new TextEncoder().encode(file + "\0"), RTLD_NOW_NODELETE);
}

/** A function that calls `open` at its first call and gives the same result ever after. */
export function lazily<T>(open: () => T): () => T {
  let opened: { readonly value: T } | undefined;
  return (): T => (opened ??= { value: open() }).value;
}

/** The variable's value. Without permission to read it, it counts as unset: asking at a terminal would be a nuisance. */
function overrideOf(variable: string): string | undefined {
  if (Deno.permissions.querySync({ name: "env", variable }).state !== "granted") return undefined;
  return Deno.env.get(variable) || undefined;
}

function permissionError(name: string, cause: Error): XenblkError {
  return new XenblkError(`Cannot load ${name}: Deno may not call C libraries`, {
    kind: "hypervisor",
    remedy: "run deno with --allow-ffi, not limited to paths: pointers need it whole",
    cause,
  });
}

/** The dynamic linker's reason, without Deno's introduction and without the name that is printed anyway. */
function reasonOf(error: unknown, file: string): string {
  const text = errorText(error);
  const end = text.lastIndexOf(`${file}: `);
  return end === -1 ? text : text.slice(end + file.length + 2);
}
