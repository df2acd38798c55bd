/**
 * Builds the C sources of tests/native/src with gcc into tests/native/build/<hash of sources>/: stand-ins for the Xen
 * libraries, the tool that acts as hypervisor and toolstack, the file system that hangs, and the C test program. Nothing
 * is built twice. As a program it builds and prints the directory. harness.ts uses the results.
 */

const SOURCES = new URL("./src/", import.meta.url);
const BUILD = new URL("./build/", import.meta.url);

const COMPILER = "gcc";
const FLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-pthread"];
const MACHINE = ["machine.c", "events.c", "grants.c"];

/** Each file to build, with its compiler arguments. The compiler runs in the folder of the sources. */
const TARGETS: Readonly<Record<string, readonly string[]>> = {
  "libxengnttab.so.1": [...library("libxengnttab"), "gnttab.c", "gntshr.c", ...MACHINE],
  "libxenevtchn.so.1": [...library("libxenevtchn"), "evtchn.c", ...MACHINE],
  "libxencall.so.1": [...library("libxencall"), "call.c", ...MACHINE],
  "libxenforeignmemory.so.1": [...library("libxenforeignmemory"), "foreignmemory.c"],
  "xsd_shim.so": ["-shared", "xsd_shim.c"],
  "flush_shim.so": ["-shared", "flush_shim.c"],
  "hanging_fs": ["hanging_fs.c"],
  "fakectl": ["fakectl.c", "fakectl_store.c", "fakectl_copy.c", ...MACHINE, "-lxenstore"],
  "fake_test": [
    "fake_test.c",
    "fake_test_grants.c",
    "fake_test_events.c",
    "fake_test_churn.c",
    "-lxengnttab",
    "-lxenevtchn",
  ],
};

function library(name: string): string[] {
  return ["-shared", `-Wl,-soname,${name}.so.1`, `-Wl,--version-script=${name}.map`];
}

function exists(path: string | URL): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

function compilerRuns(): boolean {
  try {
    return new Deno.Command(COMPILER, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** Names a missing part of the build and its Debian package. Undefined if nothing is missing. */
export function missingBuildParts(): string | undefined {
  if (!compilerRuns()) return "gcc is missing (Debian package gcc)";
  if (!exists("/usr/include/stdio.h")) return "the C library's headers are missing (Debian package libc6-dev)";
  if (!exists("/usr/include/xengnttab.h")) return "Xen's public headers are missing (Debian package libxen-dev)";
  return undefined;
}

async function sourcesHash(): Promise<string> {
  const names = [...Deno.readDirSync(SOURCES)].map((entry) => entry.name).sort();
  const texts = names.map((name) => `${name}\n${Deno.readTextFileSync(new URL(name, SOURCES))}`);
  const all = JSON.stringify([FLAGS, TARGETS]) + texts.join("\n");
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(all));
  return Array.from(new Uint8Array(digest).subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function compile(target: string, args: readonly string[], directory: string): Promise<void> {
  const command = new Deno.Command(COMPILER, {
    args: [...FLAGS, "-o", `${directory}/${target}`, ...args],
    cwd: SOURCES,
    stdout: "null",
    stderr: "piped",
  });
  const { success, stderr } = await command.output();
  if (!success) throw new Error(`Cannot build ${target}: ${new TextDecoder().decode(stderr)}`);
}

/**
 * Builds the parts unless they exist. Returns the absolute path of the directory with the results.
 * Throws Error with the compiler's messages, or with the missing package.
 */
export async function buildNative(): Promise<string> {
  const finished = new URL(`${await sourcesHash()}/`, BUILD);
  if (exists(finished)) return finished.pathname.slice(0, -1);
  const missing = missingBuildParts();
  if (missing !== undefined) throw new Error(`Cannot build the native test parts: ${missing}`);
  Deno.mkdirSync(BUILD, { recursive: true });
  // Built in another directory and renamed at the end, because several test processes may build at the same time.
  const aside = Deno.makeTempDirSync({ dir: BUILD.pathname, prefix: "unfinished-" });
  try {
    await Promise.all(Object.entries(TARGETS).map(([target, args]) => compile(target, args, aside)));
    Deno.renameSync(aside, finished);
  } catch (error) {
    Deno.removeSync(aside, { recursive: true });
    if (!exists(finished)) throw error;
  }
  return finished.pathname.slice(0, -1);
}

if (import.meta.main) {
  // deno-lint-ignore no-console
  console.log(await buildNative());
}
