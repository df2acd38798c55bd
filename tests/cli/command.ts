/**
 * Runs the command as a user does, in a process of its own,
 * and returns its output and exit status.
 */

import { ROOT } from "../house/source.ts";

/** The output and exit status of a run. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** How to run the command, besides its arguments. */
export interface RunOptions {
  /** Deno's permissions; all if absent. */
  readonly permissions?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs `xenblk <args>` to its end. */
export async function xenblk(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { code, stdout, stderr } = await command(args, options).output();
  const decoder = new TextDecoder();
  return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Starts `xenblk <args>` with piped output, for tests that signal it or read as it goes. */
export function startXenblk(args: readonly string[], options: RunOptions = {}): Deno.ChildProcess {
  return command(args, options).spawn();
}

/** The words of `xenblk <args>`, for a program that runs it. */
export function xenblkCommand(args: readonly string[], permissions: readonly string[] = ["-A"]): string[] {
  return [Deno.execPath(), "run", "--no-prompt", ...permissions, `${ROOT}cli.ts`, ...args];
}

function command(args: readonly string[], { permissions = ["-A"], env = {} }: RunOptions): Deno.Command {
  const [program, ...rest] = xenblkCommand(args, permissions);
  return new Deno.Command(program!, {
    args: rest,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}
