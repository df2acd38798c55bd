/**
 * Runs a short command without blocking this thread, and with a time limit: a command can wait for a disk that is dead.
 */

import { errorText } from "../../errors.ts";
import { endsWithin } from "../../within.ts";

/** How soon a command that was killed is gone, unless the kernel keeps it. */
const KILLED_MS = 500;

/** What became of a command. */
export interface CommandEnd {
  /** It ended by itself, with status 0. */
  readonly success: boolean;
  /** What it wrote to its standard output. */
  readonly output: string;
  /** Why it failed: the last line that it wrote to its standard error, or its status. */
  readonly reason: string;
}

/** Runs a command in an environment of PATH alone; kills it if it takes too long. Never rejects. */
export async function runWithin(program: string, args: readonly string[], timeoutMs: number): Promise<CommandEnd> {
  const failure = (reason: string): CommandEnd => ({ success: false, output: "", reason });
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    const child = new Deno.Command(program, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      clearEnv: true,
      env: basicEnvironment(),
    }).spawn();
    child.unref();
    const late = new Promise<undefined>((resolve) => timer = setTimeout(() => resolve(undefined), timeoutMs));
    const ending = child.output();
    const end = await Promise.race([ending, late]);
    if (end === undefined) {
      killAtOnce(child);
      // One that waits for a dead disk ends when the kernel lets it.
      await endsWithin(ending.catch(() => {}), KILLED_MS);
      return failure(`it has not ended for ${timeoutMs / 1000} s`);
    }
    const decoder = new TextDecoder();
    const last = decoder.decode(end.stderr).trim().split("\n").at(-1);
    const status = end.signal === null ? `it ended with status ${end.code}` : `it was ended by ${end.signal}`;
    return { success: end.success, output: decoder.decode(end.stdout), reason: last || status };
  } catch (error) {
    return failure(errorText(error));
  } finally {
    clearTimeout(timer);
  }
}

/** What programs need of our environment: nothing that names our service, our terminal or our secrets. */
export function basicEnvironment(): Record<string, string> {
  const usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  return { PATH: usual, LC_ALL: "C" };
}

function killAtOnce(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch {
    // it has just ended
  }
}
