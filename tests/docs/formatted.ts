/**
 * Text as `deno fmt` leaves it, so that a file that is written by a script passes the check of the format.
 */

import { ROOT } from "../house/source.ts";

/** The text of a file with this extension, formatted by the settings of the checkout. */
export async function formatted(text: string, extension: "md" | "svg"): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", `--ext=${extension}`, "-"],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const output = new Response(child.stdout).text();
  const input = child.stdin.getWriter();
  await input.write(new TextEncoder().encode(text));
  await input.close();
  if (!(await child.status).success) throw new Error(`Cannot format this as ${extension}: ${text.slice(0, 200)}`);
  return await output;
}
