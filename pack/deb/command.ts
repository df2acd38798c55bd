/**
 * Runs the programs with which the Debian package is made: npm, tar, dpkg-deb and the command itself.
 */

import { XenblkError } from "../../lib/errors.ts";

/** A program's output. Rejects with {@linkcode XenblkError} if the program fails or is not installed. */
export async function succeeds(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  const decoder = new TextDecoder();
  try {
    const { success, stdout, stderr } = await new Deno.Command(program, { args: [...args], env, stdin: "null" })
      .output();
    if (success) return decoder.decode(stdout);
    throw new XenblkError(`Cannot make the Debian package: ${program} failed: ${decoder.decode(stderr).trim()}`);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new XenblkError(`Cannot make the Debian package: there is no ${program} on the path`, {
      remedy: "install it: npm is part of Node.js, and dpkg-deb of dpkg",
    });
  }
}
