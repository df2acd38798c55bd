/**
 * Builds the bench's C programs with gcc when they are needed. So a run measures what the compiler of this machine makes
 * of them.
 */

const COMPILER = "gcc";

/** Why there can be no C programs. */
export const MISSING_COMPILER = "gcc is missing (Debian package gcc)";

/**
 * Builds a program from one source beside this file, and returns its path; undefined without a compiler. Throws Error
 * with the compiler's message if that fails.
 */
export async function compile(
  source: string,
  directory: string,
  libraries: readonly string[] = [],
): Promise<string | undefined> {
  const path = new URL(`./${source}`, import.meta.url).pathname;
  const program = `${directory}/${source.replace(/\.c$/, "")}`;
  const args = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, path];
  const command = new Deno.Command(COMPILER, {
    args: [...args, ...libraries.map((name) => `-l${name}`)],
    stdin: "null",
    stdout: "null",
  });
  let result: Deno.CommandOutput;
  try {
    result = await command.output();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  if (!result.success) throw new Error(`Cannot build ${path}: ${new TextDecoder().decode(result.stderr)}`);
  return program;
}
