/**
 * Evaluates C expressions over Xen's public headers with gcc: for x86_64 by running a program, for x86_32 by reading
 * the assembly of a constant array, so that no 32-bit libc is needed.
 */

/** The target of a C expression. `run` compiles and runs; the others only compile. */
export type Target = "x86_64 run" | "x86_64" | "x86_32";

const HEADER = "/usr/include/xen/io/blkif.h";

/** What is missing on this machine, with its Debian package; undefined if expressions can be evaluated. */
export async function missingPart(): Promise<string | undefined> {
  if (Deno.build.arch !== "x86_64" || Deno.build.os !== "linux") return "the headers are compared on x86_64 Linux only";
  try {
    await Deno.stat(HEADER);
  } catch {
    return `${HEADER} is missing (Debian package libxen-dev)`;
  }
  try {
    await new Deno.Command("gcc", { args: ["--version"], stdout: "null", stderr: "null" }).output();
  } catch {
    return "gcc is missing (Debian package gcc)";
  }
  return undefined;
}

/** Whether something is missing; if so, it reports on standard error that the test is ignored. */
export async function reportMissingPart(test: string): Promise<boolean> {
  const missing = await missingPart();
  if (missing === undefined) return false;
  await Deno.stderr.write(new TextEncoder().encode(`ignored: ${test}: ${missing}\n`));
  return true;
}

/** Added to each value, because gcc does not write runs of zeroes as numbers. */
const BIAS = 1_000_000;

const PREAMBLE = `
#include <stddef.h>
#include <stdint.h>
#include <xen/xen.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>
#include <xen/io/xenbus.h>
`;

/** Values of integer expressions over blkif.h, ring.h, protocols.h, xenbus.h and xen.h, each within +-10^6. */
export async function evaluate(expressions: readonly string[], target: Target): Promise<number[]> {
  const directory = await Deno.makeTempDir({ prefix: "xenblk-headers-" });
  try {
    const output = target === "x86_64 run"
      ? await compileAndRun(directory, expressions)
      : await compileToAssembly(directory, expressions, target);
    if (output.length !== expressions.length) {
      throw new Error(`asked gcc for ${expressions.length} values, got ${output.length}`);
    }
    return output;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** The text of C string literals behind macros, on x86_64. */
export async function evaluateStrings(macros: readonly string[]): Promise<string[]> {
  const directory = await Deno.makeTempDir({ prefix: "xenblk-headers-" });
  try {
    const prints = macros.map((macro) => `  puts(${macro});`).join("\n");
    return (await runProgram(directory, prints)).trimEnd().split("\n");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

async function compileAndRun(directory: string, expressions: readonly string[]): Promise<number[]> {
  const prints = expressions.map((expression) => `  printf("%ld\\n", (long)(${expression}));`).join("\n");
  return (await runProgram(directory, prints)).trimEnd().split("\n").map(Number);
}

async function runProgram(directory: string, statements: string): Promise<string> {
  const source = `${directory}/facts.c`;
  await Deno.writeTextFile(source, `#include <stdio.h>${PREAMBLE}int main(void) {\n${statements}\n  return 0;\n}\n`);
  await command("gcc", ["-o", `${directory}/facts`, source]);
  return await command(`${directory}/facts`, []);
}

async function compileToAssembly(directory: string, expressions: readonly string[], target: Target): Promise<number[]> {
  const source = `${directory}/facts.c`;
  const values = expressions.map((expression) => `  (int)(${expression}) + ${BIAS},`).join("\n");
  await Deno.writeTextFile(source, `${PREAMBLE}const int facts[] = {\n${values}\n};\n`);
  const width = target === "x86_32" ? "-m32" : "-m64";
  const assembly = await command("gcc", [width, "-ffreestanding", "-S", "-o", "-", source]);
  return [...assembly.matchAll(/^\s+\.long\s+(-?\d+)$/gm)].map((match) => Number(match[1]) - BIAS);
}

async function command(name: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(name, { args }).output();
  if (!success) throw new Error(`${name} failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}
