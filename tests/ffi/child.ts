/**
 * Runs a script in a Deno process of its own, with permissions and an environment of its own. Relative imports in it
 * start at the project's root.
 */

const ROOT = new URL("../../", import.meta.url);

/** What a script printed and how it ended. */
export interface ScriptResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `script` by `deno run` with `args` (permissions) and `env` beside this process's environment. */
export async function runScript(
  script: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<ScriptResult> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", ...args, "-"],
    cwd: ROOT,
    env,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(script));
  await writer.close();
  const { code, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}
