/**
 * `deno task graph`: prints the import graph by room and floor; status 1 if a cycle or an upward import is in it.
 * Deno's linter, which reads the files, works inside `deno test` only. So this program runs itself again there, with
 * the path of a file for the report as its argument.
 */

import { report } from "./graph.ts";
import { typeScriptFiles } from "./source.ts";

async function main(): Promise<void> {
  const path = await Deno.makeTempFile();
  try {
    const args = ["test", "-A", "--no-check", "--quiet", new URL(import.meta.url).pathname, "--", path];
    const { success, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
    if (!success) throw new Error(`cannot read the files: ${new TextDecoder().decode(stderr)}`);
    const { lines, inOrder }: ReturnType<typeof report> = JSON.parse(await Deno.readTextFile(path));
    await Deno.stdout.write(new TextEncoder().encode(lines.join("\n") + "\n"));
    Deno.exitCode = inOrder ? 0 : 1;
  } finally {
    await Deno.remove(path);
  }
}

const [path] = Deno.args;
if (import.meta.main && path === undefined) await main();
else if (path !== undefined) Deno.writeTextFileSync(path, JSON.stringify(report(typeScriptFiles())));
